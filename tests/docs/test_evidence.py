"""The page of `make drills`: what it says of the files beside it."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def drills(tmp_path, monkeypatch):
    """tools/drills.py, on a copy of the evidence."""
    spec = importlib.util.spec_from_file_location("drills", ROOT / "tools" / "drills.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    shutil.copytree(ROOT / "docs" / "evidence", tmp_path / "evidence")
    monkeypatch.setattr(module, "EVIDENCE", tmp_path / "evidence")
    return module


def change(drills, name, **values):
    path = drills.EVIDENCE / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_the_page_says_where_the_code_had_changes_and_which_drill_failed(drills):
    for path in drills.EVIDENCE.glob("*.json"):
        change(drills, path.name, commit="c" * 40)
    change(drills, "drill-errors.json", commit="d" * 40 + " with changes", detected=False)
    page = drills.page()
    (errors,) = [line for line in page.splitlines() if line.startswith("| [errors]")]
    assert "dddddddddddd with changes" in errors
    assert "| **no** |" in errors
    assert page.count("with changes") == 1
    assert page.count("**no**") == 1


def test_the_page_has_every_fault_and_the_control(drills):
    page = drills.page()
    assert all(f"(drill-{fault}.json)" in page for fault in drills.FAULTS)
    assert "(rollout-same.json)" in page
