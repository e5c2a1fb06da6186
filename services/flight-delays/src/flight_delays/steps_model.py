"""Pipeline steps from the training data to a release: fit, evaluate, register, release."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flight_delays import evaluation, training
from flight_delays.dataset import TrainingFrame
from flight_delays.steps_data import Context, Joined, Landed, Skew, load_frame
from flight_delays.training import Baseline, Window, Windows
from plinth.core.digests import digest_json
from plinth.core.gates import Gate, judge_all
from plinth.core.releases import CodeRef, DataRef, FeatureServiceRef, ModelRef, ReleaseManifest
from plinth.governance.lineage import record, release_event
from plinth.models import matplotlib as plots
from plinth.models import onnx
from plinth.models.port import Dataset, Training
from plinth.monitoring import performance
from plinth.monitoring import reference as monitoring_reference
from plinth.monitoring.labels import Labelled
from plinth.monitoring.reference import Reference
from plinth.pipelines.files import FileRef
from plinth.pipelines.step import artifact, step

TOOLS = tuple(f"{name}=={version(name)}" for name in ("lightgbm", "onnx", "onnxmltools"))
REQUIREMENTS = tuple(f"{name}=={version(name)}" for name in ("numpy", "onnxruntime"))


@dataclass(frozen=True)
class Fitted:
    """A trained model in the artefact store: the ONNX model, its drift reference, the baseline beside it."""

    model: FileRef
    reference: FileRef
    baseline: FileRef
    feature_names: tuple[str, ...]
    params: dict[str, str | int | float | bool]
    metrics: dict[str, float]


@dataclass(frozen=True)
class Rival:
    """The serving release's model, and the first UTC day of departures that it was neither trained nor tuned on."""

    model: FileRef
    unseen_from: date


@dataclass(frozen=True)
class Judged:
    """The evidence of an evaluation (JSON) and, for comparison, the digest of the release that served."""

    evidence: FileRef
    metrics: dict[str, float]
    serving: str | None


@dataclass(frozen=True)
class Registered:
    """The registered version, and whether every gate passed."""

    version: str
    run_id: str
    accepted: bool


def _stored(context: Context, content: bytes) -> FileRef:
    digest = context.ports.artifacts.put_bytes(content)
    return FileRef(path=context.ports.artifacts.path(digest), sha256=digest)


@step(version="1", uses=(training, onnx, monitoring_reference, performance))
def fit(
    context: Context, joined: Joined, train: Window, validate: Window, evaluate: Window, tools: tuple[str, ...]
) -> Fitted:
    """Train LightGBM and the baseline, convert to ONNX (compared on unseen rows), count the drift reference.

    `tools` are the versions of what trains and converts: another one means another model.
    """
    frame = load_frame(joined)
    trained = training.train(frame, frame.names, Windows(train=train, validate=validate, evaluate=evaluate))
    tuned = validate.rows(frame)
    held_out = frame.matrix[tuned]
    scores = trained.predict(held_out)
    reference = Reference.build(frame.matrix[train.rows(frame)], frame.names, scores)
    baseline = trained.baseline
    rates = [[*key, rate] for key, rate in sorted(baseline.rates.items())]
    return Fitted(
        model=_stored(context, onnx.convert(trained.booster, held_out)),
        reference=_stored(context, reference.to_json()),
        baseline=_stored(context, json.dumps({"overall": baseline.overall, "rates": rates}).encode()),
        feature_names=trained.feature_names,
        params=trained.params,
        metrics={**trained.metrics, "calibration_gap_bound": _quiet_bound(frame, tuned, scores)},
    )


