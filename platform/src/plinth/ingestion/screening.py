"""What is looked for in a document before it is cut: secrets, instructions to its reader, personal data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from plinth.core.assistants import SourceSpec
from plinth.core.corpus import Block, Document
from plinth.core.privacy import Detector, redact
from plinth.ingestion.limits import MAX_TEXT_CHARS, TooLarge
from plinth.ingestion.port import Listed, Parsed, Refused
from plinth.ingestion.suffixes import title_of

Screen = Callable[[str], Sequence[str]]
"""Names of the rules that a text breaks by trying to instruct its reader."""


@dataclass(frozen=True, slots=True)
class Screened:
    """A document without personal data, and how much of each kind there was."""

    document: Document
    redacted: dict[str, int]


class Screening:
    """Looks at parsed documents.

    Args:
        personal_data: Finds what is redacted.
        secrets: Finds what makes a file refused.
        screen: Names the rules that a text breaks by trying to instruct its reader.
    """

    def __init__(self, personal_data: Detector, secrets: Detector, screen: Screen | None = None) -> None:
        self._personal_data = personal_data
        self._secrets = secrets
        self._screen = screen

    def look(self, spec: SourceSpec, listed: Listed, parsed: Parsed, data: bytes, digest: str) -> Screened | Refused:
        """The document to cut, or why it is quarantined. No reason holds what was found, only its kind and place.

        Raises:
            TooLarge: It has more text than the limit.
        """
        text = _whole(parsed)
        if len(text) > MAX_TEXT_CHARS:
            raise TooLarge(f"its text has more than {MAX_TEXT_CHARS:,} characters", where=listed.path)
        if found := self._secrets.find(text):
            secret = text[found[0].start : found[0].end]
            reason = f"it holds a secret of kind {found[0].kind}{_place(secret, data)}"
            return Refused(spec.name, listed.path, digest, "secret", reason)
        if found := self._secrets.find(listed.path):
            path = redact(listed.path, found).text
            return Refused(spec.name, path, digest, "secret", f"its path holds a secret of kind {found[0].kind}")
        if self._screen is not None and (rules := self._screen(text)):
            reason = f"it tries to instruct its reader: {', '.join(sorted(set(rules)))}"
            return Refused(spec.name, listed.path, digest, "poisoned", reason)
        return self._redacted(spec, listed, parsed, digest)

    def _redacted(self, spec: SourceSpec, listed: Listed, parsed: Parsed, digest: str) -> Screened:
        counts: Counter[str] = Counter()
        headings: dict[str, str] = {}

        def clean(text: str) -> str:
            redacted = redact(text, self._personal_data.find(text))
            counts.update(redacted.counts)
            return redacted.text

        blocks = []
        for block in parsed.blocks:
            for heading in block.headings:
                if heading not in headings:  # counted once, though every block below repeats it
                    headings[heading] = clean(heading)
            path = tuple(headings[heading] for heading in block.headings)
            blocks.append(Block(clean(block.text), path, block.kind))
        document = Document(
            source=spec.name, path=listed.path, title=clean(parsed.title or title_of(listed.path)),
            blocks=tuple(blocks), digest=digest, modified=listed.modified, tenant=spec.tenant, labels=spec.labels,
        )  # fmt: skip
        return Screened(document, dict(counts))


def _whole(parsed: Parsed) -> str:
    """Everything of a document that could be shown: title, headings and blocks, once each."""
    headings = dict.fromkeys(heading for block in parsed.blocks for heading in block.headings)
    return "\n\n".join([parsed.title, *headings, *(block.text for block in parsed.blocks)])


def _place(secret: str, data: bytes) -> str:
    """The line in the file where it stands, if the file is text."""
    at = data.find(secret.split("\n", 1)[0].strip().encode(errors="replace"))
    if at < 0 or b"\0" in data[:4096]:
        return ""
    line = data.count(b"\n", 0, at) + 1
    return f", line {line}"
