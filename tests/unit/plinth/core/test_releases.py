import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from assistant_releases import manifest as assistant_manifest
from plinth.core.gates import Verdict
from plinth.core.releases import ReleaseManifest
from plinth.errors import RefusedByPolicy

SHA = "0123456789abcdef" * 4

sha = st.text("0123456789abcdef", min_size=64, max_size=64)
finite = st.floats(allow_nan=False, allow_infinity=False)
verdicts = st.lists(
    st.builds(
        Verdict,
        gate=st.just("calibration"),
        passed=st.booleans(),
        observed=st.none() | finite,
        bound=finite,
        reason=st.text(),
    ),
    max_size=3,
)


@st.composite
def manifests(draw):
    return {
        "product": "flight-delays",
        "model": {"name": "m", "version": draw(st.text(max_size=5)), "run_id": "r", "format": "onnx"},
        "feature_service": {"name": "fs", "digest": draw(sha)},
        "contracts": [{"id": "flights", "version": "1.0.0", "digest": draw(sha)}],
        "data": [
            {"name": "d", "role": "train", "start": "2013-01-01", "end": "2013-05-01", "rows": 3, "digest": draw(sha)}
        ],
        "code": {"commit": "abc", "dirty": draw(st.booleans())},
        "artifacts": draw(st.dictionaries(st.text(min_size=1, max_size=9), sha, max_size=3)),
        "metrics": draw(st.dictionaries(st.text(max_size=5), finite, max_size=3)),
        "verdicts": [verdict.model_dump() for verdict in draw(verdicts)],
        "created_at": "2013-06-01T00:00:00Z",
        "pipeline_run": draw(st.text(max_size=5)),
    }


@given(manifests())
def test_a_manifest_survives_json_and_keeps_its_digest(value):
    manifest = ReleaseManifest.from_dict(value)
    again = ReleaseManifest.from_dict(json.loads(json.dumps(manifest.model_dump(mode="json"))))
    assert again == manifest
    assert again.digest == manifest.digest
    assert len(manifest.digest) == 64


@given(manifests(), st.randoms(use_true_random=False))
def test_the_digest_does_not_depend_on_the_order_of_keys(value, random):
    keys = list(value)
    random.shuffle(keys)
    assert (
        ReleaseManifest.from_dict({key: value[key] for key in keys}).digest == ReleaseManifest.from_dict(value).digest
    )


@given(manifests(), sha)
def test_any_other_artefact_is_another_release(value, other):
    changed = {**value, "artifacts": {**value["artifacts"], "model.onnx": other}}
    same = value["artifacts"].get("model.onnx") == other
    assert (ReleaseManifest.from_dict(changed).digest == ReleaseManifest.from_dict(value).digest) == same


@given(manifests())
def test_a_release_is_accepted_only_when_it_was_judged_and_no_gate_failed(value):
    manifest = ReleaseManifest.from_dict(value)
    assert manifest.accepted == (len(manifest.verdicts) > 0 and not manifest.failed_gates())


@pytest.mark.parametrize("bad", ["", SHA[:-1], SHA.upper(), SHA + "0", "../" + SHA[3:], SHA + "\n"])
def test_what_is_no_sha256_is_refused(bad):
    example = {
        "product": "p",
        "model": {"name": "m", "version": "1", "run_id": "r", "format": "onnx"},
        "feature_service": {"name": "fs", "digest": SHA},
        "contracts": [],
        "data": [],
        "code": {"commit": "abc", "dirty": False},
        "created_at": "now",
        "pipeline_run": "run",
    }
    assert ReleaseManifest.from_dict({**example, "artifacts": {"model.onnx": SHA}}).artifacts
    with pytest.raises(ValidationError):
        ReleaseManifest.from_dict({**example, "artifacts": {"model.onnx": bad}})
    with pytest.raises(ValidationError):
        ReleaseManifest.from_dict({**example, "artifacts": {}, "unknown": 1})
    with pytest.raises(ValidationError):
        ReleaseManifest.from_dict({**example, "artifacts": {}, "model": {**example["model"], "format": "pickle"}})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_verdict_that_json_has_no_word_for_is_refused_when_it_is_made(value):
    with pytest.raises(ValidationError):
        Verdict(gate="calibration", passed=True, observed=value, bound=None, reason="r")


def test_a_manifest_cannot_be_changed_in_place():
    verdict = Verdict(gate="calibration", passed=False, observed=None, bound=None, reason="r")
    with pytest.raises(ValidationError):
        verdict.passed = True


OLD = {
    "schema_version": 1,
    "product": "flight-delays",
    "model": {"name": "flight-delays", "version": "7", "run_id": "run7", "format": "onnx"},
    "feature_service": {"name": "flight_delays_v1", "digest": "f" * 64},
    "contracts": [{"id": "flights", "version": "1.2.0", "digest": "c" * 64}],
    "data": [
        {
            "name": "flights", "role": "train", "start": "2013-01-01", "end": "2013-06-01", "rows": 1234,
            "digest": "d" * 64,
        }
    ],
    "code": {"commit": "0" * 40, "dirty": False},
    "artifacts": {"model.onnx": "a" * 64, "read_plan.json": "f" * 64},
    "metrics": {"auc": 0.7312},
    "verdicts": [
        {"gate": "beats-baseline", "passed": True, "observed": 0.11, "bound": 0.1, "reason": "AUC .74 against .63"}
    ],
    "created_at": "2013-06-01T00:00:00+00:00",
    "pipeline_run": "pipeline7",
}  # fmt: skip


def test_a_models_release_from_before_there_were_assistants_keeps_its_digest():
    """The digest was computed by the code of that time; a ledger of that time holds releases by such digests."""
    manifest = ReleaseManifest.from_dict(OLD)
    assert manifest.digest == "73e5ba787b4fd602eec88e79f49b5232b7109229e7620a64ff10f0c9b9e9b7d0"
    assert manifest.model_dump(mode="json") == OLD


def test_a_release_is_of_a_model_or_of_an_assistant():
    assistant = assistant_manifest(1)
    assert "model" not in assistant.model_dump(mode="json")
    assert "assistant" not in ReleaseManifest.from_dict(OLD).model_dump(mode="json")
    with pytest.raises(RefusedByPolicy, match="has no model"):
        assistant.tabular()
    for both in ({**OLD, "assistant": assistant.model_dump(mode="json")["assistant"]}, {**OLD, "model": None}):
        with pytest.raises(ValidationError, match="a model with its feature service, or an assistant"):
            ReleaseManifest.from_dict(both)
