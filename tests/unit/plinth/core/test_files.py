import os
import stat

import pytest

from plinth.core.files import locked, new_file, write_whole
from plinth.errors import Conflict


@pytest.fixture
def umask():
    """Sets the umask for a test."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(("mask", "wanted"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_a_file_is_as_open_as_the_umask_lets_any_file_be(tmp_path, umask, mask, wanted):
    umask(mask)
    write_whole(tmp_path / "file", b"x")
    assert mode(tmp_path / "file") == wanted
    assert (tmp_path / "file").read_bytes() == b"x"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_with_secrets_stays_its_owners_under_every_umask(tmp_path, umask):
    umask(0)
    write_whole(tmp_path / "file", b"x", mode=0o600)
    assert mode(tmp_path / "file") == 0o600


def test_a_file_is_replaced_and_nothing_else_stays(tmp_path):
    path = tmp_path / "card.json"
    write_whole(path, b"old")
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["card.json"]


def test_what_cannot_be_written_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "card.json"
    write_whole(path, b"old")

    def full(_handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["card.json"]


def test_a_new_file_never_takes_the_name_of_another(tmp_path):
    handles = [new_file(tmp_path, ".x-") for _ in range(20)]
    assert len({name for _, name in handles}) == 20
    for handle, _ in handles:
        os.close(handle)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_writes_into_a_folder_that_is_handed_down_is_its_users(tmp_path):
    shared = tmp_path / "shared"
    (shared / "deep").mkdir(parents=True)
    for folder in (shared, shared / "deep"):
        folder.chmod(0o2770)
    os.chown(shared, 10001, 10001)
    os.chown(shared / "deep", 0, 10001)
    write_whole(shared / "deep" / "key", b"x", mode=0o600)
    found = (shared / "deep" / "key").stat()
    assert (found.st_uid, found.st_gid) == (10001, 10001)
    write_whole(tmp_path / "own", b"x")
    assert (tmp_path / "own").stat().st_uid == 0


def test_a_lock_is_held_by_one_and_goes_with_its_holder(tmp_path):
    path, busy = tmp_path / ".lock", Conflict("busy")
    for _ in range(2):
        with locked(path, busy), pytest.raises(Conflict, match="busy"), locked(path, busy, wait=0.2):
            pytest.fail("two hold it")
    assert mode(path) == 0o600
    with pytest.raises(FileNotFoundError), locked(tmp_path / "gone" / ".lock", busy):
        pytest.fail("there is no such folder")
