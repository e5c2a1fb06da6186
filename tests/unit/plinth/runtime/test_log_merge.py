"""Merging a log's closed hours: no reader ever sees a row twice or not at all, and no kill loses one."""

import json
import multiprocessing
import os
import signal
import threading
from datetime import UTC, datetime

import pyarrow.parquet as pq
import pytest

from log_writing import FEATURES, LATER, NOON, rows_of, write_answers, write_inference
from plinth.core import failpoints, log_files
from plinth.errors import Conflict, Unavailable
from plinth.monitoring.duckdb import LogReader
from plinth.runtime import log_merge
from plinth.runtime.log_merge import closed_hours, merge, merge_due
from plinth.serving.pyarrow import find_rows
from plinth.telemetry.duckdb import RequestLog
from request_files import Request, write

NAMES = [f"flight-{number:02}" for number in range(12)]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "state" / "inference"


@pytest.fixture
def logged(folder):
    for second, name in enumerate(NAMES):
        write_inference(folder, [name], at=NOON + second)
    return folder / "date=2026-01-31"


def files(partition):
    return sorted(path.name for path in partition.glob("*.parquet"))


def test_the_files_of_a_closed_hour_become_one_with_the_same_rows(folder, logged):
    before = {name: pq.ParquetFile(logged / name).read().to_pylist() for name in files(logged)}
    assert merge(folder, LATER) == 12
    assert log_files.current_names(logged) == ["hour-20260131T12-0.parquet"]
    merged = pq.ParquetFile(logged / "hour-20260131T12-0.parquet").read()
    assert merged.to_pylist() == [row for name in sorted(before) for row in before[name]]
    assert rows_of(folder) == NAMES


def test_replaced_files_stay_for_those_who_listed_them_and_go_later(folder, logged):
    listed = files(logged)
    merge(folder, LATER)
    merge(folder, LATER)
    assert set(listed) < set(files(logged))
    later = os.stat(logged / ".hour-20260131T12-0.json").st_mtime + log_files.KEPT_SECONDS
    merge(folder, later)
    assert files(logged) == ["hour-20260131T12-0.parquet"]
    assert rows_of(folder) == NAMES
    merge(folder, later + 10 * log_files.KEPT_SECONDS)
    assert rows_of(folder) == NAMES
    assert [path.name for path in logged.iterdir()] == ["hour-20260131T12-0.parquet"]
    assert not merge_due(folder, later + 10 * log_files.KEPT_SECONDS)


def test_an_hour_that_is_not_over_is_left_alone(folder, logged):
    assert merge(folder, NOON + 3600 + log_merge.SETTLED_SECONDS - 1) == 0
    assert not merge_due(folder, NOON + 3600)
    assert merge_due(folder, NOON + 3600 + log_merge.SETTLED_SECONDS)


def test_hours_and_partitions_are_merged_each_for_itself(folder):
    day = 86_400
    for hour in (0, 1):
        for event in (NOON, NOON - day):
            for _ in range(2):
                write_inference(folder, [f"{hour}{event}"], at=NOON + hour * 3600, event=event)
    assert merge(folder, LATER + 3600) == 8
    for date in ("30", "31"):
        assert log_files.current_names(folder / f"date=2026-01-{date}") == [
            "hour-20260131T12-0.parquet", "hour-20260131T13-0.parquet",
        ]  # fmt: skip
    assert len(rows_of(folder)) == 8


def test_what_comes_late_is_seen_at_once_and_merged_in(folder, logged):
    merge(folder, LATER)
    write_inference(folder, ["late"], at=NOON + 30)
    assert rows_of(folder) == [*NAMES, "late"]
    assert merge(folder, LATER) == 2
    assert log_files.current_names(logged) == ["hour-20260131T12-1.parquet"]
    assert rows_of(folder) == [*NAMES, "late"]


def test_releases_with_other_features_are_merged_too(folder):
    write_inference(folder, ["one"])
    write_inference(folder, ["two"], features=("wind", "rain"))
    merge(folder, LATER)
    (row, other) = sorted(
        pq.ParquetFile(folder / "date=2026-01-31" / "hour-20260131T12-0.parquet").read().to_pylist(),
        key=lambda row: row["entity_id"],
    )
    assert (row["rain"], other["distance"]) == (None, None)
    assert (row["flags"], row["event_time"]) == (["old"], datetime.fromtimestamp(NOON, UTC))


def test_a_file_that_cannot_be_read_stays_and_holds_up_no_other(folder, logged):
    bad = logged / files(logged)[5]
    bad.write_bytes(bad.read_bytes()[:-9])
    merge(folder, LATER)
    merge(folder, LATER)
    names = log_files.current_names(logged)
    assert bad.name in names
    assert len(names) == 2
    assert json.loads((logged / log_merge.UNREADABLE).read_text()) == [bad.name]
    bad.unlink()
    assert rows_of(folder) == [name for name in NAMES if name != "flight-05"]
    assert closed_hours(logged, LATER)["20260131T12"] == [name for name in names if name != bad.name]


