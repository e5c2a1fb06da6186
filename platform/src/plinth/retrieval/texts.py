"""What the embedders do to texts before a model sees them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

# A slice is what is tokenized or sent at once, and so what bounds the memory for any number of texts.
SLICE_TEXTS, SLICE_CHARS = 512, 1 << 20


def well_formed(text: str) -> str:
    """The text with U+FFFD in place of lone surrogates, which no tokenizer and no JSON takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def slices(
    texts: Sequence[str], count: int = SLICE_TEXTS, chars: int = SLICE_CHARS
) -> Iterator[tuple[int, Sequence[str]]]:
    """Consecutive texts with the place of the first, at most `count` and, but for a single text, `chars` characters."""
    start = size = 0
    for place, text in enumerate(texts):
        if place > start and (place - start == count or size + len(text) > chars):
            yield start, texts[start:place]
            start, size = place, 0
        size += len(text)
    if start < len(texts):
        yield start, texts[start:]
