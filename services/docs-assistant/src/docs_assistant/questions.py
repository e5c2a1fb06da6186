"""The story's questions to the running service, and how their answers are shown."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from plinth.errors import Unavailable

if TYPE_CHECKING:
    from rich.console import Console

    from plinth.wiring import Platform

TIMEOUT = 60.0


def ask(platform: Platform, product: str, question: str) -> dict[str, Any]:
    """The whole answer of `POST /ask`, asked as anybody without a key.

    Raises:
        Unavailable: The service does not answer.
    """
    url = f"{platform.service_urls(product)[0]}/ask"
    body = json.dumps({"question": question}).encode()
    headers = {"Content-Type": "application/json", **platform.service_headers(product)}
    request = urllib.request.Request(url, body, headers)  # noqa: S310  (its own address)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=TIMEOUT) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise Unavailable(
            f"the service does not answer: {error}", where=url, hint=f"`plinth logs {product}`"
        ) from error


def show(console: Console, question: str, answer: dict[str, Any]) -> None:
    """A question, its answer and what it cites."""
    console.print(f"   [bold]{escape(question)}[/bold]", highlight=False)
    color = "yellow" if answer["refused"] else "green"
    console.print(f"   [{color}]{escape(answer['answer'].strip())}[/{color}]", highlight=False)
    for citation in answer["citations"]:
        place = " > ".join([citation["title"], *citation["headings"]])
        console.print(f"   [dim]\\[{citation['number']}] {escape(place)} ({escape(citation['document'])})[/dim]")
    if answer["hits"]:
        console.print(f"   [dim]guardrails: {escape(', '.join(map(str, answer['hits'])))}[/dim]")
