import json
from pathlib import Path

import pytest

from plinth.cli.main import main
from plinth.generation.memory import MemoryPrompts
from plinth.wiring.assistants import AssistantPorts

HOME = Path(__file__).parents[4]  # the workspace, which holds services/
ANSWER = HOME / "services" / "docs-assistant" / "prompts" / "answer.jinja"


@pytest.fixture
def registry(tmp_path, monkeypatch):
    monkeypatch.setenv("PLINTH_HOME", str(HOME))
    monkeypatch.setenv("PLINTH_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("PLINTH_ACTOR", "ana")
    registry = MemoryPrompts()
    monkeypatch.setattr(AssistantPorts, "prompts", registry)
    return registry


@pytest.fixture
def write(tmp_path):
    def file(change):
        path = tmp_path / "answer.jinja"
        path.write_text(change(ANSWER.read_text()))
        return str(path)

    return file


def run(capsys, *words):
    code = main([*words, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_registry_without_prompts_says_how_to_fill_it(registry, capsys):
    assert main(["prompt", "list", "docs-assistant"]) == 0
    assert "plinth prompt register docs-assistant answer" in capsys.readouterr().out
    code, answer = run(capsys, "prompt", "show", "docs-assistant", "answer")
    assert (code, answer["error"]["next"]) == (2, "plinth prompt register docs-assistant answer")


def test_the_products_own_templates_are_registered_once(registry, capsys):
    for name in ("answer", "source"):
        code, made = run(capsys, "prompt", "register", "docs-assistant", name, "--message", "the first")
        assert (code, made["version"], made["created"], made["actor"]) == (0, "1", True, "ana")
        code, again = run(capsys, "prompt", "register", "docs-assistant", name)
        assert (code, again["version"], again["created"], again["message"]) == (0, "1", False, "the first")
    assert registry.get("docs-assistant.answer", "1").template == ANSWER.read_text()


def test_versions_are_listed_shown_and_compared(registry, write, capsys):
    assert main(["prompt", "register", "docs-assistant", "answer"]) == 0
    file = write(lambda text: text.replace("one to four short sentences", "one sentence"))
    assert main(["prompt", "register", "docs-assistant", "answer", "--file", file, "--message", "Shorter"]) == 0
    registry.set_alias("docs-assistant.answer", "serving", "1")
    capsys.readouterr()

    _, listed = run(capsys, "prompt", "list", "docs-assistant")
    assert [(entry["version"], entry["serving"], entry["message"]) for entry in listed["prompts"]] == [
        ("2", False, "Shorter"),
        ("1", True, ""),
    ]
    _, shown = run(capsys, "prompt", "show", "docs-assistant", "answer")
    assert (shown["version"], "one sentence" in shown["template"]) == ("2", True)
    _, shown = run(capsys, "prompt", "show", "docs-assistant", "answer", "--version", "1")
    assert shown["template"] == ANSWER.read_text()

    _, compared = run(capsys, "prompt", "diff", "docs-assistant", "answer", "1", "2")
    changed = [line for line in compared["diff"] if line[:1] in "+-" and not line.startswith(("+++", "---"))]
    assert len(changed) == 2
    assert not compared["equal"]
    _, compared = run(capsys, "prompt", "diff", "docs-assistant", "answer", "2", "2")
    assert (compared["equal"], compared["diff"]) == (True, [])

    assert main(["prompt", "list", "docs-assistant"]) == 0
    assert main(["prompt", "show", "docs-assistant", "answer", "--version", "1"]) == 0
    assert main(["prompt", "diff", "docs-assistant", "answer", "1", "2"]) == 0
    text = capsys.readouterr().out
    assert "version 1, serving" in text
    assert "+++ docs-assistant.answer version 2" in text


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (lambda text: text.replace("{{ question }}", "{{ query }}"), 3, "query"),
        (lambda text: text + "{{ extra }}", 3, "extra"),
        (lambda text: text.replace("{{ sources }}", ""), 3, "sources"),
        (lambda text: text.replace("{{ sources }}", "{{ sources"), 2, "answer, line 12"),
        (lambda text: text.replace("<question>", "<ask>"), 2, "<question>"),
        (lambda text: text.replace("{{ sources }}", "{{ sources | upper }}"), 2, "<source"),
        (lambda text: text.replace("{{ sources }}", "{% include 'x' %}{{ sources }}"), 3, "Include"),
    ],
)
def test_a_template_that_does_not_fit_is_refused_and_not_registered(registry, write, capsys, change, code, said):
    got, answer = run(capsys, "prompt", "register", "docs-assistant", "answer", "--file", write(change))
    assert got == code
    assert said in json.dumps(answer["error"])
    assert registry.versions("docs-assistant") == []


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["register", "docs-assistant", "nope"], 2),
        (["register", "nobody", "answer"], 2),
        (["register", "docs-assistant", "answer", "--file", "/nowhere/answer.jinja"], 2),
        (["register", "flight-delays", "answer"], 3),
        (["list", "flight-delays"], 3),
        (["show", "docs-assistant", "answer", "--version", "7"], 2),
        (["diff", "docs-assistant", "answer", "1", "2"], 2),
    ],
)
def test_what_is_not_there_says_what_to_do(registry, capsys, words, code):
    got, answer = run(capsys, "prompt", *words)
    assert got == code
    assert answer["error"]["next"]
