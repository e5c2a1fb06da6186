"""Documents are cut along their structure, within the tokens that are given."""

import re
from dataclasses import replace
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from plinth.core.assistants import Chunking
from plinth.core.corpus import Block, Document
from plinth.core.sentences import sentences
from plinth.ingestion.chunking import chunk_document

SMALL = Chunking(max_tokens=32, overlap=8)


def words(text):
    """A tokenizer: words and marks."""
    return len(re.findall(r"\w+|[^\w\s]", text))


def document(*blocks, title="Guide"):
    return Document("docs", "a/guide.md", title, tuple(blocks), "d" * 64, 5.0, "public", ("staff",))


def cut(*blocks, chunking=SMALL, title="Guide"):
    return chunk_document(document(*blocks, title=title), chunking, words)


def test_small_blocks_below_one_heading_share_a_chunk_and_headings_divide():
    chunks = cut(
        Block("One.", ("A",)), Block("Two.", ("A",)), Block("Three.", ("A", "B")), Block("Four.", ("C",))
    )  # fmt: skip
    assert [(chunk.headings, chunk.text) for chunk in chunks] == [
        (("A",), "One.\n\nTwo."), (("A", "B"), "Three."), (("C",), "Four."),
    ]  # fmt: skip
    assert [chunk.position for chunk in chunks] == [0, 1, 2]


def test_a_chunk_carries_what_the_document_says_of_itself():
    (chunk,) = cut(Block("One."))
    assert (chunk.document, chunk.version, chunk.source) == ("docs/a/guide.md", "d" * 64, "docs")
    assert (chunk.title, chunk.labels, chunk.modified) == ("Guide", ("staff",), 5.0)


def test_a_long_block_is_cut_at_sentences_and_repeats_the_end_of_the_piece_before():
    text = " ".join(f"Sentence number {number} is here." for number in range(12))
    chunks = cut(Block(text))
    assert len(chunks) > 2
    for before, after in pairwise(chunks):
        assert sentences(before.text)[-1] == sentences(after.text)[0]
    assert all(sentence in text for chunk in chunks for sentence in sentences(chunk.text))


def test_a_sentence_longer_than_a_chunk_is_cut_between_words():
    text = " ".join(f"word{number}" for number in range(100))
    chunks = cut(Block(text))
    assert all(chunk.text in text for chunk in chunks)
    assert set(text.split()) == {word for chunk in chunks for word in chunk.text.split()}


def test_code_stays_whole_where_it_fits_and_is_cut_between_lines_where_not():
    (whole,) = cut(Block("a = 1\n\n  b = 2", kind="code"))
    assert whole.text == "```\na = 1\n\n  b = 2\n```"
    code = "\n".join(f"    call_{number}(x)" for number in range(20))
    pieces = cut(Block(code, kind="code"))
    assert len(pieces) > 1
    inner = [piece.text.removeprefix("```\n").removesuffix("\n```") for piece in pieces]
    assert "\n".join(inner) == code


def test_the_head_of_a_long_table_stands_over_every_piece():
    rows = "\n".join(f"| {number} | x |" for number in range(12))
    pieces = cut(Block(f"| n | v |\n| --- | --- |\n{rows}", kind="table"), chunking=Chunking(max_tokens=60, overlap=0))
    assert len(pieces) > 1
    assert all(piece.text.startswith("| n | v |\n| --- | --- |\n") for piece in pieces)


def test_headings_that_would_take_more_than_half_a_chunk_are_shortened():
    long = " ".join(["very"] * 40)
    chunks = cut(Block("The text is here.", (long, "Near")), title=long)
    assert all(words(chunk.indexed_text) <= 32 for chunk in chunks)
    assert "The text is here." in " ".join(chunk.text for chunk in chunks)


def test_a_word_of_any_length_ends_in_bounded_chunks():
    # A tokenizer that counts any unknown word as one token.
    chunks = chunk_document(document(Block("x" * 100_000)), SMALL, lambda text: len(text.split()))
    assert max(len(chunk.text) for chunk in chunks) <= 32 * 16


blocks = st.lists(
    st.builds(
        Block,
        text=st.text(alphabet=st.sampled_from("ab .!?\n|-`1é"), min_size=1, max_size=400).filter(str.strip),
        headings=st.lists(st.sampled_from(["One", "Two words", "x " * 30]), max_size=3).map(tuple),
        kind=st.sampled_from(["text", "code", "table", "list"]),
    ),
    max_size=6,
)


@settings(max_examples=300)
@given(blocks, st.integers(32, 80), st.integers(0, 16))
def test_every_character_is_in_some_chunk_and_no_chunk_is_too_large(blocks, most, overlap):
    chunking = Chunking(max_tokens=most, overlap=overlap)
    chunks = chunk_document(document(*blocks), chunking, words)
    assert chunks == chunk_document(document(*blocks), chunking, words)
    assert all(words(chunk.indexed_text) <= most for chunk in chunks)
    assert all(chunk.text.strip() for chunk in chunks)
    for block in blocks:
        own = "\x00".join(chunk.text for chunk in chunks)
        assert all(word in own for line in block.text.split("\n") for word in line.split() if len(word) < 30)
    letters = re.sub(r"[\s`|-]", "", "".join(block.text for block in blocks))
    found = re.sub(r"[\s`|-]", "", "".join(chunk.text for chunk in chunks))
    iterator = iter(found)
    assert all(letter in iterator for letter in letters), "what the chunks hold leaves something out"


def test_a_document_of_the_same_content_gives_the_same_ids_and_another_place_others():
    first = cut(Block("One."))[0]
    assert first.id == cut(Block("One."))[0].id
    moved = replace(document(Block("One.")), path="b.md")
    assert chunk_document(moved, SMALL, words)[0].id != first.id
