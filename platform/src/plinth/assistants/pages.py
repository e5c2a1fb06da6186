"""The pages of an assistant's service that never change: its OpenAPI document, and one page for people."""

from __future__ import annotations

import json
from typing import Any

from plinth import __version__
from plinth.serving.pages import ERROR, REQUEST_ID, media, page, plain

ERRORS = {
    "400": "The body is broken JSON or nested too deep",
    "401": "The key is nobody's",
    "403": "A foreign Host or Origin",
    "408": "The body came too slowly",
    "413": "The body is too large",
    "415": "Not application/json",
    "422": "A field does not fit; `where` names it",
    "500": "The release that was to answer failed",
    "503": "No release is loaded, the generator is away, or too many questions are being answered; see Retry-After",
}
_TEXT = {"type": "string"}
_WHEN = {"type": "string", "format": "date-time"}
_CITATION = {
    "type": "object",
    "properties": {
        "number": {"type": "integer", "description": "What stands in brackets in the answer."},
        "chunk": _TEXT, "document": _TEXT, "version": {"type": "string", "description": "sha256 of the document."},
        "title": _TEXT, "headings": {"type": "array", "items": _TEXT}, "quote": _TEXT,
    },
}  # fmt: skip
QUESTION: dict[str, Any] = {
    "type": "object",
    "required": ["question"],
    "additionalProperties": False,
    "properties": {
        "question": _TEXT,
        "user": {"type": "string", "description": "Keeps to one release during a rollout."},
        "session": {"type": "string", "description": "The same, where there is no user."},
        "since": {**_WHEN, "description": "Only documents changed at this time or later."},
        "until": {**_WHEN, "description": "Only documents changed before this time."},
        "stream": {"type": "boolean", "description": "Send the answer as Server-Sent Events, a sentence each."},
        "debug": {"type": "boolean", "description": "Name what was found, with its scores."},
    },
}
ANSWER: dict[str, Any] = {
    "type": "object",
    "required": ["request_id", "release", "answer", "citations", "refused", "stale", "support", "usage", "hits"],
    "properties": {
        "request_id": _TEXT,
        "release": {"type": "string", "description": "Digest of the one release that answered."},
        "answer": _TEXT,
        "citations": {"type": "array", "items": _CITATION},
        "refused": {"enum": ["", "unknown", "blocked", "budget"]},
        "stale": {"type": "array", "items": _TEXT, "description": "Sources beyond their freshness objective."},
        "support": {"type": "number", "description": "How well the citations carry the sentences, 0 to 1."},
        "usage": {"type": "object"},
        "hits": {"type": "array", "items": _TEXT, "description": "Guardrails that stepped in."},
    },
}
SEARCH: dict[str, Any] = {
    "type": "object",
    "required": ["question"],
    "additionalProperties": False,
    "properties": {
        "question": _TEXT,
        "limit": {"type": "integer", "minimum": 1, "maximum": 50},
        "since": QUESTION["properties"]["since"],
        "until": QUESTION["properties"]["until"],
    },
}


def make_pages(title: str, description: str) -> dict[str, tuple[bytes, str]]:
    """Path to body and content type: `/openapi.json` and `/`."""
    document = openapi(title, description)
    return {
        "/openapi.json": (json.dumps(document, indent=1).encode(), "application/json"),
        "/": (page(document, "/ask").encode(), "text/html; charset=utf-8"),
    }


def openapi(title: str, description: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document of an assistant's service."""
    chat = {"type": "object", "required": ["messages"], "properties": {"messages": {"type": "array"}}}
    hello = {"model": "any", "messages": [{"role": "user", "content": "What is this about?"}]}
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "description": description, "version": __version__},
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"key": []}],
        "paths": {
            "/ask": {"post": _post("ask", "Ask a question", QUESTION, {"question": "What is this about?"}, ANSWER)},
            "/search": {
                "post": _post("search", "Find without answering", SEARCH, {"question": "release", "limit": 3}, {})
            },
            "/v1/chat/completions": {
                "post": _post("chat", "OpenAI's chat completions: the last message is asked", chat, hello, {})
            },
            "/v1/models": {"get": plain("OpenAI's list of models: this one")},
            "/healthz": {"get": plain("Alive: the process answers")},
            "/readyz": {"get": plain("Ready: a release is loaded and its index can be read; 503 says why not")},
            "/metrics": {"get": plain("Metrics in Prometheus's text format")},
            "/answers-log/flush": {"post": plain("Write the buffered answers to the answer log now")},
        },
    }


def _post(
    name: str, summary: str, request: dict[str, Any], example: dict[str, Any], answer: dict[str, Any]
) -> dict[str, Any]:
    return {
        "operationId": name,
        "summary": summary,
        "parameters": [REQUEST_ID],
        "requestBody": {"required": True, "content": media(request, example)},
        "responses": {
            "200": {"description": summary, "content": media(answer or {"type": "object"})},
            **{code: {"description": text, "content": media(ERROR)} for code, text in ERRORS.items()},
        },
    }
