"""YAML documents that people write: safe, and with the line of every value."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plinth.core.documents import MAX_BYTES, MAX_DEPTH, parse_document, read_text
from plinth.errors import InvalidInput, NotFound


def refused(text):
    with pytest.raises(InvalidInput) as caught:
        parse_document(text, "f.yaml")
    return caught.value


def test_every_value_has_its_line():
    document = parse_document("a: 1\nb:\n  - x\n  - c: 2\n", "f.yaml")
    assert document.value == {"a": 1, "b": ["x", {"c": 2}]}
    assert document.line(("a",)) == 1
    assert document.line(("b", 1, "c")) == 4
    assert document.line(("b", 1, "missing")) == 4


def test_a_path_skips_steps_that_are_not_in_the_document():
    document = parse_document("gates:\n  - kind: calibration\n    maximum: 3\n", "f.yaml")
    assert document.path(("gates", 0, "calibration", "maximum")) == ("gates", 0, "maximum")


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "twice"),
        ("a: &x [1]\nb: *x\n", 2, "aliases"),
        ("a: 1\nb: [\n", 3, "YAML"),
        ("a: !!python/object/apply:os.system ['true']\n", 1, "tag"),
        ("a: !!binary aGk=\n", 1, "tag"),
        ("a: .nan\n", 1, "finite"),
        ("a: 1\non: 2\n", 2, "quotes"),
        ("- 1\n", 1, "mapping"),
        ("", 1, "mapping"),
        ("a: 1\n---\nb: 2\n", 2, "YAML"),
    ],
)
def test_what_surprises_or_attacks_is_refused_with_its_line(text, line, word):
    error = refused(text)
    assert error.where == f"f.yaml:{line}"
    assert word in error.what


def test_a_billion_laughs_is_refused_before_anything_is_built():
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))
    assert "aliases" in refused(bomb).what


def test_deep_nesting_large_documents_and_many_values_are_refused():
    assert f"{MAX_DEPTH} levels" in refused("a: " + "[" * 5000 + "]" * 5000).what
    assert "larger" in refused("a: " + "x" * MAX_BYTES).what
    assert "values" in refused("a:\n" + "- 1\n" * 60_000).what


def test_dates_stay_as_they_are_written():
    assert parse_document("a: 2013-01-01\n", "f").value == {"a": "2013-01-01"}


def test_files_that_cannot_be_read_are_told_apart(tmp_path):
    with pytest.raises(NotFound):
        read_text(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff")
    with pytest.raises(InvalidInput, match="UTF-8"):
        read_text(tmp_path / "latin.yaml")
    (tmp_path / "large.yaml").write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(InvalidInput, match="larger"):
        read_text(tmp_path / "large.yaml")


@given(st.text(max_size=200))
def test_any_text_is_a_document_or_a_clear_refusal(text):
    try:
        document = parse_document(text, "f.yaml")
    except InvalidInput:
        return
    assert isinstance(document.value, dict)
