"""Sentences of Markdown-ish text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plinth.core.sentences import sentence_spans, sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("It takes 3.5 s. Done.", ["It takes 3.5 s.", "Done."]),
        ("Use v1.2 of e.g. Qdrant, i.e. the server.", ["Use v1.2 of e.g. Qdrant, i.e. the server."]),
        ("See `a. B` first. Then go.", ["See `a. B` first.", "Then go."]),
        ("supervisord runs. plinth asks it.", ["supervisord runs.", "plinth asks it."]),
        ("Dr. J. Smith read No. 5 of the U.S. law.", ["Dr. J. Smith read No. 5 of the U.S. law."]),
        ("Wait... then go on.", ["Wait... then go on."]),
        ('"Really?" he asked. "Yes."', ['"Really?" he asked.', '"Yes."']),
        ("- first item. More of it\n- second item", ["- first item.", "More of it", "- second item"]),
        ("1. One\n2. Two", ["1. One", "2. Two"]),
        ("# A heading. Whole\nText.", ["# A heading. Whole", "Text."]),
        ("| a. B | c |\n|---|---|\n| 1 | 2 |", ["| a. B | c |", "|---|---|", "| 1 | 2 |"]),
        ("```\nx = 1. Y\nz\n```\nAfter. It", ["x = 1. Y", "z", "After.", "It"]),
        ("A sentence over\ntwo lines. Next.", ["A sentence over\ntwo lines.", "Next."]),
        ("中文。下一句。", ["中文。", "下一句。"]),
        ("", []),
        (" \n\n ", []),
    ],
)
def test_a_text_is_cut_where_a_reader_would_cut_it(text, expected):
    assert sentences(text) == expected


@given(st.text(alphabet=st.sampled_from("aB .!?\n`-|#1。'\"()"), max_size=200))
def test_sentences_stand_in_the_text_in_order_and_only_fences_and_space_lie_between(text):
    end = 0
    for start, stop in sentence_spans(text):
        assert start >= end
        between = text[end:start].strip()
        assert between == "" or between.startswith(("`", "~")), between
        assert text[start:stop] == text[start:stop].strip() != ""
        end = stop
