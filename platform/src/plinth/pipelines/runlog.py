"""The log of one run: what the platform and the product log while it goes on, as JSON lines tied to its id."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path

CURRENT_RUN: ContextVar[str] = ContextVar("plinth_pipeline_run", default="")


class _ThisRun(logging.Filter):
    """Lets through what was logged on behalf of one run: runs in other threads have their own."""

    def __init__(self, run_id: str) -> None:
        super().__init__()
        self._run_id = run_id

    def filter(self, record: logging.LogRecord) -> bool:
        return CURRENT_RUN.get() == self._run_id


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "run_id": CURRENT_RUN.get(),
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


@contextmanager
def logging_to(path: Path, run_id: str, packages: Sequence[str]) -> Iterator[None]:
    """Append to `path` what loggers of these packages say, from INFO up, during the block and for this run.

    Handlers sit on the packages' own loggers and not on the root: the root's level belongs to the process.
    """
    names = {package.partition(".")[0] for package in packages}
    handler = logging.FileHandler(path, encoding="utf-8", delay=True)
    handler.setFormatter(_JsonLines())
    handler.addFilter(_ThisRun(run_id))
    before = {}
    for logger in map(logging.getLogger, names):
        before[logger] = logger.level
        if not logger.isEnabledFor(logging.INFO):
            logger.setLevel(logging.INFO)
        logger.addHandler(handler)
    token = CURRENT_RUN.set(run_id)
    try:
        yield
    finally:
        CURRENT_RUN.reset(token)
        for logger, level in before.items():
            logger.removeHandler(handler)
            logger.setLevel(level)
        handler.close()
