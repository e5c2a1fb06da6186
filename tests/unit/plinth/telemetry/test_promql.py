"""What is asked of Prometheus, what is made of its samples, and when it is asked at all."""

import pytest

from plinth.core.evidence import LATENCY_BOUNDS, SCORE_BOUNDS, bin_of
from plinth.errors import InvalidInput, Unavailable
from plinth.telemetry.promql import Breaker, PrometheusSignals, cells_of, question


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def samples(counts, *, when="now", instance="a", step="1", arm="candidate"):
    """One process's samples of requests that took 3 ms and scored 0.4; `counts` requests, errors."""
    requests, errors = counts
    labels = {"instance": instance, "step": step, "arm": arm, "release": "c" * 64, "when": when}

    def sample(name, value, **more):
        return {"metric": {**labels, **more, "__name__": f"plinth_rollout_{name}"}, "value": [0, str(value)]}

    def buckets(name, bounds, at):
        upto = [sample(name, requests if bound >= at else 0, le=repr(bound)) for bound in bounds]
        return [*upto, sample(name, requests, le="+Inf")]

    return [
        sample("requests_total", requests), sample("errors_total", errors), sample("rows_total", requests),
        sample("defaulted_total", 0), sample("seconds_sum", requests * 0.003),
        *buckets("seconds_bucket", LATENCY_BOUNDS, 0.003), *buckets("scores_bucket", SCORE_BOUNDS, 0.4),
    ]  # fmt: skip


def test_processes_are_added_up():
    (cell,) = cells_of(samples((3, 1)) + samples((5, 0), instance="b"))
    assert (cell.step, cell.arm, cell.release, cell.requests, cell.errors, cell.rows) == (
        1, "candidate", "c" * 64, 8, 1, 8,
    )  # fmt: skip
    assert cell.latency[bin_of(0.003, LATENCY_BOUNDS)] == sum(cell.latency) == 8
    assert cell.scores[bin_of(0.4, SCORE_BOUNDS)] == sum(cell.scores) == 8
    assert cell.busy_seconds == pytest.approx(0.024)


def test_a_window_is_what_came_since_process_by_process():
    before = samples((3, 1), when="then") + samples((9, 0), when="then", instance="gone")
    (cell,) = cells_of(samples((5, 1)) + samples((2, 0), instance="new") + before)
    assert (cell.requests, cell.errors) == (2 + 2, 0)
    assert sum(cell.latency) == sum(cell.scores) == 4


@pytest.mark.parametrize("since", [(2, 0), (9, 0)])  # fewer requests than before, or only fewer errors
def test_a_process_that_restarted_in_the_window_has_what_it_counted_since(since):
    (cell,) = cells_of(samples(since) + samples((5, 3), when="then"))
    assert (cell.requests, cell.errors) == since


def test_a_window_in_which_nothing_happened_has_no_cell():
    assert cells_of(samples((3, 1)) + samples((3, 1), when="then")) == ()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda found: found[:-1],  # a histogram without all its bounds
        lambda found: [*found, {**found[5], "metric": {**found[5]["metric"], "le": "0.00042"}}],
        lambda found: found[1:],  # no request count
        lambda found: [{**found[0], "value": [0, "NaN"]}, *found[1:]],
        lambda found: [{**found[0], "value": []}, *found[1:]],
        lambda found: samples((1, 0), arm="somebody"),
        lambda found: samples((1, 0), step="two"),
        lambda found: ["text"],
    ],
)
def test_samples_that_are_not_a_rollouts_are_no_evidence(spoil):
    with pytest.raises(Unavailable):
        cells_of(spoil(samples((3, 1))))


def test_what_a_label_is_asked_for_cannot_leave_its_quotes():
    assert 'product="a\\"} or vector(1) or {\\\\\\n"' in question('a"} or vector(1) or {\\\n', 7, None)


def test_the_breaker_opens_after_failures_in_a_row_and_lets_one_question_through_after_a_while():
    clock = Clock()
    breaker = Breaker(3, 10.0, clock)
    for _ in range(2):
        breaker.check("x")
        breaker.failed()
    breaker.worked()  # not in a row
    for _ in range(3):
        breaker.check("x")
        breaker.failed()
    for clock.now in (0.0, 9.9):
        with pytest.raises(Unavailable, match="3 times in a row"):
            breaker.check("x")
    clock.now = 10.0
    breaker.check("x")
    with pytest.raises(Unavailable):
        breaker.check("x")  # the others wait for what the first one finds
    breaker.failed()
    clock.now = 19.0
    with pytest.raises(Unavailable):
        breaker.check("x")
    clock.now = 20.0
    breaker.check("x")
    breaker.worked()
    breaker.check("x")
    breaker.check("x")


@pytest.mark.parametrize("url", ["", "localhost:9090", "ftp://h", "http://", "http://h:x", "http://me:canary@h:1"])
def test_an_address_that_is_none_is_refused_without_showing_a_password(url):
    with pytest.raises(InvalidInput) as refused:
        PrometheusSignals(url)
    assert "canary" not in str(refused.value)
