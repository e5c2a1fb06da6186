"""`.env` of the compose profile: written once, added to, never changed."""

import os
import re
import stat
import subprocess
import sys

import pytest

from plinth.core.environment import env_lines, read_env
from plinth.errors import Conflict, InvalidInput, NotFound
from plinth.runtime.compose_env import PORTS, SECRETS, Wanted, init, required, stale
from plinth.runtime.compose_state import CONTAINER_ID, MARKER, check_ours, empty_state


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.setenv("PLINTH_HOME", str(tmp_path / "w"))
    (tmp_path / "w" / "services").mkdir(parents=True)
    return tmp_path / "w"


def test_a_new_file_holds_every_variable_and_only_its_owner_reads_it(workspace):
    made = init(Wanted())
    assert made.created
    assert made.added == required()
    assert made.file == workspace / ".env"
    assert stat.S_IMODE(made.file.stat().st_mode) == 0o600
    assert stale(made.file) == []
    values = read_env(made.file)
    assert {name: int(values[name]) for name in PORTS} == PORTS
    assert re.fullmatch("plinth-[0-9a-f]{6}", values["COMPOSE_PROJECT_NAME"]), "another clone has another one"


def test_secrets_are_random_long_and_need_no_quoting(workspace, tmp_path, monkeypatch):
    first = read_env(init(Wanted()).file)
    monkeypatch.setenv("PLINTH_HOME", str(tmp_path / "v"))
    (tmp_path / "v" / "services").mkdir(parents=True)
    second = read_env(init(Wanted(project="second")).file)
    found = {values[name].removeprefix("admin:") for values in (first, second) for name in SECRETS}
    assert len(found) == 2 * len(SECRETS)
    assert all(len(value) >= 32 and value.isalnum() for value in found)


def test_a_second_run_changes_nothing(workspace):
    path = init(Wanted(project="mine", offset=1000)).file
    before = path.read_bytes(), path.stat().st_mtime_ns
    made = init(Wanted())
    assert (made.added, made.created, made.project) == ((), False, "mine")
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_a_stale_file_keeps_each_line_and_gets_what_is_missing(workspace):
    path = init(Wanted()).file
    old = "# my own words\nexport COMPOSE_PROJECT_NAME=mine\nVALKEY_PASSWORD='kept as it is'\nMY_OWN=1"
    path.write_text(old)
    (workspace / ".plinth" / "compose" / MARKER).write_text("mine\n")
    assert stale(path) == [name for name in required() if name not in ("COMPOSE_PROJECT_NAME", "VALKEY_PASSWORD")]
    made = init(Wanted())
    assert path.read_text().startswith(old + "\n")
    assert not made.created
    assert made.foreign == ("MY_OWN",)
    assert made.kept == ("COMPOSE_PROJECT_NAME", "VALKEY_PASSWORD")
    assert set(made.added) == set(required()) - set(made.kept)
    assert read_env(path)["PLINTH_ONLINE_STORE"] == "redis://:kept as it is@127.0.0.1:16379/0"
    assert stale(path) == []


def test_a_file_that_others_could_read_is_closed(workspace):
    path = init(Wanted()).file
    path.chmod(0o644)
    assert init(Wanted()).tightened
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_link_stays_a_link(workspace, tmp_path):
    (workspace / ".env").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").write_text("MY_OWN=1\n")
    init(Wanted())
    assert (workspace / ".env").is_symlink()
    assert "MY_OWN" in env_lines((tmp_path / "elsewhere").read_text(), tmp_path)


@pytest.mark.parametrize(
    "wanted", [Wanted(project="other"), Wanted(offset=5), Wanted(profiles=("llm",)), Wanted(state="x")]
)
def test_what_is_asked_for_never_changes_a_line_that_says_otherwise(workspace, wanted):
    path = init(Wanted()).file
    before = path.read_bytes()
    with pytest.raises(Conflict, match=r"and not"):
        init(Wanted(wanted.project, wanted.profiles, wanted.offset, workspace / "x" if wanted.state else None))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "wanted",
    [
        Wanted(project="Not A Name"), Wanted(project=""), Wanted(project="-x"), Wanted(profiles=("nothing",)),
        Wanted(offset=60000), Wanted(offset=-2500),
    ],
)  # fmt: skip
def test_wishes_that_do_not_fit_are_refused_and_nothing_is_written(workspace, wanted):
    with pytest.raises(InvalidInput):
        init(wanted)
    assert not (workspace / ".env").exists()


def test_outside_a_workspace_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("PLINTH_HOME", str(tmp_path))
    with pytest.raises(InvalidInput, match="no workspace"):
        init(Wanted())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["no equals sign = at all here\n", "A='open\n"])
