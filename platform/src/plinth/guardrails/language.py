"""Whether a text is English, without a model.

Its letters have to be mostly Latin, and of its function words those of English the most. That tells a question in
another script or one of seven European languages from an English one. It says nothing about short texts (fewer than
four words, which pass) and does not know Latin-script languages beyond those seven.
"""

from __future__ import annotations

import re
import unicodedata

from plinth.guardrails.support import STOP_WORDS

_OTHERS = {
    "de": (
        "der die das und ist nicht ein eine wie was wird werden ich du sie wir ihr mit für von zu auf "
        "den dem des bei warum wann wo wer kann"
    ),
    "fr": (
        "le la les des une est et pas que qui dans pour avec sur ce cette je tu il nous vous comment "
        "quel quelle pourquoi quand où au aux du"
    ),
    "es": ("el los las una es y no que en por para con como cómo qué cuál cuándo dónde se su lo del al está son puede"),
    "it": ("il lo gli una è e non che di per con come cosa quale quando dove si della dei sono può nel alla perché"),
    "pt": ("o os as uma é e não que em por para com como qual quando onde se do da dos das são pode no na"),
    "nl": ("de het een en is niet dat van voor met hoe wat welke wanneer waar ik je wij kan wordt zijn op te bij"),
    "pl": ("jest nie i w na się że do jak co który kiedy gdzie czy to z dla są może po od"),
}
_FOREIGN = {name: frozenset(words.split()) for name, words in _OTHERS.items()}
_MINIMUM_WORDS = 4


def is_english(text: str) -> bool:
    """Whether a text looks like English; True when it is too short to tell."""
    letters = [c for c in text if c.isalpha()]
    if letters and sum(_is_latin(c) for c in letters) < 0.7 * len(letters):
        return False
    words = re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)?", text.casefold())
    if len(words) < _MINIMUM_WORDS:
        return True
    english = sum(word in STOP_WORDS for word in words)
    foreign = max(sum(word in known for word in words) for known in _FOREIGN.values())
    return english >= foreign if english else foreign < 2


def _is_latin(letter: str) -> bool:
    return letter.isascii() or unicodedata.name(letter, "").startswith("LATIN")
