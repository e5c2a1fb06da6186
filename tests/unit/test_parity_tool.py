"""`make parity` succeeds only when every profile that could be played passed."""

import importlib.util
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "parity.py"
PLAYED = {"scenario": "ask", "profile": "embedded", "passed": True, "seconds": 1.0, "saw": "an answer"}


@pytest.fixture
def parity(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("parity_tool", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "PAGE", tmp_path / "parity.md")
    monkeypatch.setattr("sys.argv", ["parity.py"])
    return module


@pytest.mark.parametrize(
    ("compose", "code"), [(([], 0), 0), (([], 1), 1), (([{**PLAYED, "profile": "compose", "passed": False}], 1), 1)]
)
def test_a_profile_that_was_skipped_is_no_failure_and_one_that_broke_is(parity, monkeypatch, compose, code):
    monkeypatch.setattr(parity, "play", {"embedded": ([PLAYED], 0), "compose": compose}.__getitem__)
    assert parity.main() == code
    assert "not played here" in parity.PAGE.read_text()
