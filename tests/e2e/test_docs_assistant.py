"""The assistant's story, and the commands a user types after it."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from story import PLINTH, ROOT, environment, tell

pytestmark = pytest.mark.timeout(900)
PRODUCT = "docs-assistant"


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """The story with a folder of the user's own beside this repository's documents; its services are left running."""
    own = tmp_path_factory.mktemp("handbook")
    (own / "moorings.md").write_text("# Moorings\n\nThe harbour master of Port Ellery is reached on channel 14.\n")
    story = tell(tmp_path_factory.mktemp("assistant") / "state", PRODUCT, "--source", f"handbook={own}")
    yield story
    done = story.plinth("down")
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_the_documents_say_is_quoted_and_cited(told):
    answered = [answer for answer in told.summary["answers"] if not answer["refused"]]
    assert len(answered) == 2
    for answer in answered:
        assert answer["citations"]
        assert {f"[{citation['number']}]" for citation in answer["citations"]} == set(
            re.findall(r"\[\d+\]", answer["answer"])
        )


def test_what_they_do_not_say_and_attacks_get_no_answer(told):
    assert [answer["refused"] for answer in told.summary["answers"]][2:] == ["unknown", "blocked"]


def test_the_users_own_folder_is_answered_from(told):
    answer = told.json("ask", "On which channel is the harbour master of Port Ellery reached?")
    assert "channel 14" in answer["answer"]
    assert answer["citations"][0]["document"] == "handbook/moorings.md"


def test_an_edit_is_found_and_a_deletion_is_gone(told):
    freshness = told.summary["freshness"]
    assert freshness["found_before"]
    assert freshness["found_after"]
    assert freshness["deleted_is_gone"]
    assert freshness["embedded"] <= 3
    assert freshness["lag_seconds"]["story"] > 0


def test_the_worse_prompt_is_refused_and_never_served(told):
    prompt = told.summary["prompt"]
    assert not prompt["accepted"]
    assert prompt["failed_gates"]
    done = told.plinth("release", "promote", PRODUCT, prompt["release"])
    assert done.returncode == 3


def test_the_bad_index_is_found_and_rolled_back(told):
    drill = told.summary["drill"]
    assert drill["detected"]
    assert drill["rolled_back"]
    assert drill["requests_failed"] == 0


def test_an_answer_is_traced_to_its_documents_and_whoever_promoted_it(told):
    asked = told.summary["answers"][0]
    found = told.json("trace", asked["request_id"])
    assert found["release"]["digest"] == asked["release"]
    assert found["release"]["decision"]["actor"] == "tester"
    cited = {document["document"] for document in found["documents"] if document["cited"]}
    assert cited == {citation["document"] for citation in asked["citations"]}


def test_every_store_agrees_after_the_story(told):
    done = told.plinth("fsck")
    assert done.returncode == 0, done.stdout + done.stderr


def readme_commands():
    """The commands of the README's part about this product."""
    section = (ROOT / "README.md").read_text().partition("## Ask your documents")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line and "demo" not in line]


def test_the_commands_of_the_readme_work_one_after_the_other(told, tmp_path):
    lines = readme_commands()
    assert len(lines) >= 7
    collection = tmp_path / "collection"
    collection.mkdir()
    (collection / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": str(i), "title": "", "text": f"page about subject{i}"}) + "\n" for i in range(5))
    )
    (collection / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": "what about subject3"}) + "\n")
    (collection / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq\t3\t1\n")
    known = {"DIR": str(collection), "REQUEST_ID": told.summary["answers"][0]["request_id"]}
    for line in lines:
        words = [known.get(word, word) for word in shlex.split(line)[1:]]
        done = told.plinth(*words)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"


def test_a_demo_says_which_options_are_not_its_own(tmp_path):
    done = subprocess.run(
        [PLINTH, "demo", PRODUCT, "--until", "2013-07-01"],
        cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--until" in done.stderr


def test_a_source_that_is_not_there_is_refused_before_anything_starts(tmp_path):
    done = subprocess.run(
        [PLINTH, "demo", PRODUCT, "--source", f"x={Path('/nowhere')}"],
        cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert not (tmp_path / "run").exists()
