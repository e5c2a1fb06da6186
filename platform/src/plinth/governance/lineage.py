"""Lineage as OpenLineage events, and the walk from a release back to data, code and features.

Events are plain JSON as the standard's run events are (https://openlineage.io/spec/2-0-2/OpenLineage.json), made here
without its client: the client brings an HTTP stack for sending, and ours are kept in the ledger.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from plinth import __version__
from plinth.core.digests import digest_json
from plinth.core.releases import ReleaseManifest
from plinth.ledger.store import Ledger, ReleaseRecord

EVENT_KIND = "openlineage"
PRODUCER = f"urn:plinth:{__version__}"
SPEC = "https://openlineage.io/spec"
RUN_EVENT = f"{SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent"
# Facets of the standard, by their versioned schema.
FACETS = {
    "datasetVersion": "1-0-1/DatasetVersionDatasetFacet",
    "inputStatistics": "1-0-0/InputStatisticsInputDatasetFacet",
    "outputStatistics": "1-0-2/OutputStatisticsOutputDatasetFacet",
    "sourceCodeLocation": "1-1-0/SourceCodeLocationJobFacet",
    "jobType": "2-0-4/JobTypeJobFacet",
    "errorMessage": "1-0-1/ErrorMessageRunFacet",
    "parent": "1-2-0/ParentRunFacet",
}

EventType = Literal["START", "RUNNING", "COMPLETE", "ABORT", "FAIL", "OTHER"]


@dataclass(frozen=True)
class Dataset:
    """Something a job read or wrote: a batch, a feature table, a model, a release. `digest` is its sha256."""

    name: str
    digest: str = ""
    rows: int | None = None


class File(Protocol):
    """A file by its content, as a pipeline's step names it."""

    @property
    def path(self) -> Path:
        """Where it lay."""

    @property
    def sha256(self) -> str:
        """sha256 of its content."""


class Step(Protocol):
    """What a pipeline's step did (plinth.pipelines.port.StepRecord)."""

    @property
    def name(self) -> str:
        """The step's name."""

    @property
    def status(self) -> str:
        """`completed` or `failed`."""

    @property
    def inputs(self) -> Sequence[File]:
        """Files named in its arguments."""

    @property
    def outputs(self) -> Sequence[File]:
        """Files named in its result."""


class PipelineRun(Protocol):
    """What a pipeline's run did (plinth.pipelines.port.RunResult)."""

    @property
    def run_id(self) -> str:
        """The run's UUID."""

    @property
    def product(self) -> str:
        """The product."""

    @property
    def pipeline(self) -> str:
        """The pipeline's name."""

    @property
    def status(self) -> str:
        """`completed` or `failed`."""

    @property
    def steps(self) -> Sequence[Step]:
        """Its steps, in order."""

    @property
    def started_at(self) -> str:
        """ISO 8601 in UTC."""

    @property
    def finished_at(self) -> str:
        """ISO 8601 in UTC."""


def run_event(
    kind: EventType, *, product: str, job: str, run: str, at: str, inputs: Sequence[Dataset] = (),
    outputs: Sequence[Dataset] = (), parent: tuple[str, str] | None = None, commit: str = "", error: str = "",
) -> dict[str, Any]:  # fmt: skip
    """One OpenLineage run event.

    Args:
        kind: What happened to the run.
        product: The namespace of the job and its datasets.
        job: The pipeline (`train`) or step (`train.evaluate`).
        run: The run's id; one that is no UUID is mapped onto one, always the same.
        at: ISO 8601 with a time zone.
        inputs: What it read.
        outputs: What it wrote.
        parent: (job, run) of the pipeline that a step belongs to.
        commit: The code's git commit.
        error: Why it failed.
    """
    job_facets = {"jobType": _facet("jobType", processingType="BATCH", integration="PLINTH", jobType="JOB")}
    if commit:
        job_facets["sourceCodeLocation"] = _facet(
            "sourceCodeLocation", type="git", url=f"urn:git:{commit}", version=commit
        )
    run_facets = {}
    if parent:
        run_facets["parent"] = _facet(
            "parent", run={"runId": run_uuid(parent[1])}, job={"namespace": product, "name": parent[0]}
        )
    if error:
        run_facets["errorMessage"] = _facet("errorMessage", message=error, programmingLanguage="Python")
    return {
        "eventType": kind,
        "eventTime": at,
        "run": {"runId": run_uuid(run), "facets": run_facets},
        "job": {"namespace": product, "name": job, "facets": job_facets},
        "inputs": [_dataset(product, data, "input") for data in inputs],
        "outputs": [_dataset(product, data, "output") for data in outputs],
        "producer": PRODUCER,
        "schemaURL": RUN_EVENT,
    }