def test_a_merged_file_is_as_old_as_its_newest_row(folder, logged):
    """`plinth gc` goes by the age of files."""
    merge(folder, LATER)
    assert (logged / "hour-20260131T12-0.parquet").stat().st_mtime == NOON + 11


def test_a_full_disk_replaces_nothing(folder, logged, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(log_merge, "write_whole", full)
    with pytest.raises(Unavailable, match="No space left"):
        merge(folder, LATER)
    assert rows_of(folder) == NAMES
    monkeypatch.undo()
    assert merge(folder, LATER) == 12
    assert rows_of(folder) == NAMES


def test_only_one_works_on_a_log(folder, logged):
    with log_files.alone_with(folder), pytest.raises(Conflict, match="somebody else"), log_files.alone_with(folder):
        pass
    with log_files.alone_with(folder / "not-there"):
        pass


@pytest.mark.parametrize("name", ["part-1-2-3.parquet", "x.parquet", "hour-1.parquet", f"part-{'9' * 20}-1-1.parquet"])
def test_files_of_other_names_are_left_alone(folder, logged, name):
    (logged / files(logged)[0]).rename(logged / name)
    merge(folder, LATER)
    assert name in log_files.current_names(logged)
    assert rows_of(folder) == NAMES


@pytest.mark.parametrize("point", ["log.before-merge", "log.after-merge", "log.before-remove"])
def test_a_kill_at_any_point_loses_no_row_and_doubles_none(folder, logged, point):
    later = datetime.now().timestamp() + 2 * log_files.KEPT_SECONDS

    def work():
        failpoints.arm(f"{point}:kill")
        merge(folder, LATER)
        merge(folder, later)

    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert rows_of(folder) == NAMES
    for _ in range(3):
        merge(folder, later)
        assert rows_of(folder) == NAMES
        later += 2 * log_files.KEPT_SECONDS
    assert [path.name for path in logged.iterdir()] == ["hour-20260131T12-0.parquet"]


# Readers ------------------------------------------------------------------------------------------------------------


def test_the_inference_log_reads_the_same_while_it_is_merged(folder, logged, monkeypatch):
    monkeypatch.setattr(log_files, "KEPT_SECONDS", 3600.0)
    stop, seen = threading.Event(), []
    window = (datetime(2026, 1, 31, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC))

    def read():
        while not stop.is_set() or not seen:
            seen.append(LogReader(folder.parent, *window).health().rows)

    thread = threading.Thread(target=read)
    thread.start()
    for number in range(5):
        merge(folder, LATER)
        write_inference(folder, [NAMES[0]], at=NOON + 60 + number)  # the same row again: it is there twice, as written
    stop.set()
    thread.join(60)
    assert sorted(seen) == seen
    assert set(seen) <= set(range(12, 18))
    reader = LogReader(folder.parent, *window)
    assert sum(len(scores) for _, scores in reader.features(FEATURES)) == 12


def test_a_reader_that_listed_the_files_before_goes_on_reading(folder, logged):
    window = (datetime(2026, 1, 31, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC))
    before = LogReader(folder.parent, *window)
    merge(folder, LATER)
    assert before.health().rows == LogReader(folder.parent, *window).health().rows == 12


def test_an_answer_is_found_once_wherever_it_is(tmp_path):
    folder = tmp_path / "answers"
    for number in range(3):
        write_answers(folder, [(f"r{number}", "acme")], at=NOON + number)
    merge(folder, LATER)
    assert [row["tenant"] for row in find_rows(folder, "request_id", "r1")] == ["acme"]


def renamed(state, requests, at):
    path = write(state, requests)
    return path.rename(path.with_name(f"part-{round(at * 1e9)}-1-{at - NOON:.0f}.parquet"))


@pytest.mark.parametrize("dropped", [False, True], ids=["list-there", "list-gone"])
def test_a_rollouts_signals_are_the_same_after_its_log_was_merged(tmp_path, dropped):
    state = tmp_path / "p"
    log = RequestLog(lambda product: tmp_path / product)
    for second in range(4):
        renamed(state, [Request(scores=(0.1 * second,))], NOON + second)
    before = log.cells("p", 7)
    merge(state / "requests", LATER)
    if dropped:
        for turn in (1, 2):
            merge(state / "requests", datetime.now().timestamp() + turn * 2 * log_files.KEPT_SECONDS)
        assert not list((state / "requests").rglob(".hour-*.json"))
    assert log.cells("p", 7) == before
    late = [Request(scores=(0.9,))]
    renamed(state, late, NOON + 9)
    (with_late,) = log.cells("p", 7)
    assert with_late.requests == before[0].requests + 1
    merge(state / "requests", LATER)
    assert log.cells("p", 7) == (with_late,)
    log.close()
    fresh = RequestLog(lambda product: tmp_path / product)
    assert fresh.cells("p", 7) == (with_late,)
    fresh.close()
