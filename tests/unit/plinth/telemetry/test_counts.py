"""Few scores and many are binned by different code, to the same counts."""

import random

import numpy as np
import pytest

from plinth.core.evidence import SCORE_BOUNDS
from plinth.core.routes import Route
from plinth.telemetry.counts import FEW, RolloutCounts


def test_scores_one_by_one_and_all_at_once_are_the_same_counts():
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    dice = np.random.default_rng(seed)
    scores = np.concatenate([dice.random(200), SCORE_BOUNDS, [0.0, 1.0, 1.5, np.nan, np.inf]])
    assert len(scores) > FEW
    route = Route(2, 1, "a", "b", 5000)
    singly, together = RolloutCounts(), RolloutCounts()
    for score in scores:
        singly.add(route, "candidate", "b", failed=False, seconds=0.001, scores=np.array([score]), defaulted=0)
    together.add(route, "candidate", "b", failed=False, seconds=0.001, scores=scores, defaulted=0)
    (one,), (all_,) = singly.now()[1], together.now()[1]
    assert one.cell.scores == all_.cell.scores
    assert sum(one.cell.scores) == len(scores) - 2
    assert one.cell.rows == all_.cell.rows == len(scores)
    assert one.score_sum == pytest.approx(all_.score_sum)
