"""Questions as they are asked: strict JSON to a question, or an error that names the field. Nothing in a body says what
may be read: that follows from the key alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from typing import Any

from plinth.errors import InvalidInput
from plinth.serving.body import printable, read_json

MAX_QUESTION = 100_000
"""Characters; the release's policy allows less, and says so in the answer."""

MAX_NAME = 256
_ASK = {"question", "user", "session", "since", "until", "stream", "debug"}
_SEARCH = {"question", "limit", "since", "until"}


@dataclass(frozen=True, slots=True)
class Question:
    """A question.

    Attributes:
        text: What is asked.
        user: Who asks, by the caller's own name for them.
        session: The conversation it belongs to.
        since: Documents changed at this time or later, seconds since 1970-01-01 UTC; None is any.
        until: Documents changed before this time; None is any.
        stream: Whether the answer is sent as it comes.
        debug: Whether the answer names what was found for it.
        limit: Chunks to find (search only).
    """

    text: str
    user: str = ""
    session: str = ""
    since: float | None = None
    until: float | None = None
    stream: bool = False
    debug: bool = False
    limit: int | None = None

    def entity(self, tenant: str) -> str:
        """What keeps to a release during a rollout: the user, else the session, else the question. A digest: the name
        of a person has no place in the request log."""
        kind, name = next(pair for pair in (("u", self.user), ("s", self.session), ("q", self.text)) if pair[1])
        parts = "\0".join((tenant, kind, name)).encode("utf-8", "surrogatepass")
        return blake2b(parts, digest_size=16).hexdigest()


def read_ask(body: bytes) -> Question:
    """The question of `POST /ask`.

    Raises:
        RequestRefused: 400, the body is not JSON.
        InvalidInput: A field does not fit, or there is one that does not belong.
    """
    return read_json(body, _ask)


def read_search(body: bytes) -> Question:
    """The question of `POST /search`. Raises as `read_ask`."""
    return read_json(body, _search)


def text_of(value: Any, where: str, limit: int = MAX_QUESTION) -> str:
    """A text with something in it.

    Raises:
        InvalidInput: It is none, is empty or too long, or holds what is no text (NUL, a lone surrogate).
    """
    if not isinstance(value, str):
        raise InvalidInput("not a text", where=where, hint="give a JSON string")
    if not value.strip():
        raise InvalidInput("empty", where=where, hint="give some text")
    if len(value) > limit:
        raise InvalidInput(f"has {len(value)} characters", where=where, hint=f"at most {limit}")
    if "\x00" in value or any("\ud800" <= sign <= "\udfff" for sign in value):
        raise InvalidInput("holds a character that is no text", where=where, hint="no NUL, no lone surrogates")
    return value


def known_fields(value: Any, known: set[str], hint: str) -> Mapping[str, Any]:
    """An object without fields that do not belong.

    Raises:
        InvalidInput: It is none, or has others.
    """
    if not isinstance(value, dict):
        raise InvalidInput("not an object", where="body", hint=hint)
    for name in value:
        if name not in known:
            raise InvalidInput("unknown field", where=printable(name), hint=hint)
    return value


def flag(value: Mapping[str, Any], name: str) -> bool:
    """A field that is true or false; false where it is not there."""
    given = value.get(name)
    if given is not None and not isinstance(given, bool):
        raise InvalidInput("not true or false", where=name, hint="give a JSON boolean")
    return bool(given)


def _ask(value: Any) -> Question:
    fields = known_fields(value, _ASK, f"fields: {', '.join(sorted(_ASK))}; what may be read follows from the key")
    since, until = _times(fields)
    return Question(
        text_of(fields.get("question"), "question"), _name(fields, "user"), _name(fields, "session"), since, until,
        flag(fields, "stream"), flag(fields, "debug"),
    )  # fmt: skip


def _search(value: Any) -> Question:
    fields = known_fields(
        value, _SEARCH, f"fields: {', '.join(sorted(_SEARCH))}; what may be read follows from the key"
    )
    since, until = _times(fields)
    limit = fields.get("limit")
    if limit is not None and (type(limit) is not int or not 1 <= limit <= 50):
        raise InvalidInput("not a whole number from 1 to 50", where="limit", hint="leave it out for the release's own")
    return Question(text_of(fields.get("question"), "question"), since=since, until=until, limit=limit)


def _name(fields: Mapping[str, Any], name: str) -> str:
    return "" if fields.get(name) is None else text_of(fields[name], name, MAX_NAME)


def _times(fields: Mapping[str, Any]) -> tuple[float | None, float | None]:
    since, until = _time(fields, "since"), _time(fields, "until")
    if since is not None and until is not None and since >= until:
        raise InvalidInput("is not after since", where="until", hint="documents are found from since to before until")
    return since, until


def _time(fields: Mapping[str, Any], name: str) -> float | None:
    """A time with its zone, ISO 8601, as seconds since 1970."""
    given = fields.get(name)
    if given is None:
        return None
    try:
        when = datetime.fromisoformat(given) if isinstance(given, str) and len(given) < 40 else None
        stamp = when.timestamp() if when is not None and when.tzinfo is not None else math.nan
    except (ValueError, OverflowError):
        stamp = math.nan
    if not math.isfinite(stamp):
        raise InvalidInput("not a time with its zone", where=name, hint="ISO 8601, for instance 2026-01-31T00:00:00Z")
    return stamp