def test_a_file_of_another_kind_is_refused_and_left(workspace, content):
    (workspace / ".env").write_text(content)
    with pytest.raises(InvalidInput, match="no NAME=value"):
        init(Wanted())
    assert (workspace / ".env").read_text() == content


def test_an_empty_secret_is_named_and_not_replaced(workspace):
    (workspace / ".env").write_text("VALKEY_PASSWORD=\n")
    with pytest.raises(InvalidInput, match="VALKEY_PASSWORD is empty"):
        init(Wanted())


def test_a_folder_in_its_place_is_refused(workspace):
    (workspace / ".env").mkdir()
    with pytest.raises(InvalidInput, match="cannot be read"):
        init(Wanted())


def test_two_at_once_write_one_file(workspace):
    run = "from plinth.runtime.compose_env import Wanted, init; print(len(init(Wanted()).added))"
    processes = [
        subprocess.Popen([sys.executable, "-c", run], stdout=subprocess.PIPE, text=True, env=os.environ.copy())
        for _ in range(4)
    ]
    added = sorted(int(process.communicate(timeout=120)[0]) for process in processes)
    assert added == [0, 0, 0, len(required())]
    text = (workspace / ".env").read_text()
    assert all(text.count(f"\n{name}=") == 1 for name in required())
    assert [path.name for path in workspace.iterdir() if path.name.startswith(".writing-")] == []


def test_observability_sends_to_its_collector(workspace):
    values = read_env(init(Wanted(profiles=("observability", "llm"))).file)
    assert values["COMPOSE_PROFILES"] == "observability,llm"
    assert values["COLLECTOR_URL"] == "http://collector:4318"


def test_the_shared_folder_is_the_containers_users(workspace):
    made = init(Wanted(project="mine"))
    values = read_env(made.file)
    assert made.state == workspace / ".plinth" / "compose"
    found = made.state.stat()
    if os.geteuid() == 0:
        assert (found.st_uid, found.st_gid) == (CONTAINER_ID, CONTAINER_ID)
        assert stat.S_IMODE(found.st_mode) == 0o2770
    else:
        assert stat.S_IMODE(found.st_mode) == 0o700
    assert (int(values["PLINTH_UID"]), int(values["PLINTH_GID"])) == (found.st_uid, found.st_gid)
    assert (made.state / MARKER).read_text() == "mine\n"


def test_a_folder_of_another_project_or_with_something_else_in_it_is_refused(workspace, tmp_path, monkeypatch):
    state = init(Wanted(project="mine", state=tmp_path / "shared")).state
    monkeypatch.setenv("PLINTH_HOME", str(tmp_path / "v"))
    (tmp_path / "v" / "services").mkdir(parents=True)
    with pytest.raises(Conflict, match="of the project 'mine'"):
        init(Wanted(project="yours", state=state))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    with pytest.raises(Conflict, match="not the compose profile's"):
        init(Wanted(project="yours", state=tmp_path / "full"))
    assert not (tmp_path / "v" / ".env").exists()


def test_only_a_folder_that_is_surely_ours_is_emptied(workspace, tmp_path):
    state = init(Wanted(project="mine", state=tmp_path / "shared")).state
    (state / "products" / "x").write_text("x")
    with pytest.raises(Conflict, match="of the project 'mine'"):
        empty_state(state, "yours", workspace)
    (state / MARKER).unlink()
    with pytest.raises(Conflict, match="not known"):
        check_ours(state, "mine", workspace)
    assert (state / "products" / "x").exists()
    (state / MARKER).write_text("mine\n")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    (state / "link").symlink_to(tmp_path / "precious")
    empty_state(state, "mine", workspace)
    assert not state.exists()
    assert (tmp_path / "precious" / "file").exists()


def test_a_folder_of_another_profile_in_the_workspace_is_not_emptied(workspace):
    for name in ("backups", "tests", "compose"):
        (workspace / ".plinth" / name).mkdir(parents=True)
    for name in ("backups", "tests"):
        with pytest.raises(Conflict, match="not known"):
            check_ours(workspace / ".plinth" / name, "plinth", workspace)
    check_ours(workspace / ".plinth" / "compose", "plinth", workspace)


def test_a_link_that_a_container_put_into_the_state_changes_nothing_outside_of_it(workspace, tmp_path):
    state = init(Wanted()).state
    (tmp_path / "etc").mkdir(mode=0o755)
    before = (tmp_path / "etc").stat()
    (state / "logs").rmdir()
    (state / "logs").symlink_to(tmp_path / "etc")
    with pytest.raises(InvalidInput, match="cannot be made"):
        init(Wanted())
    after = (tmp_path / "etc").stat()
    assert (after.st_uid, after.st_mode) == (before.st_uid, before.st_mode)


def test_without_a_file_there_is_nothing_to_be_stale(workspace):
    with pytest.raises(NotFound):
        stale(workspace / ".env")
