"""Named places where a test kills or stops this process (`PLINTH_FAILPOINT=name:kill`), to prove what a crash leaves.

Unarmed, which is always outside of tests, a failpoint is one comparison.
"""

from __future__ import annotations

import os
import signal
from typing import Literal, cast, get_args

from plinth.errors import InvalidInput

Name = Literal[
    "artifact.before-rename",
    "artifact.marked",
    "log.before-merge",
    "log.after-merge",
    "log.before-remove",
    "log.before-upload",
    "log.after-upload",
    "release.register",
    "promote.begin",
    "promote.before-commit",
    "promote.after-commit",
    "rollout.start.before-commit",
    "rollout.save.before-commit",
    "rollout.save.after-commit",
    "alias.before-write",
    "alias.after-write",
    "effect.before-done",
    "lease.after-acquire",
    "route.before-load",
    "route.after-load",
    "step.after-run",
    "index.before-add",
    "index.after-add",
    "index.before-complete",
    "index.after-complete",
    "index.before-manifest",
    "ledger.migrate.before-commit",
    "backup.part",
    "restore.part",
]
NAMES: tuple[str, ...] = get_args(Name)

_SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
_armed: tuple[str, signal.Signals] | None = None


def arm(text: str) -> None:
    """Arm the failpoint of `name:kill` (SIGKILL) or `name:stop` (SIGSTOP); "" disarms.

    Raises:
        InvalidInput: There is no such failpoint or action.
    """
    global _armed
    if not text:
        _armed = None
        return
    name, _, action = text.partition(":")
    if name not in NAMES or action not in _SIGNALS:
        raise InvalidInput(
            f"{text!r} is no failpoint", where="PLINTH_FAILPOINT",
            hint=f"NAME:kill or NAME:stop, with NAME one of {', '.join(NAMES)}",
        )  # fmt: skip
    _armed = (cast("Name", name), _SIGNALS[action])


def failpoint(name: Name) -> None:
    """A place where this process may be killed."""
    if _armed is not None and _armed[0] == name:
        os.kill(os.getpid(), _armed[1])
