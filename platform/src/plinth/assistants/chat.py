"""The shapes of OpenAI's chat completions, which many clients speak: a question in, an answer with citations out.

https://platform.openai.com/docs/api-reference/chat. What a caller may set there and a release decides here (the model,
its temperature, its length) is ignored; what would change the meaning of the answer (tools, several choices, images) is
refused, and so is what is unknown.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from plinth.assistants.questions import MAX_NAME, Question, flag, known_fields, text_of
from plinth.core.answers import Answer, Citation
from plinth.errors import InvalidInput, PlinthError
from plinth.ingestion.characters import clean
from plinth.serving.body import printable, read_json

READ = {"messages", "model", "stream", "stream_options", "user", "safety_identifier", "prompt_cache_key"}
IGNORED = {
    "temperature", "top_p", "max_tokens", "max_completion_tokens", "presence_penalty", "frequency_penalty", "seed",
    "metadata", "service_tier", "reasoning_effort", "verbosity", "parallel_tool_calls", "prompt_cache_retention",
    "prediction", "logit_bias",
}  # fmt: skip
"""A release decides these, or they change no answer."""

PLAIN: dict[str, tuple[Any, ...]] = {
    "n": (1,), "tools": ([],), "functions": ([],), "tool_choice": ("none", "auto"), "function_call": ("none", "auto"),
    "logprobs": (False,), "top_logprobs": (0,), "stop": ([], ""), "modalities": (["text"],),
    "response_format": ({"type": "text"},), "store": (False,),
}  # fmt: skip
"""Accepted where they ask for nothing else than a plain answer."""

ROLES = {"system", "developer", "user", "assistant", "tool", "function"}
MAX_MESSAGES = 200


def read_chat(body: bytes) -> tuple[Question, bool]:
    """The question of a chat: its last message of the user; and whether the stream ends with the usage.

    Raises:
        RequestRefused: 400, the body is not JSON.
        InvalidInput: A field does not fit.
    """
    return read_json(body, _chat)


def _chat(value: Any) -> tuple[Question, bool]:
    fields = known_fields(
        value, READ | IGNORED | set(PLAIN), "the release decides how it answers, the key what may be read"
    )
    for name, plain in PLAIN.items():
        given = fields.get(name)
        if given is not None and not any(type(given) is type(one) and given == one for one in plain):
            raise InvalidInput("not supported", where=name, hint="leave it out: the answer is one text with citations")
    options = fields.get("stream_options") or {}
    if not isinstance(options, dict):
        raise InvalidInput("not an object", where="stream_options", hint='for instance {"include_usage": true}')
    user = next((fields[name] for name in ("user", "safety_identifier") if fields.get(name) is not None), None)
    question = Question(
        _last_question(fields.get("messages")),
        user="" if user is None else text_of(user, "user", MAX_NAME),
        session="" if fields.get("prompt_cache_key") is None else text_of(
            fields["prompt_cache_key"], "prompt_cache_key", MAX_NAME
        ),
        stream=flag(fields, "stream"),
    )  # fmt: skip
    return question, flag(options, "include_usage")


def _last_question(messages: Any) -> str:
    """The text of the user's last message. What stands before it is no source, and instructs nobody."""
    if not isinstance(messages, list) or not 1 <= len(messages) <= MAX_MESSAGES:
        raise InvalidInput(f"not a list of 1 to {MAX_MESSAGES} messages", where="messages", hint="the last is asked")
    for i, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if not isinstance(role, str) or role not in ROLES:
            raise InvalidInput("not a message", where=f"messages[{i}]", hint=f"role: {', '.join(sorted(ROLES))}")
    last = len(messages) - 1
    if messages[last]["role"] != "user":
        raise InvalidInput("not a message of the user", where=f"messages[{last}].role", hint="the last one is answered")
    content = messages[last].get("content")
    if isinstance(content, list):
        return text_of("".join(_part(part, f"messages[{last}].content[{i}]") for i, part in enumerate(content)),
                       f"messages[{last}].content")  # fmt: skip
    return text_of(content, f"messages[{last}].content")


def _part(part: Any, where: str) -> str:
    if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
        raise InvalidInput("not a text", where=where, hint="only text is read")
    return str(part["text"])


