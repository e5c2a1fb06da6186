"""Encodings, and the characters that never reach a chunk."""

import pytest

from plinth.errors import InvalidInput
from plinth.ingestion.characters import clean
from plinth.ingestion.text import decode, front_matter

TEXT = "Grüße aus Köln: die Bäume blühen, die Straße ist schön, und das Wetter auch."


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "latin-1", "cp1252"])
def test_text_is_read_in_its_encoding(encoding):
    assert decode(TEXT.encode(encoding), "x") == TEXT


def test_cyrillic_without_a_mark_is_recognized():
    text = "Индекс строится рядом с рабочим, проверяется и только потом включается для всех."
    assert decode(text.encode("cp1251"), "x") == text


@pytest.mark.parametrize("data", [b"\x00\x01\x02", b"text\x00more", b"\xff\xfe\x00"])
def test_what_is_no_text_is_refused(data):
    with pytest.raises(InvalidInput):
        decode(data, "x")


def test_what_nobody_sees_is_taken_out():
    assert clean("a\x00b\x07c\ud800d\u200be\u202ef\U000e0041g\ufeffh\xadi") == "abc\ufffddefghi"
    assert clean("a\r\nb\rc\u2028d\te") == "a\nb\nc\nd\te"


def test_letters_of_every_language_and_joined_emoji_stay():
    text = "naïve 中文 עברית می‌خواهم 👩\u200d💻"
    assert clean(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("---\ntitle: A guide\ntags: [x]\n---\n# One", ("# One", "A guide")),
        ("---\ntags: x\n---\nText", ("Text", "")),
        ("---\nno end", ("---\nno end", "")),
        ("---\n- a list\n---\nText", ("---\n- a list\n---\nText", "")),
        (
            "---\n!!python/object/apply:os.system [x]\n---\nText",
            ("---\n!!python/object/apply:os.system [x]\n---\nText", ""),
        ),
        ("Text", ("Text", "")),
    ],
)
def test_front_matter_names_the_title(text, expected):
    assert front_matter(text) == expected
