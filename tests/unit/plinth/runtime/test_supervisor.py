import os
from pathlib import Path

import pytest

from plinth.errors import Unavailable
from plinth.runtime.supervisor import LONGEST_SOCKET_PATH, Supervisor, _make_private, socket_path


def test_the_socket_lies_in_the_state_folder_unless_that_path_is_too_long(tmp_path):
    assert socket_path(Path("/srv/plinth")) == Path("/srv/plinth/run/supervisor.sock")
    long = tmp_path / ("x" * 60) / ("y" * 60)
    assert len(os.fsencode(socket_path(long))) <= LONGEST_SOCKET_PATH
    assert socket_path(long) != socket_path(long / "other")


def test_a_folder_that_others_may_write_to_is_no_place_for_the_socket(tmp_path):
    folder = tmp_path / "shared"
    folder.mkdir(mode=0o700)
    _make_private(folder)
    folder.chmod(0o777)
    with pytest.raises(Unavailable, match="not ours alone"):
        _make_private(folder)


def test_without_a_supervisor_there_is_no_pid_and_no_process(tmp_path):
    supervisor = Supervisor(tmp_path)
    assert supervisor.pid() is None
    assert supervisor.processes() == {}
    assert supervisor.stop() is False
