"""Proof that a text is gone: windows of it are remembered as hashes only, and every file is searched for them.

A window is 24 bytes of text. A file is hashed at every position at once (a polynomial over 2^64, in numpy), and where
that fits, the sha256 of the window decides. Parquet and gzip are searched as what they unpack to.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plinth.errors import Unavailable

log = logging.getLogger(__name__)

WIDTH = 24
_PLAIN = re.compile(rf"[ !#-\[\]-~]{{{WIDTH},}}")
PER_TEXT = 4
"""Windows of a text: enough that a compressor which cuts one of them leaves another."""

BLOCK = 1 << 20
_BASE = 0x9E3779B97F4A7C15  # odd, with its bits spread: 2^64 divided by the golden ratio


@dataclass(frozen=True)
class Found:
    """What a search looked at, and the files that hold a window."""

    files: int
    size: int
    findings: tuple[str, ...]


@dataclass
class Canaries:
    """Windows of texts, as hashes: quick ones to find a place, sha256 to be sure."""

    quick: set[int] = field(default_factory=set)
    sure: set[str] = field(default_factory=set)

    def add(self, text: str) -> None:
        """Remember windows of a text: its beginning, its end, and places between.

        Those that look the same in JSON are taken where there are any: no quotes, no line ends, ASCII.
        """
        plain = [match.group().encode() for match in _PLAIN.finditer(text)]
        windows = [data[start : start + WIDTH] for data in plain for start in range(0, len(data) - WIDTH + 1, WIDTH)]
        if not windows:
            data = text.encode()
            windows = [data[start : start + WIDTH] for start in range(0, len(data) - WIDTH + 1, WIDTH)]
        last = len(windows) - 1
        for place in {last * number // (PER_TEXT - 1) for number in range(PER_TEXT)} if windows else ():
            window = windows[place]
            self.quick.add(int(_hashes(window)[0]))
            self.sure.add(hashlib.sha256(window).hexdigest())

    def spare(self, text: str) -> None:
        """Forget the windows that stand in a text that stays."""
        self.sure -= set(self._hits(text.encode()))

    def in_bytes(self, data: bytes) -> bool:
        """Whether any window stands in the data."""
        return next(self._hits(data), None) is not None

    def in_file(self, path: Path) -> bool:
        """Whether any window stands in a file, or in what it unpacks to.

        Raises:
            Unavailable: It cannot be read: then nothing is proven.
        """
        try:
            return any(self.in_bytes(data) for data in _contents(path))
        except FileNotFoundError:
            return False  # gone meanwhile
        except OSError as error:
            raise Unavailable(f"a file cannot be searched: {error.strerror or error}", where=str(path)) from error

    def search(self, roots: Iterable[Path]) -> Found:
        """Every file below some folders. Raises as `in_file`."""
        files, size, findings = 0, 0, list[str]()
        for root in roots:
            for path in sorted(root.rglob("*")):
                if path.is_symlink() or not path.is_file():
                    continue
                files += 1
                size += path.stat().st_size
                if self.in_file(path):
                    findings.append(str(path))
        return Found(files, size, tuple(findings))

    def as_dict(self) -> dict[str, Any]:
        """Stable JSON: hashes, no text."""
        return {"width": WIDTH, "quick": sorted(self.quick), "sure": sorted(self.sure)}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Canaries:
        """The windows from their JSON form."""
        return cls(set(value["quick"]), set(value["sure"])) if value.get("width") == WIDTH else cls()

    def _hits(self, data: bytes) -> Iterator[str]:
        if not self.sure:
            return
        wanted = np.array(sorted(self.quick), dtype=np.uint64)
        # Nearly every position is told off by 20 bits of its hash: one look into a table.
        table = np.zeros(1 << 20, dtype=np.bool_)
        table[(wanted >> np.uint64(44)).astype(np.int64)] = True
        hashes = _hashes(data)
        near = np.flatnonzero(table[(hashes >> np.uint64(44)).astype(np.int64)])
        for place in near[np.isin(hashes[near], wanted)].tolist():
            digest = hashlib.sha256(data[place : place + WIDTH]).hexdigest()
            if digest in self.sure:
                yield digest


def _hashes(data: bytes) -> NDArray[np.uint64]:
    """The hash of the window that begins at each position: width 8, then 16, then 24, by doubling and one sum."""
    signs = np.frombuffer(data, dtype=np.uint8).astype(np.uint64)
    if len(signs) < WIDTH:
        return np.empty(0, dtype=np.uint64)
    width, power, parts = 1, _BASE, {1: signs}
    while width < 16:
        shorter = parts[width]
        parts[width * 2] = shorter[:-width] * np.uint64(power) + shorter[width:]
        width, power = width * 2, power * power % 2**64
    eight = pow(_BASE, 8, 2**64)
    long, short = parts[16], parts[8]
    return long[: len(signs) - WIDTH + 1] * np.uint64(eight) + short[16:]


def _contents(path: Path) -> Iterator[bytes]:
    """A file's bytes in blocks that overlap by a window, and what it unpacks to."""
    with path.open("rb") as file:
        yield from _blocks(file)
        file.seek(0)
        magic = file.read(4)
    if magic == b"PAR1":
        yield from _parquet(path)
    elif magic[:2] == b"\x1f\x8b":
        try:
            with gzip.open(path) as unpacked:
                yield from _blocks(unpacked)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            log.warning("%s is no whole gzip file: searched as it is", path)


def _blocks(file: Any) -> Iterator[bytes]:
    rest = b""
    while block := file.read(BLOCK):
        data = rest + block
        yield data
        rest = data[-(WIDTH - 1) :]


def _parquet(path: Path) -> Iterator[bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                rows = json.dumps(batch.to_pylist(), default=str, ensure_ascii=False)
                yield rows.replace("\\\\", "\\").encode(errors="replace")  # JSON in a column is escaped twice
    except pa.ArrowException:
        log.warning("%s is no whole Parquet file: searched as it is", path)
