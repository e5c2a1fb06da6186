"""`plinth --profile NAME ...`: the profile of one command."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from plinth.core.environment import PROFILE, compose_asked


@contextmanager
def in_profile(name: str | None) -> Iterator[None]:
    """The profile asked for, in the environment that settings and child processes read; given back at the end.

    What root writes under the compose profile is for containers of another user too: files are open to their group.
    Anybody else's containers run as himself, and his umask is his.
    """
    before = os.environ.get(PROFILE)
    if name is not None:
        os.environ[PROFILE] = name
    mask = os.umask(0o002) if compose_asked() and os.geteuid() == 0 else None
    try:
        yield
    finally:
        if mask is not None:
            os.umask(mask)
        if before is not None:
            os.environ[PROFILE] = before
        elif name is not None:
            os.environ.pop(PROFILE, None)
