"""Rollouts in simulated time: the real gates and state machine, traffic drawn from recorded latencies and scores.

20 requests a second, judged every second, or every half minute in rollouts that wait for labels. A/A rollouts say how
often a harmless candidate is rolled back; seeded regressions say whether a harmful one gets all traffic. Another seed:
PLINTH_SIMULATION_SEED=7 pytest tests/integration/test_rollout_simulation.py -s
"""

import os
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from simulation import HEALTHY, Fault, noise_for, product, roll_out_all, with_quality_required


@pytest.fixture(scope="module")
def pool():
    """A process for each core: a simulation is arithmetic, and nothing else."""
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as made:
        yield made


def test_harmless_candidates_are_hardly_ever_rolled_back(pool):
    ended = roll_out_all(pool, "A/A", product(), HEALTHY, range(180))
    ended += roll_out_all(pool, "A/A with labels", with_quality_required(), HEALTHY, range(180, 200), every=30)
    phases = Counter(state.phase for state, _, _ in ended)
    assert phases["aborting"] <= 0.05 * len(ended)
    # A gate that stops everything would reach the numbers below as well.
    assert phases["promoting"] >= 0.9 * len(ended)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("latency x1.5", Fault(slower=1.5)),
        ("2% errors", Fault(errors=0.02)),
        ("scores +0.1", Fault(shift=0.1)),
    ],
)
def test_no_regression_reaches_all_traffic(pool, name, fault):
    ended = roll_out_all(pool, name, product(), fault, range(1000, 1050))
    assert all(state.phase in ("aborting", "paused") for state, _, _ in ended)
    assert all(state.stage < 2 for state, _, _ in ended)
    assert Counter(state.phase for state, _, _ in ended)["aborting"] >= 45


def test_no_worse_model_reaches_all_traffic_where_quality_is_required(pool):
    fault = Fault(noise=noise_for(0.05))
    ended = roll_out_all(pool, "AUC -0.05", with_quality_required(), fault, range(2000, 2050), every=30)
    assert all(state.phase in ("aborting", "paused") for state, _, _ in ended)
    assert all(state.stage < 2 for state, _, _ in ended)
    assert Counter(state.phase for state, _, _ in ended)["aborting"] >= 45
