"""Every rule's name, in one place: what hits, counters, traces and gates are keyed by."""

from __future__ import annotations

from plinth.guardrails.patterns import BUILTIN

RULES: dict[str, str] = {
    "length": "The question is empty or longer than `max_question_chars`; a sentence of an answer is above 4,000.",
    "language": "The question is not in one of `languages`.",
    "secret": "A question or an answer holds a key, password or token.",
    "personal-data": "A question or an answer holds personal data; it is replaced by its kind.",
    **{f"injection:{builtin.name}": f"The text {builtin.meaning}." for builtin in BUILTIN},
    "canary": "An answer holds one of `canaries`, or most of one.",
    "markup": "An answer holds an image, active HTML or a link that hides where it leads.",
    "link": "An answer holds an address that the cited chunk does not.",
    "citation:missing": "A sentence of the answer cites nothing.",
    "citation:unknown": "A sentence of the answer cites a number that no source has.",
    "support:words": "The cited chunks hold too few of the sentence's words (`min_support`).",
    "support:numbers": "A number of the sentence stands in none of the cited chunks.",
    "support:verbatim": "Code, a quotation or a technical name of the sentence stands in none of the cited chunks.",
}
"""Built-in rules, and what each says. A policy's own patterns are `injection:<name>` and `topic:<name>`."""
