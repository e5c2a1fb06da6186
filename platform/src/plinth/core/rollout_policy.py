"""How a product's releases reach all traffic: strategy, steps, gates, approvals. The `rollout` part of `product.yaml`.

Everything has a default by tier, so a product that writes nothing has a governed path.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from plinth.core.durations import Duration, seconds
from plinth.core.evidence import LATENCY_RATIO, SCORE_WIDTH
from plinth.errors import InvalidInput

Strategy = Literal["canary", "shadow", "blue-green"]
Tier = Literal[1, 2, 3]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Compare(_Frozen):
    """The candidate against the serving release on the same traffic, by a sequential test.

    It fails on evidence that the candidate is worse by more than `tolerance`, passes on evidence that it is worse by
    less than `effect`, and says nothing in between. Both are in the metric's unit: a share for `errors` and
    `defaulted`, a factor above 1 for `latency`, a shift of the score for `scores`. The last two are compared in whole
    bins (a factor of 1.22, a shift of 0.025): the tolerance is rounded up to one, the effect down. An assistant's score
    is how well an answer's citations support it, of which more is not worse; defaulted are its answers that a guardrail
    stepped in on.
    """

    kind: Literal["compare"]
    metric: Literal["errors", "latency", "scores", "defaulted"]
    tolerance: float = Field(ge=0)
    effect: float = Field(gt=0)

    @model_validator(mode="after")
    def _fits(self) -> Compare:
        if self.effect <= self.tolerance:
            raise ValueError("effect must be above tolerance")
        if self.metric == "latency" and self.tolerance < 1:
            raise ValueError("latency is compared by a factor: tolerance 1.0 is no difference")
        # What is counted in bins cannot be told apart within one.
        if self.metric == "latency" and self.effect < LATENCY_RATIO:
            raise ValueError(f"effect is one latency bin or more, {LATENCY_RATIO:.4f}")
        if self.metric == "scores" and self.effect < SCORE_WIDTH:
            raise ValueError(f"effect is one score bin or more, {SCORE_WIDTH}")
        if self.metric != "latency" and self.effect >= 1:
            raise ValueError("effect is a share or a shift below 1")
        return self


SUPPORT_EFFECT = 3 * SCORE_WIDTH
"""Least `effect` of an assistant's scores: each mean is known to a bin, so that less than two cannot be ruled out."""


class Threshold(_Frozen):
    """One of the candidate's metrics is at most `maximum`, whatever the serving release does."""

    kind: Literal["threshold"]
    metric: Literal["error-rate", "latency-p99-ms", "defaulted-rate", "cost-per-1000"]
    maximum: float = Field(gt=0)

    @model_validator(mode="after")
    def _fits(self) -> Threshold:
        if self.metric in ("error-rate", "defaulted-rate") and self.maximum >= 1:
            raise ValueError("maximum is a share below 1")
        return self


class BurnWindow(_Frozen):
    """An alert of the multi-window, multi-burn-rate method (Google SRE workbook, chapter 5)."""

    long: Duration
    short: Duration
    rate: float = Field(gt=0, description="Speed of the budget's burning; 1 uses it up exactly in the level's window.")

    @model_validator(mode="after")
    def _is_shorter(self) -> BurnWindow:
        if seconds(self.short) >= seconds(self.long):
            raise ValueError("short is shorter than long")
        return self


class Burn(_Frozen):
    """The candidate does not burn the error budget of the product's availability and latency service levels.

    It fails when, in both windows of a pair, the budget burns faster than the pair's rate, and a sequential test says
    that this is no chance. Windows longer than the rollout look at all of it.
    """

    kind: Literal["burn"]
    windows: Annotated[tuple[BurnWindow, ...], Field(min_length=1)] = (
        BurnWindow(long="1h", short="5m", rate=14.4),
        BurnWindow(long="6h", short="30m", rate=6.0),
        BurnWindow(long="3d", short="6h", rate=1.0),
    )


class Quality(_Frozen):
    """The candidate's AUC on labelled predictions is not below the serving release's by more than `tolerance`.

    As `Compare`: passes on evidence that it is below by less than `effect`. Where `required` is false it can roll back
    but holds nothing up: a rollout whose labels are late or few goes on without them.
    """

    kind: Literal["quality"]
    metric: Literal["auc"] = "auc"
    tolerance: float = Field(0.005, ge=0, lt=1)
    effect: float = Field(0.05, gt=0, lt=1)
    required: bool = False

    @model_validator(mode="after")
    def _fits(self) -> Quality:
        if self.effect <= self.tolerance:
            raise ValueError("effect must be above tolerance")
        return self


class Drift(_Frozen):
    """At most `features` watched inputs of the candidate have a population stability index above `psi`."""

    kind: Literal["drift"]
    psi: float = Field(0.25, gt=0)
    features: int = Field(0, ge=0)


