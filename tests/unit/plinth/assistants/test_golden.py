"""Golden questions: the file is checked, and what it says of this repository's documents is true."""

import json
from pathlib import Path

import pytest

from plinth.assistants.golden import golden_digest, holds, load_golden, squeezed
from plinth.errors import InvalidInput, NotFound

ROOT = Path(__file__).parents[4]
GOLDEN = load_golden(ROOT / "services" / "docs-assistant" / "golden.jsonl")
GOOD = {
    "id": "a", "question": "Why?", "kind": "answerable", "documents": ["docs/a.md"], "must_contain": [["x", "y"]],
    "split": "dev",
}  # fmt: skip


def write(path, *lines):
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


@pytest.mark.parametrize("question", [q for q in GOLDEN if q.kind == "answerable"], ids=lambda q: q.id)
def test_every_named_document_is_there_and_holds_the_facts(question):
    for name in question.documents:
        assert question.is_answered_by((ROOT / name).read_text()), name


def test_there_are_enough_questions_and_a_third_of_them_is_to_be_refused():
    assert len(GOLDEN) >= 60
    refused = [q for q in GOLDEN if q.kind != "answerable"]
    assert len(refused) * 3 >= len(GOLDEN)
    for split in ("dev", "test"):
        assert {q.kind for q in GOLDEN if q.split == split} == {"answerable", "unanswerable", "adversarial"}


def test_no_question_is_copied_from_the_documents():
    texts = [squeezed(path.read_text()) for path in ROOT.glob("docs/**/*.md")]
    for question in GOLDEN:
        if question.kind == "answerable":
            assert not any(squeezed(question.question).rstrip("?") in text for text in texts), question.id


def test_empty_lines_and_remarks_are_skipped(tmp_path):
    assert [q.id for q in load_golden(write(tmp_path / "g.jsonl", "# why", "", GOOD, ""))] == ["a"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "is no JSON object"),
        ("[1]", "valid dictionary"),
        ({**GOOD, "id": "B C"}, "id"),
        ({**GOOD, "kind": "hard"}, "kind"),
        ({**GOOD, "mustcontain": []}, "mustcontain"),
        ({**GOOD, "documents": []}, "an answerable question has documents"),
        ({**GOOD, "kind": "adversarial"}, "and no other one has"),
        ({**GOOD, "documents": ["../secret"]}, "documents"),
        ({**GOOD, "must_contain": [[]]}, "must_contain"),
        ({**GOOD, "question": "  "}, "question"),
        ("[" * 100_000, "is no JSON object"),
    ],
    ids=range(11),
)
def test_a_line_that_does_not_fit_is_named(tmp_path, line, said):
    path = write(tmp_path / "g.jsonl", "# remark", {**GOOD, "id": "first", "question": "What?"}, line)
    with pytest.raises(InvalidInput, match="do not fit") as caught:
        load_golden(path)
    assert f"{path}:3" in str(caught.value)
    assert said in str(caught.value)


def test_every_problem_is_named_at_once_and_nothing_may_stand_twice(tmp_path):
    path = write(
        tmp_path / "g.jsonl", GOOD, {**GOOD, "question": "Other?"}, {**GOOD, "id": "b", "question": "WHY?"}, "{"
    )
    with pytest.raises(InvalidInput) as caught:
        load_golden(path)
    for line in (2, 3, 4):
        assert f"{path}:{line}" in str(caught.value)


def test_a_file_without_questions_is_refused_and_a_missing_one_is_not_found(tmp_path):
    with pytest.raises(InvalidInput, match="no question"):
        load_golden(write(tmp_path / "g.jsonl", "# nothing"))
    with pytest.raises(NotFound):
        load_golden(tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    ("fact", "text", "found"),
    [
        ("5", "after 5 seconds", True), ("5", "after 50 seconds", False), ("5", "after 5.2 s", False),
        ("5", "1,5", False), ("5", "it is 5.", True), ("PLINTH_ACTOR", "Set `PLINTH_ACTOR`.", True),
        ("--apply", "with **--apply**", True), ("half second", "each half\nsecond [1]", True),
        ("2 s", "2 steps", False),
    ],
)  # fmt: skip
def test_a_fact_is_looked_for_as_words_of_its_own(fact, text, found):
    assert holds(squeezed(text), fact) is found


def test_the_digest_is_of_what_is_asked_and_not_of_the_layout(tmp_path):
    one, two = write(tmp_path / "a", GOOD), write(tmp_path / "b", "# x", json.dumps(dict(reversed(GOOD.items()))))
    assert golden_digest(load_golden(one)) == golden_digest(load_golden(two))
    assert golden_digest(load_golden(one)) != golden_digest(
        load_golden(write(tmp_path / "c", {**GOOD, "split": "test"}))
    )
