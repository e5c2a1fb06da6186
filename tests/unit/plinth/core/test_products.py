"""The typed form of product.yaml."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from pydantic import ValidationError

from plinth.core.durations import seconds
from plinth.core.products import Product, ServiceLevel, json_schema
from plinth.errors import RefusedByPolicy

ROOT = Path(__file__).parents[4]
MANIFEST = yaml.safe_load((ROOT / "services" / "flight-delays" / "product.yaml").read_text())


def test_the_published_schema_is_the_one_of_the_code():
    published = json.loads((ROOT / "docs" / "reference" / "product.schema.json").read_text())
    assert published == json_schema(), "regenerate it: python tools/docs.py"


def test_the_published_schema_accepts_the_product_and_refuses_a_misspelt_key():
    validator = jsonschema.Draft202012Validator(json_schema())
    validator.validate(MANIFEST)
    assert list(validator.iter_errors({**MANIFEST, "ownr": {}}))


@pytest.mark.parametrize(
    ("text", "value"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("28d", 2419200), ("12w", 7257600)]
)
def test_durations_in_seconds(text, value):
    assert seconds(text) == value


@pytest.mark.parametrize("indicator", ["latency", "quality", "freshness"])
def test_a_service_level_that_compares_needs_its_threshold(indicator):
    with pytest.raises(ValidationError, match="threshold"):
        ServiceLevel(name="x", indicator=indicator, objective=0.9, window="28d")


@pytest.mark.parametrize("section", ["service_levels", "pipelines"])
def test_names_are_unique(section):
    twice = {**MANIFEST, section: [MANIFEST[section][0], *MANIFEST[section]]}
    with pytest.raises(ValidationError, match="stands twice"):
        Product.model_validate(twice)


def test_a_pipeline_is_found_by_name():
    product = Product.model_validate(MANIFEST)
    assert product.pipeline("train").entry == "flight_delays.pipeline:train"
    assert product.pipeline("none") is None


ASSISTANT = yaml.safe_load((ROOT / "services" / "docs-assistant" / "product.yaml").read_text())


@pytest.mark.parametrize("kind", ["quality", "drift"])
def test_a_gate_that_needs_labels_or_training_data_is_refused_for_an_assistant(kind):
    gates = [{"kind": kind}, {"kind": "burn"}]
    with pytest.raises(ValidationError, match=f"{kind} cannot judge an assistant"):
        Product.model_validate({**ASSISTANT, "rollout": {"gates": gates}})
    Product.model_validate({**MANIFEST, "rollout": {"gates": gates}})


def test_an_effect_that_could_never_be_ruled_out_is_refused_for_an_assistants_scores():
    def policy(effect):
        return {"rollout": {"gates": [{"kind": "compare", "metric": "scores", "tolerance": 0.01, "effect": effect}]}}

    with pytest.raises(ValidationError, match=r"0\.075 or more"):
        Product.model_validate({**ASSISTANT, **policy(0.05)})
    Product.model_validate({**ASSISTANT, **policy(0.1)})
    Product.model_validate({**MANIFEST, **policy(0.05)})


def test_the_default_gates_are_those_that_can_judge_the_product():
    def kinds(manifest):
        return {gate.kind for gate in Product.model_validate({**manifest, "rollout": None}).rollout_policy.gates}

    assert kinds(ASSISTANT) == {"compare", "burn", "contract"}
    assert kinds(MANIFEST) == {"compare", "burn", "quality", "contract"}


def test_a_product_has_a_model_or_an_assistant():
    for both in ({**MANIFEST, "assistant": ASSISTANT["assistant"]}, {**MANIFEST, "model": None, "monitoring": None}):
        with pytest.raises(ValidationError, match="a model or an assistant"):
            Product.model_validate(both)
    with pytest.raises(RefusedByPolicy, match="is an assistant"):
        Product.model_validate(ASSISTANT).tabular()
    with pytest.raises(RefusedByPolicy, match="is no assistant"):
        Product.model_validate(MANIFEST).answers()
