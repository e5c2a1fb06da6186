"""What the supervisor runs in front of every service: a few lines that set the stage and then become the service.

    python -P -m plinth.runtime.launch NAME

It ends what an earlier process of the same service left behind (a killed parent's workers hold its port), asks the
kernel to end the service if the supervisor dies, counts the start, and replaces itself by the service's command. The
commands come through the environment, which needs no quoting and survives a deleted state folder.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path

from plinth.runtime.leftovers import MARKER, SERVICE, end, find

COMMANDS = "PLINTH_LAUNCH"
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(name: str) -> None:
    """Become the service `name`; does not return."""
    state = Path(os.environ[MARKER])
    command = json.loads(os.environ.pop(COMMANDS))[name]
    _end_with_the_supervisor()
    end(find(state, name), grace=2.0)
    _count_start(state, name)
    with contextlib.suppress(OSError):
        os.chdir(command["directory"])
    os.execve(command["argv"][0], command["argv"], {**os.environ, **command["env"], SERVICE: name})  # noqa: S606 - no shell: the argument list is ours


def _end_with_the_supervisor() -> None:
    """Linux sends SIGTERM when the parent dies, and keeps that over exec. Elsewhere `plinth down` finds leftovers."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() == 1:
            sys.exit("the supervisor is gone")


def _count_start(state: Path, name: str) -> None:
    # The count is a nicety: a deleted state folder or a full disk must not keep a service from starting.
    with contextlib.suppress(OSError), (state / "run" / f"{name}.starts").open("a") as file:
        file.write(f"{os.getpid()} {time.time():.3f}\n")


if __name__ == "__main__":
    main(sys.argv[1])
