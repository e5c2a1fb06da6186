"""Rollouts in simulated time: the real gates and state machine, traffic drawn from recorded latencies and scores.

20 requests a second, judged every second, or every half minute in rollouts that wait for labels.
"""

import json
import os
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import yaml

from plinth.core.evidence import LATENCY_BINS, LATENCY_BOUNDS, SCORE_BINS, SCORE_BOUNDS, Cell, Evidence, Outcomes
from plinth.core.products import Product
from plinth.core.rollout_gates import judge, windows
from plinth.core.rollout_policy import DEFAULT_GATES, Quality
from plinth.core.rollouts import Tick, advance, first_state, make_plan, route

ROOT = Path(__file__).parents[1]
SEED = int(os.environ.get("PLINTH_SIMULATION_SEED", "20261123"))
RATE = 20
LONGEST = 3600

RECORDED = json.loads((ROOT / "tests" / "integration" / "recorded_signals.json").read_text())
SECONDS = np.array(RECORDED["seconds"])
# The synthetic model's answers lie near 1. The complement, the probability of the other class, has room for a shift up.
SCORES = 1 - np.array(RECORDED["scores"])[::-1]
LATENCY_EDGES, SCORE_EDGES = np.array(LATENCY_BOUNDS), np.array(SCORE_BOUNDS)


def product(**rollout):
    """The reference product with tier 3's gates and steps: 10%, 50%, all. Each takes 20 s at least instead of a minute:
    a regression has less time to be found, and the test takes less time, too.
    """
    document = yaml.safe_load((ROOT / "services" / "flight-delays" / "product.yaml").read_text())
    return Product.model_validate(document | {"tier": 3, "rollout": {"bake": "20s"} | rollout})


def with_quality_required():
    gates = [gate for gate in DEFAULT_GATES if gate.kind != "quality"]
    gates.append(Quality(kind="quality", tolerance=0.005, effect=0.05, required=True))
    return product(gates=[gate.model_dump() for gate in gates], patience="30m")


def draw(dice, quantiles, n):
    """n values of the recorded distribution."""
    return np.interp(dice.random(n) * (len(quantiles) - 1), np.arange(len(quantiles)), quantiles)


@dataclass(frozen=True)
class Fault:
    """What is wrong with a candidate."""

    slower: float = 1.0
    errors: float = 0.0
    shift: float = 0.0
    noise: float = (
        0.0  # share of the scores that belong to another, random instance: the AUC falls, their distribution stays
    )


HEALTHY = Fault()


@dataclass
class Traffic:
    """What one rollout's releases have done so far, counted as the signal source counts it."""

    dice: np.random.Generator
    labelled: bool
    counts: dict = field(default_factory=dict)  # (step, arm) to requests, errors, rows, busy, latency, scores
    history: list = field(default_factory=list)
    scored: dict = field(default_factory=lambda: {"serving": ([], []), "candidate": ([], [])})
    sent: int = 0

    def send(self, way, fault, seconds):
        """Some seconds' requests along a route; every request is an entity of its own."""
        ids = (f"flight-{number}" for number in range(self.sent, self.sent + RATE * seconds))
        self.sent += RATE * seconds
        mine = sum(way.to_candidate(ids))
        self.answer(way.step, "candidate", mine, fault)
        self.answer(way.step, "serving", RATE * seconds - mine, HEALTHY)
        self.history.append({key: count.copy() for key, count in self.counts.items()})

    def answer(self, step, arm, n, fault):
        if n == 0:
            return
        failed = int(self.dice.binomial(n, fault.errors))
        seconds = draw(self.dice, SECONDS, n) * fault.slower
        truth = draw(self.dice, SCORES, n - failed)
        labels = self.dice.random(len(truth)) < truth
        mixed = self.dice.random(len(truth)) < fault.noise
        scores = np.clip(np.where(mixed, draw(self.dice, SCORES, len(truth)), truth) + fault.shift, 0, 1)
        count = self.counts.setdefault((step, arm), np.zeros(3 + LATENCY_BINS + SCORE_BINS, np.int64))
        count[:3] += n, failed, n - failed
        np.add.at(count, 3 + np.searchsorted(LATENCY_EDGES, seconds), 1)
        np.add.at(count, 3 + LATENCY_BINS + np.searchsorted(SCORE_EDGES, scores), 1)
        if self.labelled:
            self.scored[arm][0].extend(scores.tolist())
            self.scored[arm][1].extend(labels.tolist())

    def cells(self, since=None):
        """The counts as cells, those of a window less what had been counted before it."""
        cells = []
        for (step, arm), count in self.counts.items():
            left = count if since is None else count - since.get((step, arm), 0)
            requests, errors, rows, *bins = left.tolist()
            cells.append(
                Cell(step, arm, arm, requests, errors, tuple(bins[:LATENCY_BINS]), tuple(bins[LATENCY_BINS:]), rows)
            )
        return tuple(cells)

    def evidence(self, lengths):
        """Everything the gates look at; windows have these lengths in ticks."""
        every, now = self.cells(), len(self.history)
        seen = {
            length: self.cells(self.history[now - ticks - 1]) if ticks < now else every
            for length, ticks in lengths.items()
        }
        outcomes = None
        if self.labelled:
            outcomes = {arm: Outcomes(tuple(score), tuple(map(int, y))) for arm, (score, y) in self.scored.items()}
        return Evidence(every, seen, outcomes, contract_violations=0)


