"""Processes that belong to a state folder, found by what they inherited and not by what they are called.

Everything `plinth up` starts carries the state folder in its environment, and so do its children. That finds them
when the supervisor was killed and cannot be asked any more.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

MARKER = "PLINTH_SUPERVISED"
SERVICE = "PLINTH_SERVICE"
# The supervisor gives its services 10 s (stopwaitsecs); what is left after it was asked to end before.
SUPERVISOR_GRACE_SECONDS = 12.0
GRACE_SECONDS = 3.0


def find(state: Path, service: str = "") -> list[psutil.Process]:
    """Living processes of a state folder, or of one of its services; never this process or one above it."""
    import psutil

    me = psutil.Process()
    spared = {me.pid, *(parent.pid for parent in me.parents())}
    found = []
    for process in psutil.process_iter():
        if process.pid in spared:
            continue
        # Other users' processes and ones that ended meanwhile cannot be read, and are not ours.
        with contextlib.suppress(psutil.Error, OSError):
            environment = process.environ()
            ours = environment.get(MARKER) == str(state)
            if ours and (not service or environment.get(SERVICE) == service):
                found.append(process)
    return found


def end(processes: Iterable[psutil.Process], grace: float = GRACE_SECONDS) -> int:
    """Ask processes to end, insist after `grace` seconds. Returns how many there were.

    psutil compares creation times before it signals, so a reused process id is never hit.
    """
    import psutil

    processes = list(processes)
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=grace)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=grace)
    return len(processes)


def end_all(state: Path) -> int:
    """End every process of a state folder, the supervisor first so that it does not restart the others."""
    import psutil

    def is_supervisor(process: psutil.Process) -> bool:
        try:
            return SERVICE not in process.environ()
        except (psutil.Error, OSError):
            return False

    everything = find(state)
    ended = end([process for process in everything if is_supervisor(process)], SUPERVISOR_GRACE_SECONDS)
    # What was started while the first ones ended is found by looking again.
    for _ in range(3):
        rest = find(state)
        if not rest:
            break
        ended += end(rest, GRACE_SECONDS)
    return ended


def describe(process: psutil.Process) -> str:
    """A process in words: its id and its command."""
    import psutil

    try:
        return f"process {process.pid} ({' '.join(process.cmdline()[:4]) or process.name()})"
    except psutil.Error:
        return f"process {process.pid}"


def own_environment(state: Path) -> dict[str, str]:
    """This process's environment with the marker of a state folder."""
    return {**os.environ, MARKER: str(state)}
