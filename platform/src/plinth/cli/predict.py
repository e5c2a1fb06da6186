"""`plinth predict`: ask a product's running service, which says itself what a request looks like."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from plinth.cli.command import Groups

if TYPE_CHECKING:
    from plinth.cli.output import Output

TIMEOUT = 30.0
UP = "`plinth up` starts the services; `plinth status` shows them"


def register(groups: Groups) -> None:
    """Declare the command."""
    command = groups.command(
        "predict",
        predict,
        help="Ask a product's running service for predictions: one given by KEY=VALUE, many from a file.",
        example="plinth predict flight-delays carrier=UA flight=1545 origin=EWR dest=IAH "
        "scheduled_departure=2013-06-01T09:15:00Z",
    )
    command.add_argument("product")
    command.add_argument("field", nargs="*", metavar="KEY=VALUE", help="the fields of one instance")
    command.add_argument("--file", metavar="FILE", help="JSON: a whole request, or a list of instances; - reads stdin")
    command.add_argument("--example", action="store_true", help="send the example of the service's own description")
    command.add_argument("--request-id", metavar="ID", help="id of the request, for logs and traces")


def predict(args: Namespace, out: Output) -> None:
    """Handler: one request to POST /predict."""
    from plinth.errors import RefusedByPolicy
    from plinth.wiring import Platform

    platform = Platform.from_settings()
    spec = platform.products.get(args.product).spec
    if spec.assistant is not None:
        raise RefusedByPolicy(
            f"{spec.name} is an assistant: it answers questions and predicts nothing",
            where=spec.name,
            hint='ask it: plinth ask "..."',
        )
    url = platform.service_urls(spec.name)[0]
    headers = platform.service_headers(spec.name)
    payload = _payload(args, url, headers)
    if args.request_id:
        headers["X-Request-ID"] = args.request_id
    answer = _call(url, "/predict", headers, payload)
    out.data(answer)
    rows = answer["predictions"]
    columns = [name for name in rows[0] if name != "defaulted"]
    shown = [[", ".join(row[name]) if isinstance(row[name], list) else row[name] for name in columns] for row in rows]
    out.table(columns, shown)
    out.text(f"release {answer['release']}")
    out.text(f"request {answer['request_id']}")


def _payload(args: Namespace, url: str, headers: dict[str, str]) -> Any:
    """The request's body, from exactly one of the three ways to give it."""
    from plinth.errors import InvalidInput

    if [bool(args.field), bool(args.file), args.example].count(True) != 1:
        raise InvalidInput(
            "give KEY=VALUE fields, --file or --example, and only one of them",
            where="plinth predict",
            hint=f"for instance `plinth predict {args.product} --example`",
        )
    if args.file:
        value = _read(args.file)
        return value if isinstance(value, dict) else {_instances(_request(url, headers)["schema"])[0]: value}
    request = _request(url, headers)
    if args.example:
        return request["example"]
    name, schema = _instances(request["schema"])
    return {name: [_instance(args.field, schema)]}


def _instance(fields: list[str], schema: dict[str, Any]) -> dict[str, Any]:
    """KEY=VALUE pairs as an object; numbers where the schema wants numbers. The service judges the rest."""
    from plinth.errors import InvalidInput

    instance: dict[str, Any] = {}
    for field in fields:
        key, equals, text = field.partition("=")
        if not equals:
            raise InvalidInput(f"{field!r} is not KEY=VALUE", where="plinth predict", hint="for instance carrier=UA")
        kinds = schema.get("properties", {}).get(key, {}).get("type", "string")
        instance[key] = _value(text, [kinds] if isinstance(kinds, str) else kinds)
    return instance


def _value(text: str, kinds: list[str]) -> Any:
    if text in {"", "null"} and "null" in kinds:
        return None
    for kind, convert in (("integer", int), ("number", float)):
        if kind in kinds:
            try:
                return convert(text)
            except ValueError:
                return text
    return text


def _read(name: str) -> Any:
    import json
    import sys
    from pathlib import Path

    from plinth.errors import InvalidInput, NotFound

    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
        return json.loads(text)
    except OSError as error:
        raise NotFound(f"the file cannot be read: {error.strerror}", where=name, hint="check the path") from error
    except ValueError as error:
        raise InvalidInput(f"the file is not JSON: {error}", where=name, hint="see `--example --json`") from error


def _request(url: str, headers: dict[str, str]) -> dict[str, Any]:
    """Schema and example of the request, from the service's own description."""
    document = _call(url, "/openapi.json", headers)
    media: dict[str, Any] = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    return media


def _instances(schema: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and item schema of the request's one list."""
    name, value = next((name, value) for name, value in schema["properties"].items() if value.get("type") == "array")
    return name, value["items"]


def _call(url: str, path: str, headers: dict[str, str], payload: Any = None) -> Any:
    import json
    import urllib.error
    import urllib.request

    from plinth.errors import Unavailable

    headers = {"Content-Type": "application/json", **headers}
    body = None if payload is None else json.dumps(payload).encode()
    request = urllib.request.Request(url + path, body, headers)  # noqa: S310  (the address is the profile's own)
    # A proxy of the environment is for other machines than this one.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=TIMEOUT) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        raise refused(error.code, error.read(), url + path) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise Unavailable(f"the service does not answer: {reason}", where=url, hint=UP) from error


def refused(status: int, body: bytes, where: str) -> Exception:
    """The service's error as one of ours, so that it gets the exit code and the words it deserves."""
    import json

    from plinth.errors import InvalidInput, Unavailable

    try:
        told = json.loads(body)["error"]
        what, where, hint = str(told["what"]), str(told["where"]), str(told["next"])
    except (ValueError, KeyError, TypeError):
        what, hint = f"HTTP {status} that is not of a product's service", UP
        return Unavailable(what, where=where, hint=hint)
    kind = Unavailable if status >= 500 else InvalidInput
    return kind(what, where=where, hint=hint)
