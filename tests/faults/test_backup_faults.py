"""A backup, and a restore, that die in the middle: half a backup is none, and half a restore is mended by another."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from patience import PATIENCE
from plinth.errors import Conflict, NotFound, Unavailable
from plinth.runtime.backup import manifest
from plinth.runtime.backup.folder import StatePart
from plinth.runtime.backup.run import alone, back_up, restore
from plinth.settings import Settings
from plinth.wiring import Platform

TESTS = Path(__file__).parents[1]
DIES = """
import sys
from pathlib import Path
from faults.test_backup_faults import World
from plinth.core import failpoints
world = World(Path(sys.argv[1]))
failpoints.arm(sys.argv[2] + ":kill")
getattr(world, sys.argv[2].partition(".")[0])()
"""


class OtherPart(StatePart):
    name = "other"


class Stack:
    """Containers of which it is only noted what is done to them."""

    def __init__(self):
        self.done = []

    def stop_writers(self):
        self.done.append("stopped")

    def start_stores(self):
        self.done.append("stores")

    def start(self):
        self.done.append("started")


class World:
    """Two folders of working files, and a ledger."""

    def __init__(self, folder):
        self.folder, self.to, self.stack = folder, folder / "backup", Stack()
        self.platform = Platform.from_settings(Settings(home=folder, state=folder / "state"))
        self.files = [folder / name / "products" / "file" for name in ("one", "two")]
        self.parts = [StatePart(folder / "one"), OtherPart(folder / "two")]

    def write(self, text):
        for file in self.files:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

    def read(self):
        return [file.read_text() for file in self.files]

    def backup(self):
        return back_up(self.platform, self.to, self.parts, project="p")

    def restore(self):
        return restore(self.platform, self.to, self.parts, self.stack)

    def actions(self):
        return [entry.action for entry in self.platform.ledger.audit()]


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    world.platform.ledger.append_audit("ada", "product.note", "p", {})
    world.write("kept")
    yield world
    world.platform.ledger.close()


def die(world, point):
    command = [sys.executable, "-c", DIES, str(world.folder), point]
    done = subprocess.run(command, cwd=TESTS, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_a_backup_that_is_killed_in_the_middle_is_none_and_another_is_made_beside_it(world):
    die(world, "backup.part")
    assert (world.to / "state").is_dir(), "nothing was written: the test shows nothing"
    with pytest.raises(NotFound):
        manifest.check(world.to)
    assert "backup.made" not in world.actions()
    world.to = world.folder / "another"
    world.backup()
    manifest.check(world.to)


def test_a_restore_that_is_killed_in_the_middle_leaves_everything_stopped_and_is_run_again(world):
    world.backup()
    world.write("changed")
    die(world, "restore.part")
    assert world.read() == ["kept", "changed"], "half of it: the failpoint is between two parts"
    assert "backup.restored" not in world.actions()
    world.restore()
    assert world.read() == ["kept", "kept"]
    assert world.stack.done == ["stopped", "stores", "started"]
    assert world.actions().count("backup.restored") == 1


class Crowded(OtherPart):
    """A part in whose middle somebody begins another backup and another restore."""

    name = "crowded"

    def __init__(self, folder, others):
        super().__init__(folder)
        self.others, self.refused = others, []

    def _crowd(self):
        for begin in self.others:
            with pytest.raises(Conflict, match="another backup or restore") as error:
                begin()
            self.refused.append(error.value.hint)

    def dump(self, folder):
        self._crowd()
        return super().dump(folder)

    def restore(self, folder):
        self._crowd()
        return super().restore(folder)


def test_no_backup_and_no_restore_begins_while_another_is_at_work(world):
    world.backup()
    second, again = World(world.folder), World(world.folder)
    second.to = world.folder / "second"
    crowded = Crowded(world.folder / "two", [second.backup, again.restore])
    world.parts.append(crowded)
    world.to = world.folder / "third"
    world.backup()
    assert not second.to.exists()
    world.write("changed")
    world.restore()
    assert world.read() == ["kept", "kept"]
    assert again.stack.done == [], "nothing was stopped"
    assert len(crowded.refused) == 4
    second.backup()  # the lock went with its holder
    manifest.check(second.to)
    for other in (second, again):
        other.platform.ledger.close()


def test_the_lock_outlives_a_restore_that_empties_its_folder(world):
    state, to = world.folder / "one", world.folder / "dump"
    to.mkdir()
    StatePart(state).dump(to)
    with alone(state):
        StatePart(state).restore(to)
        with pytest.raises(Conflict, match="at work"), alone(state):
            pytest.fail("the lock is another folder's")


def test_without_a_state_folder_a_backup_makes_none(world):
    state = world.platform.settings.state_dir
    shutil.rmtree(state)
    with pytest.raises(Unavailable, match="state folder cannot be opened"):
        world.backup()
    assert not state.exists()
    assert not world.to.exists()