def _quiet_bound(frame: TrainingFrame, rows: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    """The bound on the calibration gap that the validation window sets: what product.yaml's monitoring goes by."""
    return performance.calibration_threshold(
        Labelled(
            release=np.full(len(scores), "", dtype=object),
            event_time=frame.prediction_time[rows].astype("datetime64[s]").astype("datetime64[us]"),
            score=scores,
            label=frame.label[rows].astype(np.float64),
        )
    )


def load_baseline(fitted: Fitted) -> Baseline:
    """The baseline of a fit."""
    stored = json.loads(fitted.baseline.checked().read_bytes())
    return Baseline(
        stored["overall"], {(carrier, origin, hour): rate for carrier, origin, hour, rate in stored["rates"]}
    )


@step(version="1", uses=(evaluation,))
def evaluate(context: Context, joined: Joined, fitted: Fitted, window: Window, serving: Rival | None) -> Judged:
    """Judge the model on a window that it has not seen, beside the baseline and what serves."""
    frame = load_frame(joined)
    model = fitted.model.checked()
    evidence = evaluation.evaluate(
        frame,
        window,
        lambda matrix: onnx.score(model, matrix),
        load_baseline(fitted),
        serving_model=serving.model.checked() if serving else None,
        unseen_from=serving.unseen_from if serving else None,
    )
    artifact("by-month", table=evidence["months"])
    content = json.dumps(evidence, sort_keys=True).encode()
    return Judged(
        _stored(context, content), evaluation.logged_metrics(evidence), serving.model.sha256 if serving else None
    )


def _evidence(judged: Judged, landed: Landed, skew: Skew) -> dict[str, Any]:
    return {
        **json.loads(judged.evidence.checked().read_bytes()),
        "contracts": [{"batch": f"{batch.dataset}/{batch.batch}", "passed": True} for batch in landed.batches],
        "skew": {"rows": skew.rows, "max_difference": skew.max_difference},
    }


@step(version="1")
def register(
    context: Context, landed: Landed, joined: Joined, fitted: Fitted, judged: Judged, skew: Skew,
    train: Window, validate: Window, window: Window, code: CodeRef, gates: tuple[Gate, ...],
) -> Registered:  # fmt: skip
    """Log the training and register the model: as a candidate, or as rejected with the reasons of its failed gates."""
    product = context.ports.products.get(context.product).spec
    evidence = _evidence(judged, landed, skew)
    verdicts = judge_all(gates, evidence)
    failed = [f"{verdict.gate}: {verdict.reason}" for verdict in verdicts if not verdict.passed]
    artifact("gates", table=[verdict.model_dump() for verdict in verdicts])
    frame = load_frame(joined)
    example = frame.matrix[window.rows(frame)][:5]
    made = context.ports.registry.log_training(
        Training(
            product=product.name,
            model=product.tabular().model.name,
            model_file=_named(context, fitted.model),
            feature_names=fitted.feature_names,
            input_example=example,
            output_example=onnx.score(fitted.model.path, example),
            params=fitted.params,
            metrics={**fitted.metrics, **judged.metrics},
            datasets=[
                Dataset(ref.name, ref.role, ref.start, ref.end, ref.rows, ref.digest)
                for ref in data_refs(landed, frame, train, validate, window)
            ],
            commit=code.commit,
            dirty=code.dirty,
            pip_requirements=REQUIREMENTS,
            alias="rejected" if failed else "candidate",
            reasons=failed,
            plots=plots.evaluation_plots(evidence),
            documents={"evaluation.json": json.dumps(evidence, indent=1)},
            tags={"pipeline_run": context.run_id},
        )
    )
    return Registered(made.version, made.run_id, not failed)


def _named(context: Context, model: FileRef) -> Path:
    """The model under a name that says its format: the store keeps it under its digest."""
    target = context.folder / "model.onnx"
    target.write_bytes(model.checked().read_bytes())
    return target


def data_refs(landed: Landed, frame: TrainingFrame, train: Window, validate: Window, window: Window) -> list[DataRef]:
    """What the model was trained, tuned and judged on: the months that the window touches, by content."""
    roles: Iterable[tuple[Any, Window]] = (("train", train), ("validate", validate), ("evaluate", window))
    refs = []
    for role, span in roles:
        batches = [
            batch
            for batch in landed.batches
            if f"{span.start:%Y-%m}" <= batch.batch <= f"{span.end - np.timedelta64(1, 'D').astype('O'):%Y-%m}"
        ]
        digest = digest_json({f"{batch.dataset}/{batch.batch}": batch.file.sha256 for batch in batches})
        rows = int(span.rows(frame).sum())
        refs.append(
            DataRef(
                name="flights+weather", role=role, start=str(span.start), end=str(span.end), rows=rows, digest=digest
            )
        )
    return refs


@step(version="1")
def release(
    context: Context, landed: Landed, joined: Joined, fitted: Fitted, judged: Judged, skew: Skew,
    registered: Registered, train: Window, validate: Window, window: Window, code: CodeRef,
    gates: tuple[Gate, ...],
) -> str:  # fmt: skip
    """Write the release manifest into the ledger, with its lineage; returns its digest."""
    product = context.ports.products.get(context.product).spec
    plan = context.ports.artifacts.put_file(joined.plan.checked())
    manifest = ReleaseManifest(
        product=product.name,
        model=ModelRef(
            name=product.tabular().model.name, version=registered.version, run_id=registered.run_id, format="onnx"
        ),
        feature_service=FeatureServiceRef(name=product.tabular().model.feature_service, digest=plan),
        contracts=landed.contracts,
        data=tuple(data_refs(landed, load_frame(joined), train, validate, window)),
        code=code,
        artifacts={
            "model.onnx": fitted.model.sha256,
            "read_plan.json": plan,
            "reference.json": fitted.reference.sha256,
        },
        metrics={**fitted.metrics, **judged.metrics},
        verdicts=tuple(judge_all(gates, _evidence(judged, landed, skew))),
        created_at=datetime.now(UTC).isoformat(timespec="microseconds"),
        pipeline_run=context.run_id,
    )
    digest = context.ports.ledger.register_release(manifest, context.ports.actor)
    record(context.ports.ledger, release_event(manifest, digest))
    return digest


def rival(context: Context, digest: str) -> Rival:
    """What a candidate has to compare with: the model of a release, and the first day that it has not seen."""
    manifest = context.ports.ledger.release(digest).manifest
    sha256 = manifest.artifacts["model.onnx"]
    seen = max(date.fromisoformat(ref.end) for ref in manifest.data if ref.role in ("train", "validate"))
    return Rival(FileRef(path=context.ports.artifacts.path(sha256), sha256=sha256), seen)