def run_uuid(run: str) -> str:
    """A run id as the UUID that the standard asks for."""
    try:
        return str(uuid.UUID(run))
    except ValueError:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"plinth:run:{run}"))


def _facet(name: str, **values: Any) -> dict[str, Any]:
    version, schema = FACETS[name].split("/")
    url = f"{SPEC}/facets/{version}/{schema}.json#/$defs/{schema}"
    return {"_producer": PRODUCER, "_schemaURL": url, **values}


def _dataset(product: str, data: Dataset, side: Literal["input", "output"]) -> dict[str, Any]:
    entry: dict[str, Any] = {"namespace": product, "name": data.name, "facets": {}}
    if data.digest:
        entry["facets"]["version"] = _facet("datasetVersion", datasetVersion=data.digest)
    if data.rows is not None:
        statistics = f"{side}Statistics"
        entry[f"{side}Facets"] = {statistics: _facet(statistics, rowCount=data.rows)}
    return entry


def record(ledger: Ledger, event: Mapping[str, Any]) -> None:
    """Keep a run event in the ledger, under the product that is its job's namespace."""
    ledger.record_event(event["job"]["namespace"], EVENT_KIND, dict(event), at=event["eventTime"])


def record_run(ledger: Ledger, run: PipelineRun, state: Path, *, commit: str = "") -> None:
    """Keep a pipeline's run and each of its steps as lineage events.

    Args:
        ledger: Where the events go.
        run: The finished run.
        state: The product's state folder; files in it are named relative to it.
        commit: The code's git commit.
    """
    parent = (run.pipeline, run.run_id)
    record(
        ledger,
        run_event("START", product=run.product, job=run.pipeline, run=run.run_id, at=run.started_at, commit=commit),
    )
    for index, step in enumerate(run.steps):
        event = run_event(
            _ended(step.status),
            product=run.product,
            job=f"{run.pipeline}.{step.name}",
            run=f"{run.run_id}:{index}:{step.name}",
            at=run.finished_at,
            inputs=[Dataset(_place(file.path, state), file.sha256) for file in step.inputs],
            outputs=[Dataset(_place(file.path, state), file.sha256) for file in step.outputs],
            parent=parent,
            commit=commit,
        )
        record(ledger, event)
    failed = ", ".join(step.name for step in run.steps if step.status == "failed")
    record(
        ledger,
        run_event(
            _ended(run.status),
            product=run.product,
            job=run.pipeline,
            run=run.run_id,
            at=run.finished_at,
            commit=commit,
            error=f"failed steps: {failed}" if failed else "",
        ),
    )


def _ended(status: str) -> EventType:
    return "COMPLETE" if status == "completed" else "FAIL"


def _place(path: Path, state: Path) -> str:
    return path.relative_to(state).as_posix() if path.is_relative_to(state) else path.name


def release_event(manifest: ReleaseManifest, digest: str) -> dict[str, Any]:
    """The event of making a release: from data, contracts and what it pins to what it made, its bundle and itself."""
    data = [Dataset(f"{ref.name}/{ref.role}/{ref.start}..{ref.end}", ref.digest, ref.rows) for ref in manifest.data]
    contracts = [Dataset(f"contract/{ref.id}/{ref.version}", ref.digest) for ref in manifest.contracts]
    bundle = [Dataset(f"artifact/{name}", sha256) for name, sha256 in sorted(manifest.artifacts.items())]
    return run_event(
        "COMPLETE",
        product=manifest.product,
        job="release",
        run=f"{manifest.pipeline_run}:release",
        at=manifest.created_at,
        inputs=[*data, *contracts, *_used(manifest)],
        outputs=[*_made(manifest), *bundle, Dataset(f"release/{digest}", digest)],
        parent=("pipeline", manifest.pipeline_run),
        commit=manifest.code.commit,
    )


