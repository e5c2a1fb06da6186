"""`plinth release` and the commands beside it, on a ledger with a model's and an assistant's releases."""

import json
from pathlib import Path

import pytest

from assistant_releases import PRODUCT, as_bytes, build_id, config, manifest
from plinth.cli.main import main
from plinth.core.assistants import Guardrails, Retrieval
from plinth.wiring import Platform

HOME = Path(__file__).parents[4]  # the workspace, which holds services/


CONTRACT = HOME / "services/flight-delays/contracts/flights.odcs.yaml"


@pytest.fixture
def workspace(tmp_path):
    """Both products' manifests, with one contract."""
    for name in (PRODUCT, "flight-delays"):
        folder = tmp_path / "home" / "services" / name
        (folder / "contracts").mkdir(parents=True)
        (folder / "contracts" / CONTRACT.name).write_text(CONTRACT.read_text())
        text = (HOME / "services" / name / "product.yaml").read_text()
        (folder / "product.yaml").write_text(text.replace("chunks.odcs.yaml", CONTRACT.name))
    return tmp_path / "home"


@pytest.fixture
def platform(tmp_path, workspace, monkeypatch):
    monkeypatch.setenv("PLINTH_HOME", str(workspace))
    monkeypatch.setenv("PLINTH_STATE", str(tmp_path / "state"))
    platform = Platform.from_settings()
    yield platform
    platform.ledger.close()


@pytest.fixture
def release(platform):
    """Registers a release of the assistant, with its configuration among the artefacts unless it was collected."""

    def make(number=1, *, collected=False, **parts):
        made = config(number, **parts)
        if not collected:
            platform.artifacts.put_bytes(as_bytes(made))
        return platform.ledger.register_release(manifest(number, made=made), "ada")

    return make


def shown(capsys):
    return json.loads(capsys.readouterr().out)


def test_list_names_the_index_of_an_assistants_releases_and_the_model_of_others(
    release, platform, make_manifest, capsys
):
    digest = release(1)
    platform.ledger.promote(PRODUCT, digest, expected_generation=0, actor="ada", reason="first")
    platform.ledger.register_release(make_manifest(4), "ada")
    assert main(["release", "list", PRODUCT, "--json"]) == 0
    (one,) = shown(capsys)["releases"]
    assert (one["index"], one["prompts"], one["serving"]) == (build_id(1), {"answer": "1"}, True)
    assert "model" not in one
    assert main(["release", "list", PRODUCT]) == 0
    text = capsys.readouterr().out
    assert build_id(1) in text
    assert "groundedness" in text
    assert main(["release", "list", "flight-delays"]) == 0
    assert "flight-delays:4" in capsys.readouterr().out


def test_show_says_everything_that_an_assistants_release_pins(release, capsys):
    made = config(1)
    digest = release(1)
    assert main(["release", "show", digest[:12]]) == 0
    text = capsys.readouterr().out
    for expected in (
        f"index      {build_id(1)}: 12 chunks of 3 documents",
        "all-MiniLM-L6-v2-int8 (minilm)",
        f"220 tokens at most, 30 repeated, {made.chunking.digest[:12]}",
        f"hybrid, 100 candidates, 6 chunks, {made.retrieval.digest[:12]}",
        "answer version 1",
        f"extractive-1 (extractive), 400 tokens and 30 s at most, {made.generator.digest[:12]}",
        made.guardrails.digest[:12],
        "assistant.json",
    ):
        assert expected in text, expected
    assert main(["release", "show", digest[:12], "--json"]) == 0
    assert shown(capsys)["manifest"]["assistant"]["index"]["build"] == build_id(1)


def test_a_release_whose_configuration_was_collected_is_shown_by_its_digests(release, capsys):
    digest = release(1, collected=True)
    assert main(["release", "show", digest[:12]]) == 0
    text = capsys.readouterr().out
    assert "digests only" in text
    assert config(1).retrieval.digest[:12] in text


