"""Words of English that say what a text is about, in one form each: enough to compare a question with a sentence."""

from __future__ import annotations

import re

_WORD = re.compile(r"[a-z0-9]+")
_STOP = frozenset((
    "a", "about", "after", "all", "also", "am", "an", "and", "any", "are", "as", "at", "be", "because", "been",
    "before", "being", "but", "by", "can", "could", "did", "do", "does", "doing", "done", "for", "from", "get",
    "gets", "give", "gives", "given", "had", "has", "have", "having", "he", "her", "here", "his", "how", "i", "if",
    "in", "into", "is", "it", "its", "itself", "just", "let", "like", "made", "make", "makes", "many", "may", "me",
    "might", "more", "most", "much", "must", "my", "need", "needs", "no", "nor", "not", "now", "of", "on", "once",
    "one", "only", "or", "other", "our", "out", "over", "own", "please", "same", "say", "says", "shall", "she",
    "should", "so", "some", "such", "tell", "than", "that", "the", "their", "them", "then", "there", "these", "they",
    "this", "those", "through", "thing", "things", "to", "too", "under", "up", "us", "use", "used", "uses", "using",
    "very", "want", "was", "we", "were", "what", "when", "where", "whether", "which", "while", "who", "whom", "whose",
    "why", "will", "with", "would", "you", "your",
))  # fmt: skip
_VOWEL = re.compile(r"[aeiouy]")


def terms(text: str) -> list[str]:
    """The content words of a text in order, stemmed; names are cut at what is no letter or digit."""
    return [
        stem(word) for word in _WORD.findall(text.lower()) if word not in _STOP and (len(word) > 1 or word.isdigit())
    ]


def stem(word: str) -> str:
    """A word without its usual endings: plural, -ing, -ed, -ly, -ion. Lighter than Porter's; it needs no package."""
    if len(word) <= 3 or not word.isalpha():
        return word
    if word.endswith("ies") and len(word) > 4:
        word = word[:-3] + "y"
    elif word.endswith(("sses", "shes", "ches", "xes")):
        word = word[:-2]
    elif word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    for ending in ("ing", "ed", "ly", "ion"):
        base = word.removesuffix(ending)
        if base != word and len(base) >= 3 and _VOWEL.search(base) and (ending != "ion" or base[-1] in "st"):
            # "running" is of "run", "filling" of "fill": only what no word of English ends in is halved.
            word = base[:-1] if base[-1] == base[-2] and base[-1] not in "lsz" else base
            break
    return word[:-1] if word.endswith("e") and len(word) > 3 else word