def _used(manifest: ReleaseManifest) -> list[Dataset]:
    """What a release is made of beside data and contracts."""
    if manifest.assistant is None:
        features = manifest.tabular().feature_service
        return [Dataset(f"feature-service/{features.name}", features.digest)]
    pinned = manifest.assistant
    return [
        Dataset(f"index/{pinned.index.build}", digest_json(pinned.index.checksum), sum(pinned.index.chunks.values())),
        Dataset(f"embedding/{pinned.embedding.model}", pinned.embedding.digest),
        Dataset("chunking", pinned.chunking),
        Dataset("retrieval", pinned.retrieval),
        *(Dataset(f"prompt/{prompt.name}/{prompt.version}", prompt.digest) for prompt in pinned.prompts),
        Dataset(f"generator/{pinned.generator.model}", pinned.generator.digest),
        *(Dataset(f"adapter/{adapter.name}", adapter.digest) for adapter in pinned.adapters),
        Dataset("guardrails", pinned.guardrails),
    ]


def _made(manifest: ReleaseManifest) -> list[Dataset]:
    """What was made with a release: the registered model. An assistant's parts were there before."""
    if manifest.model is None:
        return []
    return [Dataset(f"model/{manifest.model.name}/{manifest.model.version}", manifest.artifacts.get("model.onnx", ""))]


def walk(ledger: Ledger, release: ReleaseRecord) -> dict[str, Any]:
    """From a release to data, code and what it pins, and to the recorded runs that made and read them.

    Returns:
        `{"release", "code", "contracts", "data", "artifacts", "served", "runs"}`, and "model" and "features" of a
        model's release, "assistant" of an assistant's; `runs` are the lineage events whose run is the release's
        pipeline run (or a step of it), or which wrote a dataset that the release names by digest, oldest first.
    """
    manifest = release.manifest
    run = run_uuid(manifest.pipeline_run)
    digests = {*(ref.digest for ref in manifest.data), *manifest.artifacts.values()}
    runs = []
    for event in ledger.events(manifest.product, EVENT_KIND):
        payload = event.payload
        related = {payload["run"]["runId"], payload["run"]["facets"].get("parent", {}).get("run", {}).get("runId")}
        written = {_version(entry) for entry in payload["outputs"]}
        if run in related or written & digests:
            runs.append(
                {
                    "at": payload["eventTime"],
                    "job": payload["job"]["name"],
                    "event": payload["eventType"],
                    "run": payload["run"]["runId"],
                    "inputs": [{"name": entry["name"], "digest": _version(entry)} for entry in payload["inputs"]],
                    "outputs": [{"name": entry["name"], "digest": _version(entry)} for entry in payload["outputs"]],
                }
            )
    served = [entry for entry in ledger.history(manifest.product) if entry.digest == release.digest]
    return {
        "release": release.digest,
        "code": manifest.code.model_dump(mode="json"),
        **_pinned(manifest),
        "contracts": [ref.model_dump(mode="json") for ref in manifest.contracts],
        "data": [ref.model_dump(mode="json") for ref in manifest.data],
        "artifacts": dict(manifest.artifacts),
        "served": [{"generation": entry.generation, "kind": entry.kind, "at": entry.at} for entry in served],
        "runs": runs,
    }


def _pinned(manifest: ReleaseManifest) -> dict[str, Any]:
    if manifest.assistant is not None:
        return {"assistant": manifest.assistant.model_dump(mode="json")}
    model, features = manifest.tabular()
    return {
        "model": {**model.model_dump(mode="json"), "sha256": manifest.artifacts.get("model.onnx")},
        "features": features.model_dump(mode="json"),
    }


def _version(entry: Mapping[str, Any]) -> str:
    return str(entry["facets"].get("version", {}).get("datasetVersion", ""))
