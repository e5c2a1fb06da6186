"""The reference page of the settings, generated from the settings themselves: `python -m plinth.runtime.reference`."""

from __future__ import annotations

import sys
from types import UnionType
from typing import Any, get_args, get_origin

from pydantic_core import PydanticUndefined

from plinth.settings import Settings

_HEAD = """\
# Settings

Every setting is read once, when a command starts, from an environment variable. In the compose profile (`plinth
--profile compose ...`, or `PLINTH_PROFILE=compose`) the workspace's `.env` stands beneath the environment: a variable
of the environment goes before its line there. A profile changes addresses, never code. Containers get the variables
that stand under `environment:` in `infra/compose/`: the level and the days of logs and the share of traces as `.env`
has them, the rest as it is written there. This page is generated from
`platform/src/plinth/settings.py` by `python -m plinth.runtime.reference`.

| variable | type | default | meaning |
| --- | --- | --- | --- |
"""


def settings_page() -> str:
    """`docs/reference/settings.md` as Markdown."""
    rows = []
    for name, field in Settings.model_fields.items():
        cells = [f"`PLINTH_{name.upper()}`", f"`{_kind(field.annotation)}`", _default(field), field.description or ""]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return _HEAD + "\n".join(rows) + "\n"


def _kind(annotation: Any) -> str:
    if get_origin(annotation) is not None or isinstance(annotation, UnionType):
        parts = [part for part in get_args(annotation) if part is not type(None)]
        if isinstance(annotation, UnionType):
            return _kind(parts[0])
        if str(get_origin(annotation)).endswith("Literal"):
            return ", ".join(map(str, parts))
        return "JSON object"
    words = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false", "Path": "path"}
    return words.get(annotation.__name__, str(annotation.__name__))


def _default(field: Any) -> str:
    if field.default_factory is dict:
        return "`{}`"
    if field.default is PydanticUndefined or field.default is None or field.default == "":
        return "see its meaning"
    return f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"


if __name__ == "__main__":
    sys.stdout.write(settings_page())
