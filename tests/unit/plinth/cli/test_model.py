import json
from pathlib import Path

import pytest

from plinth.cli.main import main
from plinth.models.memory import MemoryRegistry
from plinth.models.port import Dataset, Training
from plinth.wiring import Platform

HOME = Path(__file__).parents[4]  # the workspace, which holds services/
# The smallest file that passes as ONNX: ir_version, an operator set, a graph with a name.
MODEL = b"\x08\x08\x42\x02\x10\x0f\x3a\x10\x12\x0e" + b"a graph's name"


@pytest.fixture
def registry(tmp_path, monkeypatch):
    monkeypatch.setenv("PLINTH_HOME", str(HOME))
    monkeypatch.setenv("PLINTH_STATE", str(tmp_path / "state"))
    registry = MemoryRegistry()
    monkeypatch.setattr(Platform, "registry", registry)
    return registry


@pytest.fixture
def register(registry, tmp_path):
    def log(**changes):
        path = tmp_path / "model.onnx"
        path.write_bytes(MODEL)
        values = {
            "product": "flight-delays", "model": "flight-delays", "model_file": path, "feature_names": ["a"],
            "input_example": [[0.0]], "output_example": [0.1], "params": {"num_leaves": 31}, "metrics": {"auc": 0.77},
            "datasets": [Dataset("features", "train", "2013-01-01", "2013-05-01", 9, "d" * 64)], "commit": "c" * 40,
            "dirty": False, "pip_requirements": ["onnxruntime==1.22.0"],
        }  # fmt: skip
        return registry.log_training(Training(**{**values, **changes}))

    return log


def test_an_empty_registry_says_how_to_fill_it(registry, capsys):
    assert main(["model", "list", "flight-delays"]) == 0
    assert "plinth pipeline run" in capsys.readouterr().out
    assert main(["model", "show", "flight-delays"]) == 2
    assert main(["model", "card", "flight-delays"]) == 2
    assert "plinth pipeline run flight-delays train" in capsys.readouterr().err


def test_list_shows_every_version_with_its_aliases_and_reasons(register, capsys):
    register()
    register(alias="rejected", reasons=["calibration: 0.09 over 0.08"])
    assert main(["model", "list", "flight-delays", "--json"]) == 0
    versions = json.loads(capsys.readouterr().out)["versions"]
    assert [(version["version"], version["aliases"]) for version in versions] == [
        ("2", ["rejected"]),
        ("1", ["candidate"]),
    ]
    assert main(["model", "list"]) == 0
    assert "calibration: 0.09 over 0.08" in capsys.readouterr().out


def test_show_takes_the_serving_version_before_the_newest(register, registry, capsys):
    register()
    register()
    registry.set_alias("flight-delays", "1", "serving")
    assert main(["model", "show", "flight-delays", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["version"], shown["metrics"], shown["params"]) == ("1", {"auc": 0.77}, {"num_leaves": "31"})
    assert shown["datasets"][0]["digest"] == "d" * 64
    assert main(["model", "show", "flight-delays", "--version", "2"]) == 0
    assert "version 2" in capsys.readouterr().out
    assert main(["model", "show", "flight-delays", "--version", "7"]) == 2


def test_card_is_of_the_serving_release_or_the_one_asked_for(register, make_manifest, tmp_path, capsys):
    version = register()
    ledger = Platform.from_settings().ledger
    manifests = [make_manifest(number) for number in (1, 2)]
    manifests = [
        manifest.model_copy(update={"model": manifest.model.model_copy(update={"run_id": version.run_id})})
        for manifest in manifests
    ]
    first, second = (ledger.register_release(manifest, "somebody") for manifest in manifests)
    ledger.promote("flight-delays", first, expected_generation=0, actor="somebody", reason="first")
    ledger.close()
    assert main(["model", "card", "flight-delays"]) == 0
    text = capsys.readouterr().out
    assert first in text
    assert "| State | serving now |" in text
    assert main(["model", "card", "flight-delays", "--release", second[:12], "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["release"] == second
    assert answer["card"].startswith("# Model card")
    page = tmp_path / "card.html"
    assert main(["model", "card", "flight-delays", "--html", "--output", str(page)]) == 0
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert main(["model", "card", "flight-delays", "--output", str(tmp_path / "none" / "card.md")]) == 1
    assert "another --output" in capsys.readouterr().err
