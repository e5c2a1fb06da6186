"""Requests of the same turn run together, and stay apart where it matters."""

import asyncio

import numpy as np
import pytest

from plinth.errors import Unavailable
from plinth.serving.batching import MAX_ROWS, Batcher, Scored, merge, take
from plinth.serving.port import Instances

RELEASE = "the release that serves"


def instances(*values):
    ids = [str(value) for value in values]
    return Instances(ids, np.array(values, dtype=np.int64), {"id": ids}, list(values))


class Model:
    """Doubles every row; counts its runs."""

    def __init__(self):
        self.runs = []

    def __call__(self, release, given):
        self.runs.append((release, len(given.rows)))
        if "locked" in given.rows:
            raise Unavailable("locked")
        scores = np.array([row * 2.0 for row in given.rows if row != "bad"] or [1 / 0])
        if "bad" in given.rows:
            raise ValueError("bad row")
        return Scored(np.zeros((len(scores), 1), np.uint8), scores[:, None].astype(np.float32), scores, 1, 2, 0.1)


def gather(model, *requests):
    async def ask():
        batcher = Batcher(model)
        return await asyncio.gather(*(batcher.submit(RELEASE, request) for request in requests), return_exceptions=True)

    return asyncio.run(ask())


def test_what_arrives_in_one_turn_runs_once_and_comes_apart_again():
    model = Model()
    one, two, three = gather(model, instances(1), instances(2, 3), instances(4))
    assert model.runs == [(RELEASE, 4)]
    assert [part.scores.tolist() for part in (one, two, three)] == [[2], [4, 6], [8]]
    assert two.matrix.tolist() == [[4], [6]]


def test_one_request_is_not_copied():
    (only,) = gather(Model(), instances(5))
    assert only.scores.tolist() == [10]


def test_a_run_is_bounded():
    model = Model()
    gather(model, instances(*range(MAX_ROWS)), instances(1), instances(2))
    assert model.runs == [(RELEASE, MAX_ROWS), (RELEASE, 2)]


def test_one_requests_error_is_not_its_neighbours():
    bad = Instances(["x"], np.array([0]), {"id": ["x"]}, ["bad"])
    good, failed, other = gather(Model(), instances(1), bad, instances(2))
    assert (good.scores.tolist(), other.scores.tolist()) == ([2], [4])
    assert isinstance(failed, ZeroDivisionError)


def test_a_locked_store_is_asked_once_for_all():
    model = Model()
    locked = Instances(["x"], np.array([0]), {"id": ["x"]}, ["locked"])
    found = gather(model, instances(1), locked)
    assert all(isinstance(error, Unavailable) for error in found)
    assert len(model.runs) == 1


def test_a_request_that_went_away_does_not_disturb_the_others():
    async def ask():
        batcher = Batcher(Model())
        gone, stays = batcher.submit(RELEASE, instances(1)), batcher.submit(RELEASE, instances(2))
        gone.cancel()
        return await stays

    assert asyncio.run(ask()).scores.tolist() == [4]


def test_another_releases_error_touches_nobody_elses_run_and_comes_after_the_first_answers():
    seen = []

    def run(release, given):
        seen.append(f"run {release}")
        if release == "candidate":
            raise Unavailable("the candidate's store")
        return Model()(release, given)

    async def answer(future):
        try:
            result = (await future).scores.tolist()
        except Unavailable as error:
            result = str(error)
        seen.append(result)

    async def ask():
        batcher = Batcher(run)
        futures = [batcher.submit(release, instances(i)) for i, release in enumerate(["serving", "candidate"] * 2)]
        await asyncio.gather(*(answer(future) for future in futures))

    asyncio.run(ask())
    failure = "the candidate's store"
    assert seen == ["run serving", [0], [4], "run candidate", failure, failure]


def test_taking_keeps_order_and_every_key():
    taken = take(instances(1, 2, 3), [2, 0])
    assert (taken.entity_ids, taken.rows, taken.keys) == (["3", "1"], [3, 1], {"id": ["3", "1"]})
    assert taken.at.tolist() == [3, 1]


def test_merging_keeps_order_and_every_key():
    merged = merge([instances(1, 2), instances(3)])
    assert (merged.entity_ids, merged.rows, merged.keys) == (["1", "2", "3"], [1, 2, 3], {"id": ["1", "2", "3"]})
    assert merged.at.tolist() == [1, 2, 3]


@pytest.mark.parametrize("count", [1, 2, 7])
def test_batched_answers_equal_single_ones(running, count):
    rows = [{"rows": [{"id": name, "x": i / 10}]} for i, name in enumerate(["a", "b", "c"] * 3)][:count]

    async def together():
        return await asyncio.gather(*(running.call.send("POST", "/predict", row) for row in rows))

    batched = [answer.json["predictions"] for answer in asyncio.run(together())]
    assert batched == [running.call("POST", "/predict", row).json["predictions"] for row in rows]
