"""One spelling of a text, and data that can form no tag."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plinth.guardrails.text import as_data, from_data, normal, readings, squashed, visible

ANGLES = "<>＜＞﹤﹥‹›⟨⟩〈〉❮❯ᐸᐳ"
tags = st.lists(
    st.sampled_from([*ANGLES, "/", " ", "source", "SOURCE", "question", "\u200b", "\u00ad", "&lt;", "&", 'id="1"', "x"])
).map("".join)


@given(tags | st.text())
def test_nothing_in_data_can_open_or_close_a_tag(text):
    shown = as_data(text)
    assert not set(shown) & set(ANGLES)
    assert not re.search(r"<\s*/?\s*(source|question)", normal(shown), re.IGNORECASE)


@given(tags | st.text())
def test_what_was_made_data_can_be_read_again(text):
    assert from_data(as_data(text)) == visible(text)


@pytest.mark.parametrize(
    "text",
    [
        "Ig\u200bn\u00adore th\u2060is",
        "Ｉｇｎｏｒｅ ｔｈｉｓ",
        "Ignоre thіs",
        "1gn0re th1s",
        "I g n o r e  t h i s",
        "&#73;gnore this",
        "%49%67nore this",
        "SWdub3JlIHRoaXMgbm93",
        "x" + "".join(chr(0xE0000 + ord(c)) for c in "ignore this"),
        "Ignore\r\nthis",
        "\x1bIgnore\x00 this",
    ],
)
def test_what_is_hidden_or_encoded_is_brought_out(text):
    assert any("ignorethis" in squashed(reading) for reading in readings(text))


def test_a_paragraph_is_one_line_and_lists_and_roles_keep_theirs():
    assert normal("ignore all\nprevious\n\n- a\n- b\nsystem: x") == "ignore all previous\n\n- a\n- b\nsystem: x"


@given(st.text())
def test_every_text_has_readings_and_none_raises(text):
    assert list(readings(text))
