"""How many runs of a product's pipelines go on at once on this machine, whichever runner started them.

File locks: the kernel gives a slot back when its process ends, `kill -9` included.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from plinth.errors import Conflict, Unavailable

POLL_SECONDS = 0.1


@contextmanager
def slot(folder: Path, *, limit: int, wait: float) -> Iterator[int]:
    """Hold one of `limit` slots of `folder` during the block.

    Args:
        folder: Where the lock files lie; made when missing.
        limit: Number of slots.
        wait: Seconds to wait for a free one.

    Raises:
        Conflict: No slot became free in time.
        Unavailable: The folder cannot be written.
    """
    until = time.monotonic() + wait
    while True:
        for number in range(limit):
            handle = _try_lock(folder, number)
            if handle is not None:
                try:
                    yield number
                finally:
                    os.close(handle)
                return
        if time.monotonic() >= until:
            raise Conflict(
                f"{limit} run(s) of this product's pipelines are going on already",
                where=str(folder),
                hint="wait for it to end, or raise the pipeline's `concurrency` in product.yaml",
            )
        time.sleep(POLL_SECONDS)


def _try_lock(folder: Path, number: int) -> int | None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / f".slot-{number}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
    except OSError as error:
        raise Unavailable(f"the run folder cannot be written: {error.strerror}", where=str(folder)) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle
