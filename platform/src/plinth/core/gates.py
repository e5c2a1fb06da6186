"""Gates: rules that a candidate release has to pass, and their verdicts. Pure: evidence in, verdicts out.

Missing evidence never passes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat


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


class RetrievalFloor(_Gate):
    """On the golden questions that the documents answer, the metric's mean is at least `floor`."""

    kind: Literal["retrieval"]
    metric: Literal["ndcg@10", "recall@10", "mrr"]
    floor: float = Field(gt=0, le=1)


class AnswersFloor(_Gate):
    """On the golden questions, the share of answers that are right is at least `floor`.

    `correctness` is of questions that the documents answer, `refusal` of those that they do not, `groundedness` of
    those that were answered.
    """

    kind: Literal["answers"]
    metric: Literal["correctness", "groundedness", "refusal"]
    floor: float = Field(gt=0, le=1)


class NoHarm(_Gate):
    """At most `maximum` golden answers show a canary, the prompt or what an attack asked for."""

    kind: Literal["no-harm"]
    maximum: int = Field(0, ge=0)


class NotWorse(_Gate):
    """On the same golden questions, the metric is not worse than the serving release's.

    `tolerance` is how far below 0 the lower bound of the paired difference (candidate minus serving, 95%) may be.
    """

    kind: Literal["not-worse"]
    metric: Literal["ndcg@10", "recall@10", "mrr", "correctness", "groundedness", "refusal"]
    tolerance: float = Field(ge=0, lt=1)


class IndexChecks(_Gate):
    """Every check of the index build passed."""

    kind: Literal["index-checks"]


Gate = Annotated[
    BeatsBaseline
    | NotWorseThanServing
    | SliceFloor
    | CalibrationBound
    | ContractPassed
    | NoSkew
    | RetrievalFloor
    | AnswersFloor
    | NoHarm
    | NotWorse
    | IndexChecks,
    Field(discriminator="kind"),
]


class Verdict(BaseModel):
    """What a gate said, and on what evidence."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gate: str
    passed: bool
    observed: FiniteFloat | None
    bound: FiniteFloat | None
    reason: str


def _verdict(gate: _Gate, passed: bool, observed: float | None, bound: float | None, reason: str) -> Verdict:
    return Verdict(gate=gate.kind, passed=passed, observed=observed, bound=bound, reason=reason)  # type: ignore[attr-defined]


def _missing(gate: _Gate, what: str) -> Verdict:
    return _verdict(gate, False, None, None, f"no evidence: {what} is missing, and missing evidence never passes")


def judge(gate: Gate, evidence: Mapping[str, Any]) -> Verdict:
    """One gate over the evidence. Evidence that is absent, NaN, infinite or of the wrong type is missing evidence.

    Args:
        gate: The rule.
        evidence: `auc`, `baseline_auc`, `calibration_error` (floats); `slices`: list of
            `{"slice", "value", "rows", "auc"}`; `contracts`: list of `{"batch", "passed"}`; `skew`:
            `{"rows", "max_difference"}`; `serving`: None when nothing serves yet, else
            `{"log_loss_difference", "upper_bound", "days"}` (candidate minus serving, paired by day). Of assistants:
            `retrieval` and `answers`: each a metric to `{"value", "questions"}`; `harm`: `{"harmful", "questions"}`;
            `against`: None when nothing serves yet, else a metric to `{"difference", "lower_bound", "questions"}`
            (candidate minus serving, paired by question); `index`: list of `{"check", "passed", "reason"}`.
    """
    match gate:
        case BeatsBaseline():
            return _beats_baseline(gate, evidence)
        case NotWorseThanServing():
            return _not_worse_than_serving(gate, evidence)
        case SliceFloor():
            return _slice_floor(gate, evidence)
        case CalibrationBound():
            error = _number(evidence, "calibration_error")
            if error is None or error < 0:
                return _missing(gate, "calibration_error")
            return _verdict(gate, error <= gate.maximum, error, gate.maximum, "expected calibration error")
        case ContractPassed():
            return _contract_passed(gate, evidence)
        case NoSkew():
            return _no_skew(gate, evidence)
        case RetrievalFloor():
            return _floor(gate, evidence.get("retrieval"))
        case AnswersFloor():
            return _floor(gate, evidence.get("answers"))
        case NoHarm():
            return _no_harm(gate, evidence)
        case NotWorse():
            return _not_worse(gate, evidence)
        case IndexChecks():
            return _index_checks(gate, evidence)


def _number(evidence: object, name: str) -> float | None:
    """A finite number of the evidence, or None. Booleans are no numbers here."""
    value = evidence.get(name) if isinstance(evidence, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _rows(evidence: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """A list of mappings of the evidence; anything else is an empty list."""
    value = evidence.get(name)
    if not isinstance(value, list | tuple) or not all(isinstance(row, Mapping) for row in value):
        return []
    return list(value)


def _beats_baseline(gate: BeatsBaseline, evidence: Mapping[str, Any]) -> Verdict:
    ours, baseline = _number(evidence, "auc"), _number(evidence, "baseline_auc")
    if ours is None or baseline is None:
        return _missing(gate, "auc or baseline_auc")
    gain = ours - baseline
    reason = f"AUC {ours:.4f} against the baseline's {baseline:.4f}"
    return _verdict(gate, gain >= gate.margin, gain, gate.margin, reason)


def _not_worse_than_serving(gate: NotWorseThanServing, evidence: Mapping[str, Any]) -> Verdict:
    if "serving" not in evidence:
        return _missing(gate, "the comparison with the serving release")
    serving = evidence["serving"]
    if serving is None:
        return _verdict(gate, True, None, gate.tolerance, "no serving release to compare with")
    difference, upper, days = (_number(serving, key) for key in ("log_loss_difference", "upper_bound", "days"))
    if difference is None or upper is None or not days or upper < difference:
        return _missing(gate, "a bound on the difference to the serving release (too few days?)")
    reason = f"log loss difference {difference:+.5f}, 95% upper bound {upper:+.5f}, paired over {days:.0f} days"
    return _verdict(gate, upper <= gate.tolerance, upper, gate.tolerance, reason)


def _slice_floor(gate: SliceFloor, evidence: Mapping[str, Any]) -> Verdict:
    sized = [(row, _number(row, "rows"), _number(row, "auc")) for row in _rows(evidence, "slices")]
    # A slice that does not say how many rows it has might be a large one.
    large = [(row, value) for row, rows, value in sized if rows is None or rows >= gate.minimum_rows]
    if not large:
        return _missing(gate, f"slices of at least {gate.minimum_rows} rows")
    unknown = [f"{row.get('slice')}={row.get('value')}" for row, value in large if value is None]
    if unknown:
        return _missing(gate, f"the AUC of {', '.join(unknown[:5])}")
    worst, value = min(((row, value) for row, value in large if value is not None), key=lambda pair: pair[1])
    reason = f"worst of {len(large)} slices is {worst.get('slice')}={worst.get('value')} ({worst.get('rows')} rows)"
    return _verdict(gate, value >= gate.floor, value, gate.floor, reason)


def _contract_passed(gate: ContractPassed, evidence: Mapping[str, Any]) -> Verdict:
    batches = _rows(evidence, "contracts")
    if not batches:
        return _missing(gate, "contract results")
    broken = [str(row.get("batch")) for row in batches if row.get("passed") is not True]
    reason = f"{len(batches)} batches checked" + (f", broken: {', '.join(broken)}" if broken else "")
    return _verdict(gate, not broken, float(len(broken)), 0.0, reason)


def _no_skew(gate: NoSkew, evidence: Mapping[str, Any]) -> Verdict:
    skew = evidence.get("skew")
    rows, worst = _number(skew, "rows"), _number(skew, "max_difference")
    if not rows or rows < 0 or worst is None or worst < 0:
        return _missing(gate, "the training-serving skew check")
    return _verdict(gate, worst <= gate.tolerance, worst, gate.tolerance, f"{rows:.0f} rows")


def _floor(gate: RetrievalFloor | AnswersFloor, metrics: object) -> Verdict:
    found = metrics.get(gate.metric) if isinstance(metrics, Mapping) else None
    value, questions = _number(found, "value"), _number(found, "questions")
    if value is None or not 0 <= value <= 1 or not questions or questions < 0:
        return _missing(gate, f"{gate.metric} on the golden questions")
    reason = f"{gate.metric} {value:.3f} over {questions:.0f} golden questions"
    return _verdict(gate, value >= gate.floor, value, gate.floor, reason)


def _no_harm(gate: NoHarm, evidence: Mapping[str, Any]) -> Verdict:
    harm = evidence.get("harm")
    harmful, questions = _number(harm, "harmful"), _number(harm, "questions")
    if harmful is None or harmful < 0 or not questions or questions < harmful:
        return _missing(gate, "the count of harmful answers")
    reason = f"{harmful:.0f} of {questions:.0f} golden answers are harmful"
    return _verdict(gate, harmful <= gate.maximum, harmful, float(gate.maximum), reason)


def _not_worse(gate: NotWorse, evidence: Mapping[str, Any]) -> Verdict:
    if "against" not in evidence:
        return _missing(gate, "the comparison with the serving release")
    against = evidence["against"]
    if against is None:
        return _verdict(gate, True, None, -gate.tolerance, "no serving release to compare with")
    found = against.get(gate.metric) if isinstance(against, Mapping) else None
    difference, lower, questions = (_number(found, key) for key in ("difference", "lower_bound", "questions"))
    if difference is None or lower is None or not questions or questions < 0 or lower > difference:
        return _missing(gate, f"a bound on the difference of {gate.metric} to the serving release")
    reason = f"{gate.metric} {difference:+.3f}, 95% lower bound {lower:+.3f}, paired over {questions:.0f} questions"
    return _verdict(gate, lower >= -gate.tolerance, lower, -gate.tolerance, reason)


def _index_checks(gate: IndexChecks, evidence: Mapping[str, Any]) -> Verdict:
    checks = _rows(evidence, "index")
    if not checks:
        return _missing(gate, "the checks of the index build")
    failed = [row for row in checks if row.get("passed") is not True]
    reason = f"{len(checks)} checks" + "".join(f"; {row.get('check')}: {row.get('reason')}" for row in failed[:3])
    return _verdict(gate, not failed, float(len(failed)), 0.0, reason)


def judge_all(gates: Iterable[Gate], evidence: Mapping[str, Any]) -> list[Verdict]:
    """Every gate over the same evidence, in the order declared."""
    return [judge(gate, evidence) for gate in gates]
