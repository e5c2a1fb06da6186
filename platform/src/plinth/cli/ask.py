"""`plinth ask`: a question to an assistant's running service; the answer is printed as it comes."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from plinth.cli.command import Groups

if TYPE_CHECKING:
    from collections.abc import Iterator

    from plinth.cli.output import Output
    from plinth.core.products import Product
    from plinth.wiring import Platform

TIMEOUT = 120.0
KEY = "PLINTH_API_KEY"


def register(groups: Groups) -> None:
    """Declare the command."""
    command = groups.command(
        "ask",
        ask,
        help="Ask an assistant's running service; the answer comes with citations.",
        example='plinth ask "How is a release rolled back?"',
    )
    command.add_argument("question")
    command.add_argument("--product", metavar="NAME", help="the assistant; default the only one there is")
    command.add_argument("--key", metavar="KEY", help=f"a tenant's key; default the environment's {KEY}, else public")
    command.add_argument("--no-stream", action="store_true", help="print the answer when it is whole")
    command.add_argument("--request-id", metavar="ID", help="id of the request, for logs, traces and `plinth trace`")


def ask(args: Namespace, out: Output) -> int:
    """Handler: one question. 0 it was answered, or the documents do not say; 3 a guardrail said no."""
    import os

    from plinth.assistants.tenants import HEADER
    from plinth.wiring import Platform

    platform = Platform.from_settings()
    spec = assistant(platform, args.product)
    url = f"{platform.service_urls(spec.name)[0]}/ask"
    headers = {"Content-Type": "application/json", **platform.service_headers(spec.name)}
    if key := args.key or os.environ.get(KEY, ""):
        headers[HEADER] = key
    if args.request_id:
        headers["X-Request-ID"] = args.request_id
    stream = not (args.no_stream or out.json_mode)
    whole: dict[str, Any] = {}
    for name, data in _events(url, headers, {"question": args.question, "stream": stream}, stream=stream):
        if name == "sentence":
            _say(out, data["text"])
        elif name == "error":
            raise _failed(data["error"])
        else:
            whole = data
    if not whole:
        from plinth.errors import Unavailable

        raise Unavailable("the answer ended in the middle", where=url, hint="ask again; `plinth logs` says more")
    out.data(whole)
    if not stream:
        _say(out, whole["answer"])
    _about(whole, out)
    return 3 if whole["refused"] in ("blocked", "budget") else 0


def assistant(platform: Platform, name: str | None) -> Product:
    """The assistant of that name, or the only one there is.

    Raises:
        NotFound: There is none.
        InvalidInput: There are several.
        RefusedByPolicy: The product is no assistant.
    """
    from plinth.errors import InvalidInput, NotFound

    if name is not None:
        spec = platform.products.get(name).spec
        spec.answers()
        return spec
    found = [loaded.spec for loaded in platform.products.all() if loaded.spec.assistant is not None]
    if not found:
        raise NotFound("there is no assistant", where=str(platform.products.services), hint="`plinth product list`")
    if len(found) > 1:
        names = ", ".join(spec.name for spec in found)
        raise InvalidInput(f"there are several assistants: {names}", where="--product", hint="name one of them")
    return found[0]


def _events(url: str, headers: dict[str, str], body: dict[str, Any], *, stream: bool) -> Iterator[tuple[str, Any]]:
    """Name and data of each event of the answer; without a stream, the answer alone."""
    import http.client
    import json
    import urllib.error
    import urllib.request

    from plinth.cli.predict import UP, refused
    from plinth.errors import Unavailable

    request = urllib.request.Request(url, json.dumps(body).encode(), headers)  # noqa: S310  (the profile's own address)
    # A proxy of the environment is for other machines than this one.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=TIMEOUT) as response:
            if not stream:
                yield "answer", json.load(response)
                return
            name = ""
            for line in response:
                field, _, value = line.decode().rstrip("\n").partition(": ")
                if field == "event":
                    name = value
                elif field == "data":
                    yield name, json.loads(value)
    except urllib.error.HTTPError as error:
        raise refused(error.code, error.read(), url) from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise Unavailable(f"the service does not answer: {reason}", where=url, hint=UP) from error


def _failed(told: dict[str, Any]) -> Exception:
    from plinth.errors import Unavailable

    return Unavailable(str(told.get("what")), where=str(told.get("where", "")), hint=str(told.get("next", "")))


def _say(out: Output, text: str) -> None:
    """Some of the answer, at once."""
    import sys

    from plinth.cli.output import harmless

    if not out.json_mode:
        sys.stdout.write(harmless(text))
        sys.stdout.flush()


def _about(whole: dict[str, Any], out: Output) -> None:
    """What stands below an answer: where it comes from, and what to know about it."""
    from plinth.cli.output import harmless

    out.text()
    if whole["citations"]:
        out.text()
    for citation in whole["citations"]:
        path = " > ".join(dict.fromkeys(part for part in (citation["title"], *citation["headings"]) if part))
        out.text(harmless(f"[{citation['number']}] {path} ({citation['document']})"))
    if whole["stale"]:
        out.text(harmless(f"stale: {', '.join(whole['stale'])} may have changed since"))
    if whole["refused"]:
        out.text(f"refused: {whole['refused']}" + (f" ({', '.join(whole['hits'])})" if whole["hits"] else ""))
    out.text()
    out.text(f"release {whole['release'][:12]}, request {whole['request_id']}")
