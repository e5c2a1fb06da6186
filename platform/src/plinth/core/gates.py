"""Gates: rules that a candidate release has to pass, and their verdicts. Pure: evidence in, verdicts out.

Missing evidence never passes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Gate(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BeatsBaseline(_Gate):
    """The candidate's metric is above the baseline's by at least `margin`."""

    kind: Literal["beats-baseline"]
    metric: Literal["auc"] = "auc"
    margin: float = Field(gt=0)


class NotWorseThanServing(_Gate):
    """Paired by day blocks on the same later window, the candidate's log loss is not worse than the serving release's.

    `tolerance` is how much worse the upper bound of the paired difference (candidate minus serving, 95%) may be.
    """

    kind: Literal["not-worse-than-serving"]
    metric: Literal["log_loss"] = "log_loss"
    tolerance: float = Field(ge=0)


class SliceFloor(_Gate):
    """No slice with at least `minimum_rows` rows falls below `floor`."""

    kind: Literal["slice-floor"]
    metric: Literal["auc"] = "auc"
    floor: float = Field(gt=0, lt=1)
    minimum_rows: int = Field(ge=1)


class CalibrationBound(_Gate):
    """The expected calibration error (equal-mass bins) is at most `maximum`."""

    kind: Literal["calibration"]
    maximum: float = Field(gt=0, lt=1)


class ContractPassed(_Gate):
    """Every batch the candidate was trained and judged on passed its data contract."""

    kind: Literal["contract"]


class NoSkew(_Gate):
    """The online features equal the offline join on the sampled rows."""

    kind: Literal["no-skew"]
    tolerance: float = Field(1e-6, ge=0)


Gate = Annotated[
    BeatsBaseline | NotWorseThanServing | SliceFloor | CalibrationBound | ContractPassed | NoSkew,
    Field(discriminator="kind"),
]


class Verdict(BaseModel):
    """What a gate said, and on what evidence."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gate: str
    passed: bool
    observed: float | None
    bound: float | None
    reason: str


def _verdict(gate: _Gate, passed: bool, observed: float | None, bound: float | None, reason: str) -> Verdict:
    return Verdict(gate=gate.kind, passed=passed, observed=observed, bound=bound, reason=reason)  # type: ignore[attr-defined]


def _missing(gate: _Gate, what: str) -> Verdict:
    return _verdict(gate, False, None, None, f"no evidence: {what} is missing, and missing evidence never passes")


def judge(gate: Gate, evidence: Mapping[str, Any]) -> Verdict:
    """One gate over the evidence.

    Args:
        gate: The rule.
        evidence: `auc`, `baseline_auc`, `calibration_error` (floats); `slices`: list of
            `{"slice", "value", "rows", "auc"}`; `contracts`: list of `{"batch", "passed"}`; `skew`:
            `{"rows", "max_difference"}`; `serving`: None when nothing serves yet, else
            `{"log_loss_difference", "upper_bound", "days"}` (candidate minus serving, paired by day).
    """
    match gate:
        case BeatsBaseline():
            ours, baseline = evidence.get("auc"), evidence.get("baseline_auc")
            if ours is None or baseline is None:
                return _missing(gate, "auc or baseline_auc")
            gain = ours - baseline
            return _verdict(
                gate, gain >= gate.margin, gain, gate.margin, f"AUC {ours:.4f} against the baseline's {baseline:.4f}"
            )
        case NotWorseThanServing():
            if "serving" not in evidence:
                return _missing(gate, "the comparison with the serving release")
            serving = evidence["serving"]
            if serving is None:
                return _verdict(gate, True, None, gate.tolerance, "nothing serves yet: no release to compare with")
            upper = serving["upper_bound"]
            return _verdict(
                gate,
                upper <= gate.tolerance,
                upper,
                gate.tolerance,
                f"log loss difference {serving['log_loss_difference']:+.5f}, 95% upper bound {upper:+.5f}, "
                f"paired over {serving['days']} days",
            )
        case SliceFloor():
            slices = [row for row in evidence.get("slices") or [] if row["rows"] >= gate.minimum_rows]
            if not slices:
                return _missing(gate, f"slices of at least {gate.minimum_rows} rows")
            worst = min(slices, key=lambda row: row["auc"])
            return _verdict(
                gate,
                worst["auc"] >= gate.floor,
                worst["auc"],
                gate.floor,
                f"worst of {len(slices)} slices is {worst['slice']}={worst['value']} ({worst['rows']} rows)",
            )
        case CalibrationBound():
            error = evidence.get("calibration_error")
            if error is None:
                return _missing(gate, "calibration_error")
            return _verdict(gate, error <= gate.maximum, error, gate.maximum, "expected calibration error")
        case ContractPassed():
            batches = evidence.get("contracts")
            if not batches:
                return _missing(gate, "contract results")
            broken = [row["batch"] for row in batches if not row["passed"]]
            reason = f"{len(batches)} batches checked" + (f", broken: {', '.join(broken)}" if broken else "")
            return _verdict(gate, not broken, float(len(broken)), 0.0, reason)
        case NoSkew():
            skew = evidence.get("skew")
            if not skew or not skew.get("rows"):
                return _missing(gate, "the training-serving skew check")
            worst_difference = skew["max_difference"]
            return _verdict(
                gate, worst_difference <= gate.tolerance, worst_difference, gate.tolerance, f"{skew['rows']} rows"
            )


def judge_all(gates: Iterable[Gate], evidence: Mapping[str, Any]) -> list[Verdict]:
    """Every gate over the same evidence, in the order declared."""
    return [judge(gate, evidence) for gate in gates]
