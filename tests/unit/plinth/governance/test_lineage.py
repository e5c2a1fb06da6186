import re
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import pytest

from assistant_releases import manifest as assistant_manifest
from plinth.core.gates import Verdict
from plinth.core.releases import ReleaseManifest
from plinth.governance import lineage
from plinth.ledger.store import Ledger

RUN = "0b8f2c7e-58f5-4d0c-9a55-0f8a9d2b7e11"


@dataclass
class File:
    path: Path
    sha256: str


@dataclass
class Step:
    name: str
    status: str = "completed"
    inputs: list = field(default_factory=list)
    outputs: list = field(default_factory=list)


@dataclass
class Result:
    steps: list
    status: str = "completed"
    run_id: str = RUN
    product: str = "flight-delays"
    pipeline: str = "train"
    started_at: str = "2013-06-01T00:00:00+00:00"
    finished_at: str = "2013-06-01T00:01:00+00:00"


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield ledger
    ledger.close()


@pytest.fixture
def manifest():
    return ReleaseManifest.from_dict(
        {
            "product": "flight-delays",
            "model": {"name": "flight-delays", "version": "3", "run_id": "r", "format": "onnx"},
            "feature_service": {"name": "flight_delays_v1", "digest": "f" * 64},
            "contracts": [{"id": "flights", "version": "1.0.0", "digest": "c" * 64}],
            "data": [
                {"name": "features", "role": "train", "start": "2013-01-01", "end": "2013-05-01", "rows": 9,
                 "digest": "d" * 64}
            ],
            "code": {"commit": "abc123", "dirty": False},
            "artifacts": {"model.onnx": "a" * 64},
            "verdicts": [Verdict(gate="calibration", passed=True, observed=0.1, bound=0.2, reason="r").model_dump()],
            "created_at": "2013-06-01T00:02:00+00:00",
            "pipeline_run": RUN,
        }
    )  # fmt: skip


def test_an_event_has_what_the_standard_requires(manifest):
    event = lineage.release_event(manifest, manifest.digest)
    assert event["eventType"] in {"START", "RUNNING", "COMPLETE", "ABORT", "FAIL", "OTHER"}
    assert event["schemaURL"].endswith("#/$defs/RunEvent")
    UUID(event["run"]["runId"])
    facets = [event["run"]["facets"], event["job"]["facets"]]
    for entry in (*event["inputs"], *event["outputs"]):
        assert entry["namespace"]
        assert entry["name"]
        facets += [entry["facets"], entry.get("inputFacets", {}), entry.get("outputFacets", {})]
    for facet in (facet for group in facets for facet in group.values()):
        assert facet["_producer"] == event["producer"]
        assert re.fullmatch(r"https://openlineage\.io/spec/facets/[\d-]+/\w+\.json#/\$defs/\w+", facet["_schemaURL"])


def test_a_release_names_every_input_and_output_by_digest(manifest):
    event = lineage.release_event(manifest, manifest.digest)
    versions = {entry["name"]: entry["facets"]["version"]["datasetVersion"] for entry in event["inputs"]}
    assert versions == {
        "features/train/2013-01-01..2013-05-01": "d" * 64,
        "contract/flights/1.0.0": "c" * 64,
        "feature-service/flight_delays_v1": "f" * 64,
    }
    assert event["inputs"][0]["inputFacets"]["inputStatistics"]["rowCount"] == 9
    assert {"model/flight-delays/3", f"release/{manifest.digest}"} <= {entry["name"] for entry in event["outputs"]}
    assert event["job"]["facets"]["sourceCodeLocation"]["version"] == "abc123"
    assert event["run"]["facets"]["parent"]["run"]["runId"] == RUN


def test_a_run_id_that_is_no_uuid_always_maps_onto_the_same_one():
    assert lineage.run_uuid("abc") == lineage.run_uuid("abc") != lineage.run_uuid("abd")
    assert lineage.run_uuid(RUN) == RUN


