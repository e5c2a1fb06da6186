from hypothesis import given
from hypothesis import strategies as st

from plinth.retrieval.texts import slices, well_formed

any_text = st.text(st.characters(exclude_categories=()), max_size=20)


@given(st.lists(any_text, max_size=30), st.integers(1, 5), st.integers(1, 40))
def test_slices_are_all_texts_in_order_and_within_their_bounds(texts, count, chars):
    parts = list(slices(texts, count, chars))
    assert [text for _, part in parts for text in part] == texts
    at = 0
    for start, part in parts:
        assert start == at
        assert 1 <= len(part) <= count
        assert len(part) == 1 or sum(map(len, part)) <= chars
        at += len(part)


@given(any_text)
def test_every_text_becomes_one_that_utf_8_can_write(text):
    made = well_formed(text)
    made.encode()
    if not any("\ud800" <= character <= "\udfff" for character in text):
        assert made == text


def test_a_pair_of_surrogates_becomes_its_character_and_a_lone_one_is_replaced():
    assert well_formed("a\ud83d\ude00b\ud83dc") == "a\U0001f600b\ufffdc"
