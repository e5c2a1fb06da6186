"""Reading service logs: the end of one, and what is added to it, across rotation."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

BLOCK = 64 * 1024


def last_lines(path: Path, count: int) -> list[str]:
    """The last `count` lines of a file, read from its end; empty when there is no file."""
    try:
        with path.open("rb") as file:
            position = file.seek(0, os.SEEK_END)
            data = b""
            while position and data.count(b"\n") <= count:
                step = min(BLOCK, position)
                position = file.seek(position - step)
                data = file.read(step) + data
    except OSError:
        return []
    return data.decode(errors="replace").splitlines()[-count:] if count else []


def follow(path: Path, poll: float = 0.3) -> Iterator[str]:
    """Lines added to a file from now on. A rotated or emptied file is read again from its beginning."""
    file = path.open("rb")
    file.seek(0, os.SEEK_END)
    try:
        while True:
            line = file.readline()
            if line:
                yield line.decode(errors="replace").rstrip("\n")
                continue
            time.sleep(poll)
            try:
                now = path.stat()
            except OSError:
                continue
            if now.st_ino != os.fstat(file.fileno()).st_ino:
                file.close()
                file = path.open("rb")
            elif now.st_size < file.tell():
                file.seek(0)
    finally:
        file.close()
