"""A rollout's signals from the files of the request log."""

import os
import shutil
import time

import pytest

from plinth.core.evidence import LATENCY_BOUNDS, SCORE_BOUNDS, bin_of
from plinth.errors import Unavailable
from plinth.telemetry import duckdb
from plinth.telemetry.duckdb import RequestLog
from request_files import Request, write, write_labels

CANDIDATE = "c" * 64


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def state(tmp_path):
    return tmp_path / "p"


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def log(tmp_path, clock):
    log = RequestLog(lambda product: tmp_path / product, clock)
    yield log
    log.close()


def candidate(*scores, **values):
    return Request(arm="candidate", release=CANDIDATE, scores=scores, **values)


def binned(cell):
    return [i for i, count in enumerate(cell.scores) for _ in range(count)]


def test_bins_are_those_of_the_evidence(state, log):
    seconds = [bound + d for bound in LATENCY_BOUNDS for d in (0.0, 1e-9, -1e-9)] + [0.0, 99.0]
    scores = [bound + d for bound in SCORE_BOUNDS for d in (0.0, 1e-12, -1e-12)] + [0.0, 1.0]
    write(state, [Request(seconds=value) for value in seconds])
    write(state, [Request(scores=tuple(scores), step=2)])
    one, two = log.cells("p", 7)
    assert [i for i, n in enumerate(one.latency) for _ in range(n)] == sorted(
        bin_of(v, LATENCY_BOUNDS) for v in seconds
    )
    assert binned(two) == sorted(bin_of(v, SCORE_BOUNDS) for v in scores)


def test_an_entity_is_one_score_of_an_arm_in_a_step_the_first_one_it_was_given(state, log):
    write(state, [candidate(0.9, entities=("heavy",), clock=20.0 + i) for i in range(50)])
    write(state, [candidate(0.1, entities=("heavy",), clock=10.0)])  # of another process, written later
    write(state, [Request(scores=(0.5,), entities=("heavy",), clock=15.0)])
    first = log.cells("p", 7)
    write(state, [candidate(0.99, entities=("heavy",), clock=60.0)])
    second = log.cells("p", 7)
    assert [(cell.arm, binned(cell)) for cell in first] == [
        ("serving", [bin_of(0.5, SCORE_BOUNDS)]), ("candidate", [bin_of(0.1, SCORE_BOUNDS)]),
    ]  # fmt: skip
    assert [cell.scores for cell in second] == [cell.scores for cell in first]
    assert (second[1].requests, second[1].rows) == (52, 52)


def test_in_another_step_an_entity_counts_anew_in_both_arms(state, log):
    """Else the second step would compare the candidate's frequent entities with the serving release's rare ones."""
    names = tuple(f"e{i}" for i in range(10))
    for step in (1, 2):
        write(state, [Request(step=step, scores=(0.5,) * 10, entities=names), candidate(*[0.5] * 10, step=step)])
    assert [sum(cell.scores) for cell in log.cells("p", 7)] == [10, 10, 10, 10]


def test_an_entity_twice_in_one_request_is_one_score(state, log):
    write(state, [candidate(0.2, 0.2, entities=("a", "a"))])
    (cell,) = log.cells("p", 7)
    assert (sum(cell.scores), cell.rows) == (1, 2)


def test_what_is_read_file_by_file_is_what_is_read_at_once(tmp_path, state, log):
    for number in range(12):
        arms = [Request, candidate] if number % 2 else [candidate, Request]
        write(state, [make(clock=float(100 - number)) if make is Request else make(0.3, clock=5.0) for make in arms])
        log.cells("p", 7)
    assert log.cells("p", 7) == RequestLog(lambda product: tmp_path / product).cells("p", 7)


def test_scores_that_are_not_finite_are_rows_without_a_score(state, log):
    write(state, [candidate(float("nan"), float("inf"), 0.5)])
    (cell,) = log.cells("p", 7)
    assert (binned(cell), cell.rows) == ([bin_of(0.5, SCORE_BOUNDS)], 3)


def test_failed_requests_count_in_requests_errors_and_latency_only(state, log):
    write(state, [candidate(0.5, defaulted=1), candidate(0.5, 0.5, code=503, defaulted=2, seconds=9.0)])
    (cell,) = log.cells("p", 7)
    assert (cell.requests, cell.errors, sum(cell.latency), cell.rows, cell.defaulted) == (2, 1, 2, 1, 1)
    assert cell.busy_seconds == pytest.approx(9.003)


def test_the_window_is_one_of_the_monotonic_clock(state, log, clock):
    write(state, [Request(clock=900.0, seconds=1.0), Request(clock=960.0), Request(clock=999.0)])
    assert [cell.requests for cell in log.cells("p", 7, window=50)] == [2]
    clock.now = 1020.0
    assert [cell.requests for cell in log.cells("p", 7, window=50)] == [1]
    clock.now = 3.0  # after a reboot: what the clock before it wrote is in no window, and in the whole
    assert log.cells("p", 7, window=50) == ()
    assert [cell.requests for cell in log.cells("p", 7)] == [3]