def roll_out(product, fault, number, *, every=1):
    """One rollout. Returns its last state, the seconds it took and why it ended."""
    plan = make_plan(product)
    traffic = Traffic(np.random.default_rng([SEED, number]), labelled=every > 1)
    state, points, why = first_state(plan), 0, ""
    lengths = {length: length // every for length in windows(plan)}
    for _ in range(LONGEST // every):
        way = route(plan, state, generation=number + 1, serving="s", candidate="c")
        traffic.send(way, fault, every)
        points += RATE * every
        verdicts = judge(plan, state, traffic.evidence(lengths), product)
        after, why = advance(plan, state, Tick(float(every), True, verdicts, points)).state, ""
        if (after.stage, after.phase) != (state.stage, state.phase):
            points, why = (
                0,
                "; ".join(f"{one.gate} {one.outcome}: {one.reason}" for one in verdicts if one.outcome != "pass"),
            )
        state = after
        if state.phase in ("promoting", "aborting", "paused"):
            break
    return state, len(traffic.history) * every, why


def roll_out_all(pool, name, product, fault, numbers, **options):
    """Several rollouts, each of its own seed, in the processes of a pool; prints what became of them."""
    print("seed", SEED)
    ended = list(pool.map(partial(roll_out, product, fault, **options), numbers))
    for phase, count in Counter(state.phase for state, _, _ in ended).items():
        took = sorted(second for state, second, _ in ended if state.phase == phase)
        print(f"{name}: {phase} {count} of {len(ended)}, after {median(took):.0f} s (median), {took[-1]} s (longest)")
    for why, count in Counter(why[:150] for state, _, why in ended if state.phase != "promoting").most_common(3):
        print(f"    {count}: {why}")
    return ended


def noise_for(loss):
    """Share of mixed-up scores that costs so much AUC, measured on drawn outcomes."""
    dice = np.random.default_rng(1)
    truth = draw(dice, SCORES, 200_000)
    labels = dice.random(len(truth)) < truth
    positive, negative = truth[labels], truth[~labels]

    def auc(share):
        mixed = [
            np.where(dice.random(len(one)) < share, draw(dice, SCORES, len(one)), one) for one in (positive, negative)
        ]
        ranks = np.searchsorted(np.sort(mixed[1]), mixed[0])
        return ranks.mean() / len(mixed[1])

    whole = auc(0.0)
    shares = np.linspace(0, 0.6, 121)
    lost = [whole - auc(share) for share in shares]
    return float(np.interp(loss, np.maximum.accumulate(lost), shares))
