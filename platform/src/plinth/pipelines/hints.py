"""Annotations of a function, only the ones asked for: another one may name what is imported for type checkers only."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any, get_type_hints

from plinth.errors import InvalidInput


def hints(function: Callable[..., Any], names: Iterable[str]) -> dict[str, Any]:
    """The resolved annotations of `names` (parameters, or `return`); names without one are left out.

    Raises:
        InvalidInput: One of them names something that does not exist at run time.
    """
    wanted = {name: function.__annotations__[name] for name in names if name in function.__annotations__}
    try:
        return get_type_hints(SimpleNamespace(__annotations__=wanted), globalns=function.__globals__)
    except NameError as error:
        raise InvalidInput(
            f"an annotation names something unknown at run time: {error}",
            where=f"{function.__module__}:{function.__qualname__}",
            hint="import it outside TYPE_CHECKING: it decides how values are read back",
        ) from error
