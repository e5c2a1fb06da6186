"""Inference log files: schema, partitions, never half a file."""

import subprocess
import sys
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from plinth.errors import InvalidInput
from plinth.serving.inference_log import Entry
from plinth.serving.pyarrow import ParquetRequests, ParquetSink
from plinth.serving.requests import NO_SCORES, RequestRecord

DAY = int(datetime(2013, 6, 1, 23, 30, tzinfo=UTC).timestamp())


def entry(at, **changes):
    rows = len(at)
    fields = {
        "request_id": "r1",
        "release": "d" * 64,
        "entity_ids": [f"UA{i}" for i in range(rows)],
        "at": np.array(at, dtype=np.int64),
        "features": np.arange(rows * 2, dtype=np.float32).reshape(rows, 2),
        "scores": np.linspace(0.1, 0.9, rows),
        "flags": [["missing:weather"]] + [[]] * (rows - 1),
        "latency_ms": 1.25,
        "answered": DAY + 0.5,
    }
    return Entry(**{**fields, **changes})


def test_rows_are_written_under_the_date_of_their_event(tmp_path):
    ParquetSink(tmp_path, ["temp", "wind"]).write([entry([DAY, DAY + 3600]), entry([DAY + 7200], request_id="r2")])
    files = sorted(str(path.parent.name) for path in tmp_path.rglob("*.parquet"))
    assert files == ["date=2013-06-01", "date=2013-06-02"]
    table = pq.read_table(next(tmp_path.glob("date=2013-06-02/*.parquet")), partitioning=None)
    assert table.schema.field("event_time").type == pa.timestamp("us", tz="UTC")
    assert table.schema.field("temp").type == pa.float32()
    assert table.column("request_id").to_pylist() == ["r1", "r2"]
    first = pq.read_table(next(tmp_path.glob("date=2013-06-01/*.parquet")), partitioning=None).to_pylist()[0]
    assert first == {
        "request_id": "r1", "entity_id": "UA0", "release": "d" * 64,
        "event_time": datetime(2013, 6, 1, 23, 30, tzinfo=UTC), "temp": 0.0, "wind": 1.0, "score": 0.1,
        "flags": ["missing:weather"], "latency_ms": 1.25,
        "at": datetime(2013, 6, 1, 23, 30, 0, 500_000, tzinfo=UTC),
    }  # fmt: skip


def test_duckdb_reads_the_whole_log(tmp_path):
    duckdb = pytest.importorskip("duckdb")
    sink = ParquetSink(tmp_path, ["temp", "wind"])
    sink.write([entry([DAY, DAY + 3600])])
    sink.write([entry([DAY])])
    files = f"read_parquet('{tmp_path}/*/*.parquet', hive_partitioning=true)"
    rows = duckdb.sql(f"SELECT date, count(*) FROM {files} GROUP BY 1 ORDER BY 1").fetchall()
    assert [(str(date), count) for date, count in rows] == [("2013-06-01", 2), ("2013-06-02", 1)]


def test_a_write_that_fails_leaves_no_file(tmp_path, monkeypatch):
    sink = ParquetSink(tmp_path, ["temp", "wind"])
    real, calls = pq.write_table, []

    def second_fails(table, where, **options):
        calls.append(where)
        if len(calls) == 2:
            real(table.slice(0, 0), where, **options)
            raise OSError(28, "No space left on device")
        real(table, where, **options)

    monkeypatch.setattr(pq, "write_table", second_fails)
    with pytest.raises(OSError, match="No space"):
        sink.write([entry([DAY, DAY + 3600])])
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_feature_named_like_a_column_of_the_log_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="score"):
        ParquetSink(tmp_path, ["temp", "score"])


def request(**changes):
    fields = {
        "request_id": "r1", "at": DAY + 0.5, "clock": 99.5, "generation": 3, "step": 1, "arm": "serving",
        "release": "d" * 64, "code": 200, "seconds": 0.001, "rows": 2, "defaulted": 0, "entity_ids": ["a", "b"],
        "scores": np.array([0.25, 0.75]),
    }  # fmt: skip
    return RequestRecord(**{**fields, **changes})


def test_requests_are_written_under_their_generation_with_these_columns(tmp_path):
    nothing = {"entity_ids": (), "scores": NO_SCORES}
    ParquetRequests(tmp_path).write([request(), request(generation=4, code=500, **nothing), request(step=2)])
    assert sorted(path.parent.name for path in tmp_path.rglob("*.parquet")) == ["generation=3", "generation=4"]
    table = pq.read_table(next(tmp_path.glob("generation=3/*.parquet")), partitioning=None)
    assert {field.name: str(field.type) for field in table.schema} == {
        "request_id": "string", "at": "timestamp[us, tz=UTC]", "clock": "double", "generation": "int32",
        "step": "int16", "arm": "string", "release": "string", "code": "int16", "seconds": "double", "rows": "int32",
        "defaulted": "int32", "entity_ids": "list<element: string>", "scores": "list<element: double>",
    }  # fmt: skip
    assert table.to_pylist()[1] == {
        **request(step=2)._asdict(), "at": datetime(2013, 6, 1, 23, 30, 0, 500_000, tzinfo=UTC), "scores": [0.25, 0.75],
    }  # fmt: skip
    (failed,) = pq.read_table(next(tmp_path.glob("generation=4/*.parquet")), partitioning=None).to_pylist()
    assert (failed["code"], failed["rows"], failed["scores"], failed["entity_ids"]) == (500, 2, [], [])


def test_duckdb_reads_the_request_log_with_and_without_its_partitions(tmp_path):
    duckdb = pytest.importorskip("duckdb")
    ParquetRequests(tmp_path).write([request(), request(generation=4)])
    for option in ("true", "false"):
        files = f"read_parquet('{tmp_path}/*/*.parquet', hive_partitioning={option})"
        rows = duckdb.sql(f"SELECT generation, list_sum(scores) FROM {files} ORDER BY 1").fetchall()
        assert rows == [(3, 1.0), (4, 1.0)]


def test_writing_imports_no_pandas(tmp_path):
    script = (
        "import sys, numpy as np\n"
        "from pathlib import Path\n"
        "from plinth.serving.inference_log import Entry\n"
        "from plinth.serving.pyarrow import ParquetSink\n"
        "one = np.ones(1)\n"
        f"sink = ParquetSink(Path({str(tmp_path)!r}), ['temp'])\n"
        "at, features = one.astype(np.int64), one.astype(np.float32)[None]\n"
        "sink.write([Entry('r', 'd', ['e'], at, features, one, [['x']], 1., 1.)])\n"
        "from plinth.serving.pyarrow import ParquetRequests\n"
        "from plinth.serving.requests import RequestRecord\n"
        f"requests = ParquetRequests(Path({str(tmp_path)!r}) / 'requests')\n"
        "requests.write([RequestRecord('r', 1., 1., 1, 0, 'serving', 'd', 200, 1., 1, 0, ['e'], one)])\n"
        "print('pandas' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert list(tmp_path.rglob("*.parquet"))
