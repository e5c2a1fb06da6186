import threading

from plinth.runtime.logs import follow, last_lines


def test_the_last_lines_of_a_long_file_are_read_from_its_end(tmp_path):
    path = tmp_path / "x.log"
    path.write_text("".join(f"line {number} {'x' * 100}\n" for number in range(5000)))
    assert [line.split()[1] for line in last_lines(path, 3)] == ["4997", "4998", "4999"]
    assert len(last_lines(path, 10_000)) == 5000
    assert last_lines(path, 0) == []


def test_a_missing_file_has_no_lines(tmp_path):
    assert last_lines(tmp_path / "missing.log", 5) == []


def test_a_line_that_is_not_utf_8_is_shown_all_the_same(tmp_path):
    (tmp_path / "x.log").write_bytes(b"caf\xe9\nlast")
    assert last_lines(tmp_path / "x.log", 2) == ["caf\ufffd", "last"]


def test_what_is_added_is_followed_across_rotation_and_emptying(tmp_path):
    path = tmp_path / "x.log"
    path.write_text("before\n")
    lines = follow(path, poll=0.01)
    seen = []

    def read(count):
        reader = threading.Thread(target=lambda: seen.extend(next(lines) for _ in range(count)))
        reader.start()
        return reader

    reader = read(1)
    reader.join(0.1)  # it stands at the end now, and has nothing to read
    with path.open("a") as file:
        file.write("added\n")
    reader.join(5)
    path.rename(tmp_path / "x.log.1")
    path.write_text("rotated\n")
    read(1).join(5)
    path.write_text("")
    reader = read(1)
    reader.join(0.1)
    path.write_text("new\n")
    reader.join(5)
    lines.close()
    assert seen == ["added", "rotated", "new"]