def test_a_wall_clock_that_jumps_changes_nothing(state, log, clock):
    write(state, [Request(clock=990.0, at=0.0), Request(clock=995.0, at=7200.0), Request(clock=999.0, at=2.0)])
    write(
        state, [candidate(0.1, entities=("a",), clock=998.0, at=9999.0), candidate(0.9, entities=("a",), clock=999.0)]
    )
    write_labels(state, [("a", 1, 10)])
    assert [cell.requests for cell in log.cells("p", 7, window=8)] == [2, 2]
    assert log.outcomes("p", 7)["candidate"].score == (0.1,)


def test_other_generations_and_the_time_before_the_first_step_do_not_count(state, log):
    write(state, [Request(generation=6)])
    write(state, [Request(generation=7, step=0)])
    assert log.cells("p", 7) == ()
    assert [cell.requests for cell in log.cells("p", 6)] == [1]


def test_files_that_cannot_be_read_are_left_out_and_told_once(state, log, caplog):
    good = write(state, [Request()])
    cut = good.with_name("part-cut.parquet")
    cut.write_bytes(good.read_bytes()[:-20])
    good.with_name("part-garbage.parquet").write_bytes(b"PAR1" + b"\0" * 200 + b"PAR1")
    good.with_name(".part-now.writing").write_bytes(b"PAR1")
    shutil.copy(write_labels(state, [("a", 1, 0)]), good.with_name("part-foreign.parquet"))
    for _ in range(2):
        assert [cell.requests for cell in log.cells("p", 7)] == [1]
    assert sorted(record.file.rpartition("part-")[2] for record in caplog.records) == [
        "cut.parquet", "foreign.parquet", "garbage.parquet",
    ]  # fmt: skip
    good.with_name("part-good.parquet.x").write_bytes(good.read_bytes())
    good.with_name("part-good.parquet.x").rename(cut)  # mended
    assert [cell.requests for cell in log.cells("p", 7)] == [2]


def test_a_log_of_which_nothing_can_be_read_is_unavailable_and_not_empty(state, log):
    path = write(state, [Request()])
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    for _ in range(2):
        with pytest.raises(Unavailable, match="none of the 1 files"):
            log.cells("p", 7)
    path.write_bytes(whole)
    assert [cell.requests for cell in log.cells("p", 7)] == [1]


def test_a_folder_in_which_nothing_changed_is_not_listed_again_and_one_that_did_is(state, log, monkeypatch):
    listed = []
    names = duckdb.current_names
    monkeypatch.setattr(duckdb, "current_names", lambda folder: listed.append(folder) or names(folder))
    folder = write(state, [candidate(0.5)]).parent
    os.utime(folder, (time.time() + 3600,) * 2)  # "just now" for as long as this test may take
    log.cells("p", 7)
    log.cells("p", 7)
    assert len(listed) == 2  # changed just now: another file may come in the same tick of the kernel's clock
    os.utime(folder, (1e9, 1e9))
    for window in (None, 60.0, 600.0):
        log.cells("p", 7, window=window)
    assert len(listed) == 3
    write(state, [candidate(0.6)])
    assert log.cells("p", 7)[0].requests == 2


def test_a_state_folder_made_anew_begins_anew(state, log):
    write(state, [Request(), Request()], "part-1.parquet")
    assert [cell.requests for cell in log.cells("p", 7)] == [2]
    shutil.rmtree(state)
    assert log.cells("p", 7) == ()
    write(state, [Request()], "part-1.parquet")
    assert [cell.requests for cell in log.cells("p", 7)] == [1]


def test_what_was_counted_stays_counted_when_its_file_is_collected(state, log):
    path = write(state, [Request()])
    before = log.cells("p", 7)
    path.unlink()
    assert log.cells("p", 7) == before


def test_outcomes_are_first_scores_with_the_label_known_last_in_the_order_of_the_answers(state, log):
    write(state, [candidate(0.3, entities=("b",), clock=2.0), candidate(0.2, entities=("a",), clock=1.0)])
    write(state, [candidate(0.9, entities=("a",), clock=3.0, step=2), candidate(0.4, entities=("unknown",), clock=3.0)])
    write(state, [Request(arm="shadow", scores=(0.7,), entities=("b",))])
    write_labels(state, [("a", 0, 10), ("b", 1, 10)])
    told = log.outcomes("p", 7)
    assert (told["candidate"].score, told["candidate"].label) == ((0.2, 0.3), (0, 1))
    assert (told["shadow"].score, told["shadow"].label) == ((0.7,), (1,))
    assert "serving" not in told
    write_labels(state, [("a", 1, 20), ("b", 0, 5)], "2013-06-02.parquet")
    assert log.outcomes("p", 7)["candidate"].label == (1, 1)


def test_without_labels_there_are_no_outcomes_and_with_broken_ones_it_is_said(state, log):
    assert log.outcomes("p", 7) == {}
    write(state, [candidate(0.3, entities=("b",))])
    assert log.outcomes("p", 7) == {}
    path = write_labels(state, [("b", 1, 10)])
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    with pytest.raises(Unavailable, match="labels"):
        log.outcomes("p", 7)
    path.write_bytes(whole)
    assert log.outcomes("p", 7)["candidate"].label == (1,)