def test_diff_names_the_parts_and_settings_that_differ_and_nothing_else(release, capsys):
    before = release(1)
    after = release(1, prompt=2, retrieval=Retrieval(limit=8), guardrails=Guardrails(canaries=("hush",)))
    assert main(["release", "diff", PRODUCT, before[:12], after[:12], "--json"]) == 0
    out = capsys.readouterr().out
    assert "hush" not in out
    found = {change["part"]: (change["before"], change["after"]) for change in json.loads(out)["changes"]}
    assert set(found) == {"retrieval", "retrieval.limit", "prompt answer", "guardrails", "guardrails.canaries"}
    assert found["retrieval.limit"] == ("6", "8")
    assert found["prompt answer"][1].startswith("version 2, ")
    assert main(["release", "diff", PRODUCT, before[:12], before[:12]]) == 0
    assert "pin the same" in capsys.readouterr().out


def test_diff_of_collected_releases_knows_the_digests(release, capsys):
    before, after = release(1, collected=True), release(2, collected=True, retrieval=Retrieval(limit=8))
    assert main(["release", "diff", PRODUCT, before[:12], after[:12], "--json"]) == 0
    assert [change["part"] for change in shown(capsys)["changes"]] == ["index", "retrieval"]


def test_diff_works_on_models_and_refuses_releases_of_another_product(release, platform, make_manifest, capsys):
    one, other = (platform.ledger.register_release(make_manifest(number), "ada") for number in (1, 2))
    assert main(["release", "diff", "flight-delays", one[:12], other[:12], "--json"]) == 0
    assert shown(capsys)["changes"] == [
        {"part": "model", "before": "flight-delays:1 (onnx)", "after": "flight-delays:2 (onnx)"}
    ]
    assert main(["release", "diff", "flight-delays", one[:12], release(1)[:12]]) == 2
    assert f"is of {PRODUCT}" in capsys.readouterr().err


def test_the_card_of_an_assistant_is_a_system_card(release, platform, tmp_path, capsys):
    digest = release(1)
    platform.ledger.promote(PRODUCT, digest, expected_generation=0, actor="ada", reason="first")
    assert main(["release", "card", PRODUCT, "--json"]) == 0
    answer = shown(capsys)
    assert answer["release"] == digest
    assert answer["card"].startswith("# System card")
    page = tmp_path / "card.html"
    assert main(["release", "card", PRODUCT, "--html", "--output", str(page)]) == 0
    assert build_id(1) in page.read_text()


@pytest.mark.parametrize(
    "command", [["model", "card"], ["model", "show"], ["model", "list"], ["drift", "report"], ["predict"]]
)
def test_commands_for_models_refuse_an_assistant_and_say_what_to_do(platform, command, capsys):
    fields = ["question=why"] if command == ["predict"] else []
    assert main([*command, PRODUCT, *fields]) == 3
    error = capsys.readouterr().err
    assert "is an assistant" in error
    assert "plinth ask" in error if command == ["predict"] else "plinth index status" in error


def test_product_commands_know_an_assistant(platform, capsys):
    assert main(["product", "show", PRODUCT]) == 0
    text = capsys.readouterr().out
    parts = platform.products.get(PRODUCT).spec.answers()
    source, prompt = parts.sources[0], parts.prompts[0]
    for expected in (
        f"{source.name} ({source.kind} {source.path}, {source.tenant})",
        parts.embedding.model,
        f"{parts.retrieval.mode}, {parts.retrieval.limit} of {parts.retrieval.candidates}",
        f"{prompt.name} ({prompt.file})",
        parts.generator.primary.model,
        parts.golden,
    ):
        assert expected in text, expected
    assert "quality" not in text
    assert main(["product", "list", "--json"]) == 0
    assert {row["name"]: row["valid"] for row in shown(capsys)["products"]}[PRODUCT]