def test_a_run_leaves_a_start_an_event_a_step_and_an_end(ledger, tmp_path):
    step = Step(
        "features",
        inputs=[File(tmp_path / "lake/flights/2013-01.parquet", "1" * 64)],
        outputs=[File(Path("/elsewhere/x"), "2" * 64)],
    )
    lineage.record_run(ledger, Result([step, Step("train", "failed")], status="failed"), tmp_path, commit="abc")
    events = [event.payload for event in ledger.events("flight-delays", "openlineage")]
    assert [(event["job"]["name"], event["eventType"]) for event in events] == [
        ("train", "START"),
        ("train.features", "COMPLETE"),
        ("train.train", "FAIL"),
        ("train", "FAIL"),
    ]
    assert events[1]["inputs"][0]["name"] == "lake/flights/2013-01.parquet"
    assert events[1]["outputs"][0]["name"] == "x"
    assert events[3]["run"]["facets"]["errorMessage"]["message"] == "failed steps: train"
    assert len({event["run"]["runId"] for event in events}) == 3


def test_the_walk_leads_from_a_release_to_data_code_features_and_the_runs_that_made_them(ledger, manifest, tmp_path):
    def run(run_id, digest):
        step = Step("features", outputs=[File(tmp_path / "features.parquet", digest)])
        lineage.record_run(ledger, Result([step], run_id=run_id), tmp_path)

    run("11111111-58f5-4d0c-9a55-0f8a9d2b7e11", "d" * 64)  # an earlier run, which wrote the training data
    run("22222222-58f5-4d0c-9a55-0f8a9d2b7e11", "9" * 64)  # an unrelated one
    run(RUN, "8" * 64)  # the release's own
    digest = ledger.register_release(manifest, "somebody")
    lineage.record(ledger, lineage.release_event(manifest, digest))
    ledger.promote("flight-delays", digest, expected_generation=0, actor="somebody", reason="first")
    answer = lineage.walk(ledger, ledger.release(digest))
    assert answer["release"] == digest
    assert answer["code"] == {"commit": "abc123", "dirty": False}
    assert answer["features"]["name"] == "flight_delays_v1"
    assert answer["data"][0]["digest"] == "d" * 64
    assert answer["model"]["sha256"] == "a" * 64
    assert [entry["generation"] for entry in answer["served"]] == [1]
    jobs = [run["job"] for run in answer["runs"]]
    assert sorted(jobs) == ["release", "train", "train", "train.features", "train.features"]
    assert {entry["digest"] for run in answer["runs"] for entry in run["outputs"]}.isdisjoint({"9" * 64})


def test_an_assistants_release_is_traced_back_to_its_index_prompts_and_policies(ledger):
    release = assistant_manifest(1)
    digest = ledger.register_release(release, "ada")
    event = lineage.release_event(release, digest)
    lineage.record(ledger, event)
    used = {entry["name"]: entry["facets"]["version"]["datasetVersion"] for entry in event["inputs"]}
    pinned = release.assistant
    assert used[f"embedding/{pinned.embedding.model}"] == pinned.embedding.digest
    assert used["prompt/answer/1"] == pinned.prompts[0].digest
    assert (used["retrieval"], used["guardrails"]) == (pinned.retrieval, pinned.guardrails)
    assert used["generator/extractive-1"] == pinned.generator.digest
    (index,) = [entry for entry in event["inputs"] if entry["name"] == f"index/{pinned.index.build}"]
    assert index["inputFacets"]["inputStatistics"]["rowCount"] == 12
    assert {entry["name"] for entry in event["outputs"]} == {"artifact/assistant.json", f"release/{digest}"}
    walked = lineage.walk(ledger, ledger.release(digest))
    assert walked["assistant"]["index"]["build"] == pinned.index.build
    assert "model" not in walked
    assert [run["job"] for run in walked["runs"]] == ["release"]
