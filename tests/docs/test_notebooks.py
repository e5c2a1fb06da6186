"""The notebooks run from top to bottom, on the state that the story leaves behind."""

from pathlib import Path

import jupytext
import nbclient
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path, story):
    notebook = jupytext.read(path)
    assert notebook.cells
    client = nbclient.NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}
    )
    client.execute(env=story.env)
    images = [
        output for cell in notebook.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
    ]
    assert images, "the notebook shows no plot"


def test_notebooks_carry_no_outputs():
    assert not list((ROOT / "notebooks").rglob("*.ipynb"))
