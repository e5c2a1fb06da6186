"""A new product from the template in `plinth/templates/product`: text files with a few words to fill in."""

from __future__ import annotations

import keyword
import os
import re
import tempfile
from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from plinth.core.products import Name
from plinth.errors import Conflict, InvalidInput, Unavailable

# A product of these names would shadow a package that it imports.
RESERVED = {"plinth", "platform", "bentoml", "feast", "mlflow", "prefect", "duckdb", "test", "tests"}


def create_product(name: str, services: Path, *, team: str, contact: str, port: int) -> list[Path]:
    """Write the folder `services/<name>`, whole or not at all; returns its files.

    Args:
        name: Lower-case words joined by hyphens.
        services: The workspace's `services` folder.
        team: The team that owns the product.
        contact: Where the team is reached.
        port: Port of its service in the embedded profile.

    Raises:
        InvalidInput: The name, team or contact cannot be used.
        Conflict: There is such a product already.
        Unavailable: The folder cannot be written.
    """
    package = _check_name(name)
    for field, value in (("team", team), ("contact", contact)):
        if not re.fullmatch(r"[\w.@+/#-][\w .@+/#-]{0,99}", value):
            raise InvalidInput(f"{value!r} is no {field}", where=f"--{field}", hint="use one line of plain text")
    target = services / name
    if target.exists():
        raise Conflict(f"there is a product {name!r} already", where=str(target), hint="choose another name")
    words = {
        "__NAME__": name, "__PACKAGE__": package, "__TITLE__": name.replace("-", " ").capitalize(), "__TEAM__": team,
        "__CONTACT__": contact, "__PORT__": str(port), "__CLASS__": package.title().replace("_", ""),
    }  # fmt: skip
    try:
        services.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=services) as folder:
            partial = Path(folder) / name
            _write(resources.files("plinth") / "templates" / "product", partial, words)
            os.rename(partial, target)
    except OSError as error:
        what = f"the product's folder cannot be written: {error.strerror or error}"
        raise Unavailable(what, where=str(target), hint="free space or correct the rights") from error
    return sorted(path for path in target.rglob("*") if path.is_file())


def _check_name(name: str) -> str:
    """The Python package of a product of that name."""
    hint = "use lower-case words joined by hyphens, such as fraud-alerts"
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError:
        raise InvalidInput(f"{name!r} is no name of a product", where="name", hint=hint) from None
    package = name.replace("-", "_")
    if package in RESERVED or keyword.iskeyword(package):
        raise InvalidInput(f"{name!r} is taken by a package", where="name", hint="choose another name")
    return package


def _write(template: Traversable, target: Path, words: dict[str, str]) -> None:
    for relative, source in _files(template, ()):
        path = target / _fill("/".join(relative), words).removesuffix(".tmpl")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_fill(source.read_text(encoding="utf-8"), words), encoding="utf-8")


def _files(folder: Traversable, above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Traversable]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _files(entry, (*above, entry.name))
        elif entry.name.endswith(".tmpl"):
            yield (*above, entry.name), entry


def _fill(text: str, words: dict[str, str]) -> str:
    return re.sub("|".join(words), lambda match: words[match[0]], text)
