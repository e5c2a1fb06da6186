"""Files of logs as services write them, in hours that are over."""

import os
from datetime import UTC, datetime

import numpy as np
import pyarrow.parquet as pq

from plinth.core.log_files import current_names
from plinth.serving.inference_log import Entry
from plinth.serving.pyarrow import ParquetRows, ParquetSink

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC).timestamp()
LATER = NOON + 2 * 3600
FEATURES = ("distance", "wind")
ANSWERS = {"request_id": "text", "at": "time", "tenant": "text", "question": "text"}


def write_inference(folder, names, *, at=NOON, event=NOON, features=FEATURES):
    """One file with a row for each name, under the moment `at`; returns its path."""
    rows = len(names)
    sink = ParquetSink(folder, features)
    entry = Entry(
        request_id="r", release="a" * 64, entity_ids=tuple(names), at=np.full(rows, int(event)),
        features=np.arange(rows * len(features), dtype=np.float32).reshape(rows, -1), scores=np.full(rows, 0.5),
        flags=tuple(("old",) for _ in names), latency_ms=3.0, answered=at,
    )  # fmt: skip
    return _written(folder, at, lambda: sink.write([entry]))


def write_answers(folder, rows, *, at=NOON):
    """One file of (request id, tenant) pairs."""
    day = f"date={datetime.fromtimestamp(at, UTC):%Y-%m-%d}"
    log = ParquetRows(folder, ANSWERS, lambda row: (day, {"at": at, "question": f"of {row[1]}?", **row[2]}))
    records = [(id, tenant, {"request_id": id, "tenant": tenant}) for id, tenant in rows]
    return _written(folder, at, lambda: log.write(records))


def _written(folder, at, write):
    before = set(folder.glob("*/part-*.parquet"))
    write()
    (path,) = set(folder.glob("*/part-*.parquet")) - before
    stamp = round(at * 1e9) + len(before)
    path = path.rename(path.with_name(f"part-{stamp}-{os.getpid()}-{len(before) + 1}.parquet"))
    os.utime(path, (at, at))
    return path


def rows_of(folder, column="entity_id"):
    """What a reader of a log sees now, sorted."""
    return sorted(
        value
        for partition in folder.glob("[!.]*")
        if partition.is_dir()
        for name in current_names(partition)
        for value in pq.ParquetFile(partition / name).read()[column].to_pylist()
    )
