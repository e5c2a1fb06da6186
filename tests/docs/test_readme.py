"""What the README tells a newcomer to type works, in its order, on the state that the story leaves behind."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def commands(language):
    """The command lines of the README's fenced blocks of a language."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def test_the_readme_opens_with_its_two_commands():
    assert commands("console")[:2] == ["make demo", "make test"]


def test_every_make_task_that_is_named_exists():
    tasks = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z]+)`", README)) | {
        line.split()[1] for line in commands("console") if line.startswith("make ")
    }
    assert named
    assert named <= tasks


@pytest.mark.timeout(1200)
def test_the_commands_of_the_readme_work_one_after_the_other(story):
    lines = [line for line in commands("console") if line.startswith("plinth ")]
    assert len(lines) >= 10
    for line in lines:
        line = line.split("#")[0].strip()
        if line in {"plinth down", "plinth up --detach"} or line.startswith("plinth demo"):
            continue  # the story's own start and end
        if line.startswith("plinth product new"):
            continue  # writes into the workspace; tests/unit/plinth/cli/test_product.py runs it in one of its own
        serving = next(r["digest"] for r in story.json("release", "list", "flight-delays")["releases"] if r["serving"])
        words = [serving if word == "DIGEST" else word for word in shlex.split(line)[1:]]
        done = story.plinth(*words)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
