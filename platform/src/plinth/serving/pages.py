"""The pages of a service that never change: its OpenAPI document, and one page for people. Nothing from a CDN."""

from __future__ import annotations

import html
import json
from typing import Any

from plinth import __version__
from plinth.serving.port import ServedProduct

ERROR = {
    "type": "object",
    "required": ["error", "request_id"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["kind", "what", "where", "next"],
            "properties": {
                "kind": {"type": "string", "description": "The kind of error."},
                "what": {"type": "string", "description": "What happened."},
                "where": {"type": "string", "description": "The field or part it happened at."},
                "next": {"type": "string", "description": "What to do next."},
            },
        },
        "request_id": {"type": "string"},
    },
}

REQUEST_ID = {
    "name": "X-Request-ID",
    "in": "header",
    "description": "Your id for this request; one is made when it is missing or not well-formed.",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"},
}

PREDICT_ERRORS = {
    "400": "The body is broken JSON or nested too deep",
    "403": "A foreign Host or Origin",
    "408": "The body came too slowly",
    "413": "The body is too large",
    "415": "Not application/json",
    "422": "A field does not fit; `where` names it",
    "500": "The release that was to answer failed",
    "503": "No release is loaded, or the online store cannot be read; see Retry-After",
}


def make_pages(product: ServedProduct, title: str, description: str) -> dict[str, tuple[bytes, str]]:
    """Path to body and content type: `/openapi.json` and `/`."""
    document = openapi(product, title, description)
    return {
        "/openapi.json": (json.dumps(document, indent=1).encode(), "application/json"),
        "/": (page(document, "/predict").encode(), "text/html; charset=utf-8"),
    }


def openapi(product: ServedProduct, title: str, description: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document of a product's service."""
    parts = product.openapi()
    predict = {
        "operationId": "predict",
        "summary": "Predict one or many",
        "parameters": [REQUEST_ID],
        "requestBody": {"required": True, "content": media(parts["request"], parts["example"])},
        "responses": {
            "200": {"description": "Predictions", "content": media(parts["answer"], parts["example_answer"])},
            **{code: {"description": text, "content": media(ERROR)} for code, text in PREDICT_ERRORS.items()},
        },
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "description": description, "version": __version__},
        "paths": {
            "/predict": {"post": predict},
            "/healthz": {"get": plain("Alive: the process answers")},
            "/readyz": {"get": plain("Ready: a release is loaded and the online store can be read; 503 says why not")},
            "/metrics": {"get": plain("Metrics in Prometheus's text format")},
            "/inference-log/flush": {"post": plain("Write the buffered predictions to the inference log now")},
        },
    }


def media(schema: dict[str, Any], example: Any = None) -> dict[str, Any]:
    """The content of a JSON body."""
    described: dict[str, Any] = {"schema": schema}
    if example is not None:
        described["example"] = example
    return {"application/json": described}


def plain(summary: str) -> dict[str, Any]:
    """A path without a body."""
    return {"summary": summary, "responses": {"200": {"description": summary}}}


def page(document: dict[str, Any], main: str) -> str:
    """A page for people from an OpenAPI document; the example is that of `POST` to the path `main`."""
    info = document["info"]
    example = json.dumps(
        document["paths"][main]["post"]["requestBody"]["content"]["application/json"]["example"], indent=2
    )
    rows = "".join(
        f"<tr><td>{method.upper()}</td><td>{_path(path, method)}</td><td>{html.escape(operation['summary'])}</td></tr>"
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        f"<title>{html.escape(info['title'])}</title>"
        "<style>body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:3rem auto;padding:0 1rem}"
        "td{padding:.2rem 1rem .2rem 0;vertical-align:top}pre{background:#f4f4f4;padding:1rem;overflow:auto}</style>"
        f"<h1>{html.escape(info['title'])}</h1><p>{html.escape(info['description'])}</p><table>{rows}</table>"
        '<p>The whole description: <a href="/openapi.json">openapi.json</a>. A request to '
        f"{html.escape(main)}:</p>"
        f"<pre>{html.escape(example)}</pre></html>"
    )


def _path(path: str, method: str) -> str:
    return f'<a href="{path}">{path}</a>' if method == "get" else path
