"""Personal data and secrets in a text: what a detector finds and what becomes of it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Finding:
    """Something in a text: `kind` such as "email" or "aws-key", at text[start:end]."""

    kind: str
    start: int
    end: int


class Detector(Protocol):
    """Finds things in a text that must not be shown."""

    def find(self, text: str) -> Sequence[Finding]:
        """What stands in the text, in order, without overlaps."""
        ...


@dataclass(frozen=True, slots=True)
class Redacted:
    """A text without what was found, and how much of each kind there was."""

    text: str
    counts: dict[str, int]


def redact(text: str, findings: Iterable[Finding]) -> Redacted:
    """The text with each finding replaced by its kind: `[email]`."""
    parts: list[str] = []
    counts: Counter[str] = Counter()
    end = 0
    for finding in sorted(findings, key=lambda finding: finding.start):
        if finding.start < end:
            continue
        parts += [text[end : finding.start], f"[{finding.kind}]"]
        counts[finding.kind] += 1
        end = finding.end
    return Redacted("".join([*parts, text[end:]]), dict(counts))
