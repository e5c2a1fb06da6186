"""The folder that the containers of the compose profile share with this machine: made, recognized, emptied."""

from __future__ import annotations

import os
from pathlib import Path

from plinth.core.files import clear
from plinth.errors import Conflict, InvalidInput

MARKER = ".plinth-compose"
CONTAINER_ID = 10001
"""User and group of the containers where root starts them: none of ours runs as root."""
FOLDERS = ("run", "logs", "products", "cache", "models", "prefect")


def make_state(state: Path, project: str, uid: int, gid: int) -> None:
    """Make the folder so that containers and this machine's user both write there.

    For a user, the containers run as that user. For root they run as another: the folder is theirs, and what root puts
    there later takes the folder's group (setgid) and is open to it (umask 002, see `plinth.cli.profile`).

    Raises:
        InvalidInput: It cannot be made.
        Conflict: It is another project's.
    """
    root = os.geteuid() == 0
    marker = state / MARKER
    if marker.exists() and (owner := marker.read_text(encoding="utf-8").strip()) != project:
        raise Conflict(
            f"the state folder is of the project {owner!r}, not {project!r}",
            where=str(state),
            hint="two stacks must not share one: `plinth init compose --state DIR`, or PLINTH_STATE in .env",
        )
    if not marker.exists() and state.is_dir() and any(state.iterdir()):
        raise Conflict(
            "the state folder holds something that is not the compose profile's",
            where=str(state),
            hint="name an empty or new folder with --state",
        )
    try:
        state.mkdir(parents=True, exist_ok=True)
        if not marker.exists():  # first: what a killed init leaves is known as ours
            marker.write_text(f"{project}\n", encoding="utf-8")
        for folder in (state, *(state / name for name in FOLDERS)):
            folder.mkdir(exist_ok=True)
            _hand_over(folder, uid if root else None, gid, inside=folder != state)
    except OSError as error:
        raise InvalidInput(
            f"the state folder cannot be made: {error.strerror}",
            where=str(error.filename or state),
            hint="another folder with --state, or PLINTH_STATE in .env",
        ) from error


def _hand_over(folder: Path, uid: int | None, gid: int, *, inside: bool) -> None:
    """Set owner and mode of a folder, and never of what a link leads to: containers write in the state."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (os.O_NOFOLLOW if inside else 0)
    handle = os.open(folder, flags)
    try:
        if uid is not None:
            os.fchown(handle, uid, gid)
        os.fchmod(handle, 0o700 if uid is None else 0o2770)
    finally:
        os.close(handle)


def check_ours(state: Path, project: str, home: Path) -> None:
    """Refuse a folder that is not surely this project's: what it holds is about to be removed.

    Raises:
        Conflict: It has no marker of ours and is not the folder that init makes by default, or is another project's.
    """
    marker = state / MARKER
    owner = marker.read_text(encoding="utf-8").strip() if marker.is_file() else None
    # By itself `.plinth` proves nothing: the embedded profile's state and backups lie there too.
    known = state.resolve() == (home / ".plinth" / "compose").resolve()
    if owner not in (None, project) or (owner is None and not known):
        raise Conflict(
            f"what PLINTH_STATE names is {f'of the project {owner!r}' if owner else 'not known to be the platform’s'}",
            where=str(state),
            hint="look at it, and delete it by hand if it may go",
        )


def empty_state(state: Path, project: str, home: Path) -> None:
    """Remove the folder and what it holds, if it is surely this project's. Raises as `check_ours`."""
    check_ours(state, project, home)
    clear(state, keep={MARKER})
    (state / MARKER).unlink(missing_ok=True)  # last: what a killed reset leaves is still known as ours
    state.rmdir()
