"""Evidence of a rollout: what each release did with its share of the traffic, counted. Plain data, no tool.

Counts and histograms with fixed bins, because every signal source can give them (the inference log and Prometheus),
they add up, and the gates' sequential tests need nothing more.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Arm = Literal["serving", "candidate", "shadow"]
"""Who scored: the serving release, the candidate answering its share, or the candidate off the response path."""

ARMS: tuple[Arm, ...] = ("serving", "candidate", "shadow")

LATENCY_RATIO = 1.5**0.5
"""Each latency bound is this much above the one before: a release 1.5 times as slow is two bins up."""

LATENCY_BOUNDS: tuple[float, ...] = tuple(round(0.0001 * LATENCY_RATIO**i, 7) for i in range(58))
"""Upper bounds (inclusive, as Prometheus has them) of the latency bins in seconds, 0.1 ms to about 10 s."""

SCORE_WIDTH = 0.025
SCORE_BOUNDS: tuple[float, ...] = tuple(round(SCORE_WIDTH * i, 3) for i in range(1, 40))
"""Upper bounds (inclusive) of the score bins over [0, 1]."""

LATENCY_BINS = len(LATENCY_BOUNDS) + 1
SCORE_BINS = len(SCORE_BOUNDS) + 1


def bin_of(value: float, bounds: tuple[float, ...]) -> int:
    """Number of the bin of a value: bin i holds what is above bound i-1 and at most bound i."""
    return bisect.bisect_left(bounds, value)


@dataclass(frozen=True, slots=True)
class Cell:
    """What one arm did in one step of a rollout.

    Attributes:
        step: Step of the route (1 is the first stage).
        arm: Who scored.
        release: Its digest.
        requests: Requests it took part in.
        errors: Those that failed because of the service (status 500 and above).
        latency: Requests by latency bin, [LATENCY_BINS]; failed ones count too.
        scores: Instances by score bin, [SCORE_BINS]; an assistant's answers by how well their citations support them.
        rows: Instances scored; answers.
        defaulted: Instances that a feature view had no fresh value for; answers that a guardrail stepped in on.
        busy_seconds: Time spent answering, for the cost of a request.
    """

    step: int
    arm: Arm
    release: str
    requests: int = 0
    errors: int = 0
    latency: tuple[int, ...] = (0,) * LATENCY_BINS
    scores: tuple[int, ...] = (0,) * SCORE_BINS
    rows: int = 0
    defaulted: int = 0
    busy_seconds: float = 0.0

    def __add__(self, other: Cell) -> Cell:
        """Both cells' counts, under this one's step, arm and release."""
        return Cell(
            self.step,
            self.arm,
            self.release,
            self.requests + other.requests,
            self.errors + other.errors,
            tuple(a + b for a, b in zip(self.latency, other.latency, strict=True)),
            tuple(a + b for a, b in zip(self.scores, other.scores, strict=True)),
            self.rows + other.rows,
            self.defaulted + other.defaulted,
            self.busy_seconds + other.busy_seconds,
        )


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Predictions whose outcome is known, in the order they were answered: `score` and `label` (0 or 1), both [n]."""

    score: tuple[float, ...] = ()
    label: tuple[int, ...] = ()


@dataclass(frozen=True)
class Evidence:
    """Everything the gates of a rollout look at. What is None was not looked at or could not be read.

    Attributes:
        cells: All of this rollout's cells, by step and arm.
        windows: Length in seconds to the cells of only the last so many seconds.
        outcomes: Labelled predictions by arm.
        drift: Feature to population stability index of the candidate's inputs against its training reference.
        contract_violations: Batches quarantined since the rollout began.
        problem: Why a source could not be read, for people.
    """

    cells: tuple[Cell, ...] = ()
    windows: Mapping[int, tuple[Cell, ...]] = field(default_factory=dict)
    outcomes: Mapping[Arm, Outcomes] | None = None
    drift: Mapping[str, float] | None = None
    contract_violations: int | None = None
    problem: str = ""

    def total(self, arm: Arm, steps: Iterable[int] | None = None) -> Cell | None:
        """The arm's cells added up, over these steps or all; None when there is none."""
        return total(self.cells, arm, steps)


def total(cells: Iterable[Cell], arm: Arm, steps: Iterable[int] | None = None) -> Cell | None:
    """The cells of one arm added up; None when there is none."""
    wanted = None if steps is None else set(steps)
    found = [cell for cell in cells if cell.arm == arm and (wanted is None or cell.step in wanted)]
    if not found:
        return None
    added = found[0]
    for cell in found[1:]:
        added += cell
    return added