class Contract(_Frozen):
    """No batch of the product's data broke its contract since the rollout began."""

    kind: Literal["contract"]


RolloutGate = Annotated[
    Compare | Threshold | Burn | Quality | Drift | Contract,
    Field(discriminator="kind"),
]

DEFAULT_GATES: tuple[RolloutGate, ...] = (
    Compare(kind="compare", metric="errors", tolerance=0.001, effect=0.02),
    Compare(kind="compare", metric="latency", tolerance=1.2, effect=1.5),
    Compare(kind="compare", metric="scores", tolerance=0.05, effect=0.1),
    Compare(kind="compare", metric="defaulted", tolerance=0.02, effect=0.1),
    Burn(kind="burn"),
    Quality(kind="quality", tolerance=0.005, effect=0.05),
    Contract(kind="contract"),
)

ASSISTANT_GATES: tuple[RolloutGate, ...] = (
    Compare(kind="compare", metric="errors", tolerance=0.001, effect=0.02),
    Compare(kind="compare", metric="latency", tolerance=1.5, effect=2.5),
    Compare(kind="compare", metric="scores", tolerance=0.05, effect=0.15),
    Compare(kind="compare", metric="defaulted", tolerance=0.05, effect=0.2),
    Burn(kind="burn"),
    Contract(kind="contract"),
)
"""Of assistants: their answers get no labels, and vary more in time and support than a model's scores do."""

Percent = Annotated[int, Field(ge=1, le=100)]


class RolloutPolicy(_Frozen):
    """How releases of the product are rolled out. What is left out comes from the tier."""

    strategy: Strategy = Field("canary", description="canary: by steps; shadow: unseen, then all; blue-green: at once.")
    steps: tuple[Percent, ...] | None = Field(None, description="Percent of the entities, step by step, up to 100.")
    shadow: Duration | Literal["0s"] | None = Field(None, description="Time unseen before the first step; 0s is none.")
    bake: Duration | None = Field(None, description="Time each step is watched at least.")
    patience: Duration | None = Field(
        None, description="Time beyond the bake after which a step without a verdict is paused, or rolled back when "
        "there is no evidence at all.",
    )  # fmt: skip
    approvals: int | None = Field(None, ge=0, le=5, description="People who must approve before traffic moves.")
    own_approval: bool | None = Field(None, description="Whether who made or started the change may approve it.")
    direct: bool | None = Field(
        None, description="Whether `release promote` may replace what serves at once, without a rollout."
    )
    gates: tuple[RolloutGate, ...] | None = Field(None, min_length=1, description="What judges each step.")

    @field_validator("steps")
    @classmethod
    def _steps_rise(cls, steps: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if steps is not None:  # checked on the field, so that a manifest's problem has its line
            check_steps(steps)
        return steps


_TIERS: dict[int, dict[str, Any]] = {
    1: {"steps": (1, 5, 25, 50, 100), "shadow": "10m", "bake": "10m", "patience": "1h", "approvals": 1,
        "own_approval": False, "direct": False},
    2: {"steps": (5, 25, 50, 100), "shadow": "5m", "bake": "5m", "patience": "30m", "approvals": 0,
        "own_approval": True, "direct": True},
    3: {"steps": (10, 50, 100), "shadow": "0s", "bake": "1m", "patience": "10m", "approvals": 0,
        "own_approval": True, "direct": True},
}  # fmt: skip


def resolve(policy: RolloutPolicy | None, tier: Tier, gates: tuple[RolloutGate, ...] = DEFAULT_GATES) -> RolloutPolicy:
    """The policy with every field filled in from the tier's defaults, and the gates from those given."""
    given = policy.model_dump(exclude_none=True) if policy is not None else {}
    filled: dict[str, Any] = {**_TIERS[tier], "gates": gates, **given}
    return RolloutPolicy.model_validate(filled)


def check_steps(steps: tuple[int, ...]) -> None:
    """Steps rise to 100.

    Raises:
        ValueError: They do not.
    """
    if not steps or steps[-1] != 100 or any(b <= a for a, b in pairwise(steps)) or steps[0] < 1:
        raise ValueError(f"steps rise from 1 or more to 100, and {', '.join(map(str, steps)) or 'none'} do not")


def parse_steps(text: str) -> tuple[int, ...]:
    """The steps of a command line, such as `1,10,50,100`.

    Raises:
        InvalidInput: They are no rising percentages that end with 100.
    """
    try:
        steps = tuple(int(part) for part in text.split(","))
        check_steps(steps)
    except ValueError as error:
        reason = str(error) if "steps" in str(error) else f"{text!r} are no percentages"
        raise InvalidInput(reason, where="--steps", hint="write them as 1,10,50,100") from error
    return steps
