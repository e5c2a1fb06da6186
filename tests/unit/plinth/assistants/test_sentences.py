"""A text that comes piece by piece is cut into the same sentences as the whole of it."""

import random

import pytest

from plinth.assistants.sentences import SentenceStream

TEXT = (
    "Cats sleep a lot. [1] Dogs, e.g. terriers, bark [2]. See v1.2 of it. [1][2] Then 3.5 of `a. b` more.\n\n"
    "- item one [3].\n- item two. [1]\n\nWhat about that? Nobody knows [2, 3]"
)
SENTENCES = [
    "Cats sleep a lot. [1]", "Dogs, e.g. terriers, bark [2].", "See v1.2 of it. [1][2]", "Then 3.5 of `a. b` more.",
    "- item one [3].", "- item two. [1]", "What about that?", "Nobody knows [2, 3]",
]  # fmt: skip


def cut(pieces):
    stream, found = SentenceStream(), []
    for piece in pieces:
        found += stream.feed(piece)
    return found + stream.rest()


def pieces_of(text, size):
    return [text[i : i + size] for i in range(0, len(text), size)]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 17, 1000])
def test_citations_behind_the_full_stop_stay_with_their_sentence(size):
    assert [sentence for _, sentence in cut(pieces_of(TEXT, size))] == SENTENCES


def test_any_way_to_cut_the_pieces_gives_the_same_sentences():
    seed = random.randrange(10**6)
    print("seed", seed)
    random.seed(seed)
    for _ in range(50):
        places = sorted(random.sample(range(1, len(TEXT)), random.randrange(1, 30)))
        pieces = [TEXT[a:b] for a, b in zip([0, *places], [*places, len(TEXT)], strict=True)]
        assert cut(pieces) == cut([TEXT]), pieces


def test_the_white_space_between_sentences_is_kept_as_a_space_a_break_or_an_empty_line():
    assert [space for space, _ in cut([TEXT])][1:] == [" ", " ", " ", "\n\n", "\n", "\n\n", " "]


def test_a_sentence_is_given_out_as_soon_as_the_next_one_has_begun():
    stream = SentenceStream()
    assert stream.feed("One is here [1]. ") == []
    assert [sentence for _, sentence in stream.feed("Two comes")] == ["One is here [1]."]


def test_nothing_comes_of_nothing():
    assert cut([]) == cut(["", " \n"]) == []
