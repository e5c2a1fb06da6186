"""`product.yaml` as text to a `Product`: every problem with its file and line, all at once."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from plinth.core.documents import Document, Problem, parse_document, problems_error
from plinth.core.products import Product
from plinth.errors import InvalidInput, RefusedByPolicy

OWNERSHIP = ("owner", "service_levels", "budget")
SCHEMA_DOC = "docs/reference/product.schema.json"

# What pydantic calls a value that is not there, or is there and empty.
_ABSENT = {"missing", "too_short", "string_too_short"}


def parse_product(text: str, source: str) -> Product:
    """The product that a `product.yaml` declares.

    Args:
        text: The manifest's text.
        source: Its name in messages, usually the path.

    Raises:
        RefusedByPolicy: Owner, service level or budget is missing: an unowned product is not deployed.
        InvalidInput: The text is not YAML or does not fit the schema. Both list every problem as `file:line`.
    """
    document = parse_document(text, source)
    try:
        return Product.model_validate(document.value)
    except ValidationError as error:
        errors: list[Any] = list(error.errors(include_url=False))
    found = [(item, _problem(document, item)) for item in errors if not _is_echo(item, errors)]
    problems = {problem for _, problem in found}
    unowned = sorted({str(item["loc"][0]) for item, _ in found if _is_unowned(document, item)})
    if unowned:
        what = f"unowned product: {', '.join(unowned)} missing or incomplete"
        hint = f"name an owner, service levels and a budget; {SCHEMA_DOC} describes every field"
        raise problems_error(RefusedByPolicy, what, problems, source=source, hint=hint)
    what = f"the manifest does not fit its schema: {len(problems)} problem{'s' * (len(problems) > 1)}"
    hint = f"correct the lines; {SCHEMA_DOC} describes every field"
    raise problems_error(InvalidInput, what, problems, source=source, hint=hint)


def _is_unowned(document: Document, item: Any) -> bool:
    if not item["loc"] or item["loc"][0] not in OWNERSHIP:
        return False
    # `owner:` with nothing behind it is YAML's null: as absent as a missing key.
    return item["type"] in _ABSENT or item.get("input") is None or document.value.get(item["loc"][0]) is None


def _is_echo(item: Any, errors: list[Any]) -> bool:
    """A list whose only entry is wrong is reported as too short as well: that says nothing new."""
    loc = item["loc"]
    return item["type"] == "too_short" and any(other["loc"][: len(loc)] == loc != other["loc"] for other in errors)


def _problem(document: Document, item: Any) -> Problem:
    path = document.path(item["loc"])
    field = ".".join(str(step) for step in path)
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "missing":
        message = "is missing"
    elif item["type"] == "extra_forbidden":
        message = "is no known field"
    else:
        message = message[:1].lower() + message[1:]
    return Problem(document.line(path), field, message)
