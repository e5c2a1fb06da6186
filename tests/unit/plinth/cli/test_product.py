"""`plinth product`, in a workspace of its own."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from plinth.cli.main import main

ROOT = Path(__file__).parents[4]


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    (tmp_path / "services").mkdir()
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setenv("PLINTH_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def with_flights(workspace):
    shutil.copytree(ROOT / "services" / "flight-delays", workspace / "services" / "flight-delays")
    return workspace


def run(capsys, *words):
    code = main(list(words))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_new_product_validates_at_once_and_its_sample_keeps_the_contract(workspace, capsys):
    code, out, _ = run(capsys, "product", "new", "fraud-alerts", "--team", "payments-ml", "--json")
    assert code == 0
    made = json.loads(out)
    assert "product.yaml" in made["files"]
    assert run(capsys, "product", "validate", "fraud-alerts")[0] == 0
    assert run(capsys, "contract", "check", "fraud-alerts")[0] == 0
    sample = Path(made["folder"]) / "data" / "examples" / "2024-01.csv"
    assert run(capsys, "contract", "check", "fraud-alerts", "--data", str(sample))[0] == 0


def test_a_new_product_takes_the_next_free_port(with_flights, capsys):
    run(capsys, "product", "new", "next")
    code, out, _ = run(capsys, "product", "list", "--json")
    assert code == 0
    assert {row["name"]: row["port"] for row in json.loads(out)["products"]} == {"flight-delays": 3001, "next": 3002}


@pytest.mark.parametrize(("name", "code"), [("Bad_Name", 2), ("../x", 2), ("plinth", 2), ("flight-delays", 1)])
def test_names_that_are_bad_or_taken_are_refused(with_flights, capsys, name, code):
    before = sorted(with_flights.rglob("*"))
    assert run(capsys, "product", "new", name)[0] == code
    assert sorted(with_flights.rglob("*")) == before


def test_show_prints_the_manifest(with_flights, capsys):
    code, out, _ = run(capsys, "product", "show", "flight-delays", "--json")
    assert code == 0
    assert json.loads(out)["owner"]["team"] == "air-operations-ml"
    assert "air-operations-ml" in run(capsys, "product", "show", "flight-delays")[1]


def test_a_new_product_has_a_governed_way_to_release_without_writing_anything(workspace, capsys):
    made = json.loads(run(capsys, "product", "new", "fraud-alerts", "--json")[1])
    assert "rollout" not in yaml.safe_load((Path(made["folder"]) / "product.yaml").read_text())
    shown = json.loads(run(capsys, "product", "show", "fraud-alerts", "--json")[1])
    policy = shown["rollout_policy"]
    assert (policy["strategy"], policy["steps"], policy["bake"]) == ("canary", [10, 50, 100], "1m")
    assert {gate.get("metric") for gate in policy["gates"]} >= {"errors", "latency", "scores"}
    assert None not in policy.values()
    out = run(capsys, "product", "show", "fraud-alerts")[1]
    assert "canary: 10% -> 50% -> all, 1m each, no approvals, may be promoted directly" in out


def test_show_fills_the_rollout_part_in_by_tier(with_flights, capsys):
    manifest = with_flights / "services" / "flight-delays" / "product.yaml"
    text = re.sub(r"^rollout:\n(?:[ #].*\n|\n)*", "", manifest.read_text(), flags=re.MULTILINE)
    text = re.sub(r"^tier: \d", "tier: 1", text, flags=re.MULTILINE)
    manifest.write_text(text + "rollout:\n  steps: [2, 100]\n")
    out = run(capsys, "product", "show", "flight-delays")[1]
    assert "shadow 10m -> 2% -> all, 10m each, 1 approval by somebody else, never promoted directly" in out


@pytest.mark.parametrize(
    ("part", "line", "said"),
    [
        ("  steps: [50, 10, 100]", 1, "rollout.steps: steps rise from 1 or more to 100"),
        ("  steps: [10, 50]", 1, "rollout.steps: steps rise from 1 or more to 100"),
        ("  strategy: yolo", 1, "rollout.strategy"),
        ("  bake: soon", 1, "rollout.bake"),
        ("  speed: fast", 1, "rollout.speed: is no known field"),
        ("  approvals: 9", 1, "rollout.approvals"),
        (
            "  gates:\n    - kind: contract\n    - kind: compare\n      metric: errors",
            3,
            "rollout.gates.1.tolerance: is missing",
        ),
        ("  gates:\n    - {kind: compare, metric: errors, tolerance: 0.1, effect: 0.1}", 2, "effect must be above"),
        ("  gates:\n    - kind: vibes", 2, "rollout.gates.0"),
        ("  gates: []", 1, "rollout.gates"),
    ],
)
def test_a_bad_rollout_part_is_named_with_its_line(with_flights, capsys, part, line, said):
    manifest = with_flights / "services" / "flight-delays" / "product.yaml"
    text = re.sub(r"^rollout:\n(?:[ #].*\n|\n)*", "", manifest.read_text(), flags=re.MULTILINE)
    manifest.write_text(f"{text}rollout:\n{part}\n")
    code, _, err = run(capsys, "product", "validate", "flight-delays")
    assert code == 2
    first = len(text.splitlines()) + 1
    assert f"product.yaml:{first + line}" in err
    assert said in err


def test_an_unknown_product_is_bad_use(workspace, capsys):
    code, _, err = run(capsys, "product", "show", "nothing")
    assert code == 2
    assert "nothing" in err


def test_an_unowned_product_is_refused_by_policy_with_its_line(with_flights, capsys):
    manifest = with_flights / "services" / "flight-delays" / "product.yaml"
    manifest.write_text(manifest.read_text().replace("  team: air-operations-ml\n", ""))
    code, _, err = run(capsys, "product", "validate", "flight-delays")
    assert code == 3
    assert "unowned" in err
    assert "product.yaml:13" in err
    code, out, _ = run(capsys, "product", "validate", "--json")
    document = json.loads(out)
    assert (code, document["valid"]) == (3, False)
    assert document["products"][0]["problem"]["kind"] == "RefusedByPolicy"


def test_a_broken_contract_is_found_by_validation(with_flights, capsys):
    (with_flights / "services" / "flight-delays" / "contracts" / "weather.odcs.yaml").write_text("kind: x\n")
    code, _, err = run(capsys, "product", "validate")
    assert code == 2
    assert "weather.odcs.yaml:1" in err


def test_a_broken_product_does_not_hide_the_others(with_flights, capsys):
    run(capsys, "product", "new", "other")
    (with_flights / "services" / "flight-delays" / "product.yaml").write_text("- no\n")
    code, out, err = run(capsys, "product", "list")
    assert code == 0
    assert "other" in out
    assert "flight-delays does not validate" in err


def test_a_path_can_be_validated_too(with_flights, capsys):
    assert run(capsys, "product", "validate", str(with_flights / "services" / "flight-delays" / "product.yaml"))[0] == 0
    assert run(capsys, "product", "validate", str(with_flights / "none.yaml"))[0] == 2


def test_the_schema_is_json(capsys):
    code, out, _ = run(capsys, "product", "schema")
    assert code == 0
    assert json.loads(out)["title"] == "Plinth product"
