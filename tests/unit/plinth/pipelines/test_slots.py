import os
import signal
import subprocess
import sys
import time

import pytest

from plinth.errors import Conflict, Unavailable
from plinth.pipelines.slots import slot


def test_more_runs_than_slots_are_refused_after_the_wait(tmp_path):
    with slot(tmp_path, limit=2, wait=0), slot(tmp_path, limit=2, wait=0):
        started = time.monotonic()
        with pytest.raises(Conflict, match="going on already"), slot(tmp_path, limit=2, wait=0.2):
            pass
        assert time.monotonic() - started >= 0.2
    with slot(tmp_path, limit=2, wait=0):
        pass


def test_a_killed_holder_gives_its_slot_back(tmp_path):
    code = (
        "import pathlib, sys, time\nfrom plinth.pipelines.slots import slot\n"
        "with slot(pathlib.Path(sys.argv[1]), limit=1, wait=0):\n    print('held', flush=True)\n    time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(Conflict), slot(tmp_path, limit=1, wait=0):
            pass
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        with slot(tmp_path, limit=1, wait=0):
            pass
    finally:
        holder.kill()
        holder.communicate()


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Unavailable, match="cannot be written"), slot(tmp_path / "file" / "runs", limit=1, wait=0):
        pass