def completion(request_id: str, model: str, answer: Answer, extra: Mapping[str, Any]) -> bytes:
    """A whole `chat.completion`."""
    message = {"role": "assistant", "content": answer.text + listed(answer.citations), "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason(answer), "logprobs": None}
    return orjson.dumps(
        {**_head(request_id, model, "chat.completion"), "choices": [choice], "usage": usage(answer), "plinth": extra}
    )


class Chunks:
    """Makes the `chat.completion.chunk`s of one answer, as Server-Sent Events.

    Args:
        request_id: The request's id.
        model: Named in every chunk.
        include_usage: Whether a chunk with the usage comes last.
    """

    def __init__(self, request_id: str, model: str, *, include_usage: bool) -> None:
        self._head = _head(request_id, model, "chat.completion.chunk")
        self._include_usage = include_usage

    def start(self) -> bytes:
        """The first chunk: whose turn it is."""
        return self._chunk({"role": "assistant", "content": ""})

    def text(self, text: str) -> bytes:
        """Some text."""
        return self._chunk({"content": text})

    def end(self, answer: Answer, extra: Mapping[str, Any]) -> bytes:
        """The citations, why it ended, and the end of the stream."""
        parts = [self.text(cites)] if (cites := listed(answer.citations)) else []
        parts.append(self._chunk({}, finish_reason(answer), {"plinth": extra}))
        if self._include_usage:
            parts.append(event({**self._head, "choices": [], "usage": usage(answer)}))
        return b"".join([*parts, b"data: [DONE]\n\n"])

    def error(self, error: PlinthError) -> bytes:
        """An error in the middle of the stream; nothing comes after it."""
        return event(error_body(error))

    def _chunk(
        self, delta: Mapping[str, Any], reason: str | None = None, more: Mapping[str, Any] | None = None
    ) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        return event({**self._head, "choices": [choice], **(more or {})})


def event(data: Mapping[str, Any], name: str = "") -> bytes:
    """A Server-Sent Event."""
    return (f"event: {name}\n".encode() if name else b"") + b"data: " + orjson.dumps(data) + b"\n\n"


def listed(citations: Sequence[Citation]) -> str:
    """Citations as people read them, below the answer."""
    lines = [f"[{c.number}] {place(c)}" for c in citations]
    return "\n\nSources:\n" + "\n".join(lines) if lines else ""


def place(citation: Citation) -> str:
    """Where a citation stands: title > heading (document), as text that no reader of Markdown takes for a link, an
    image or HTML: whoever writes a document chooses its title and its file's name."""
    chunk = citation.chunk
    path = " > ".join(dict.fromkeys(_plain(part) for part in (chunk.title, *chunk.headings) if part))
    document = _plain(chunk.document)
    return f"{path} ({document})" if path else document


def _plain(text: str) -> str:
    return re.sub(r"[\\\[\]<]", r"\\\g<0>", " ".join(clean(text).split()))


def finish_reason(answer: Answer) -> str:
    """Why the text ends there."""
    return {"blocked": "content_filter", "budget": "length"}.get(answer.refused, "stop")


def usage(answer: Answer) -> dict[str, int]:
    """Tokens, as clients expect them."""
    prompt, completion_tokens = answer.usage.prompt_tokens, answer.usage.completion_tokens
    return {
        "prompt_tokens": prompt, "completion_tokens": completion_tokens, "total_tokens": prompt + completion_tokens
    }  # fmt: skip


def models(product: str, created: int) -> bytes:
    """`GET /v1/models`: the one there is."""
    one = {"id": product, "object": "model", "created": created, "owned_by": "plinth"}
    return orjson.dumps({"object": "list", "data": [one]})


def error_body(error: PlinthError) -> dict[str, Any]:
    """An error in OpenAI's shape."""
    status = error.http_status
    kind = "server_error" if status >= 500 else "authentication_error" if status == 401 else "invalid_request_error"
    message = f"{error.where}: {error.what}" if error.where else error.what
    if error.hint:
        message += f". {error.hint}"
    return {
        "error": {
            "message": printable(message, 500), "type": kind, "param": printable(error.where) or None,
            "code": type(error).__name__,
        }
    }  # fmt: skip


def _head(request_id: str, model: str, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{request_id}", "object": kind, "created": int(time.time()), "model": model}
