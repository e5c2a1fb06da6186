"""The audit chain: each entry's hash covers the one before it, so an edit or a gap shows. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from plinth.core.digests import digest_json

GENESIS = "0" * 64


@dataclass(frozen=True)
class AuditEntry:
    """One decision or effect: who did what to what, and when (UTC, ISO 8601)."""

    seq: int
    at: str
    actor: str
    action: str
    subject: str
    payload: dict[str, Any]
    previous: str
    hash: str


def seal(
    seq: int, at: str, actor: str, action: str, subject: str, payload: dict[str, Any], previous: str
) -> AuditEntry:
    """The entry with its hash over all other fields."""
    body = {"seq": seq, "at": at, "actor": actor, "action": action, "subject": subject, "payload": payload}
    return AuditEntry(**body, previous=previous, hash=digest_json({**body, "previous": previous}))  # type: ignore[arg-type]


def read_payload(text: str) -> dict[str, Any]:
    """A stored payload. What somebody made unreadable comes back as something whose hash cannot be right."""
    try:
        value: dict[str, Any] = json.loads(text, parse_constant=str)
    except ValueError:
        return {"unreadable": text}
    return value


def first_broken(entries: Iterable[AuditEntry]) -> AuditEntry | None:
    """The first entry whose hash, predecessor or number is wrong; None when the chain is whole.

    Args:
        entries: The chain from its first entry, in order.
    """
    previous, expected = GENESIS, 1
    for entry in entries:
        try:
            resealed = seal(entry.seq, entry.at, entry.actor, entry.action, entry.subject, entry.payload, previous)
        except ValueError:  # somebody put in what was never sealed: half a surrogate, say
            return entry
        if entry.seq != expected or entry.previous != previous or entry.hash != resealed.hash:
            return entry
        previous, expected = entry.hash, expected + 1
    return None
