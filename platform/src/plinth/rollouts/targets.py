"""The stores that a product's aliases are in: the model registry, the vector store, the prompt registry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from plinth.rollouts.projection import INDEX, PROMPT, Alias, Aliases, Version


class IndexAliases(Protocol):
    """The part of a vector store (plinth.retrieval.port) that projection needs."""

    def set_alias(self, name: str, build: str) -> None:
        """Point an alias at a build."""

    def alias(self, name: str) -> str | None:
        """The build an alias points at, or None."""


class PromptAliases(Protocol):
    """The part of a prompt registry (plinth.generation.prompts) that projection needs."""

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Point an alias at a version. Raises NotFound."""

    def alias(self, name: str, alias: str) -> str | None:
        """The version an alias points at, or None."""


@dataclass(frozen=True, slots=True)
class Pointed:
    """What an alias is on."""

    version: str


class Targets:
    """The aliases of one product, each in its store. A store is built when it is first needed.

    Args:
        models: Gives the model registry.
        index: Gives the product's vector store.
        prompts: Gives the prompt registry.
    """

    def __init__(
        self, models: Callable[[], Aliases], index: Callable[[], IndexAliases], prompts: Callable[[], PromptAliases]
    ) -> None:
        self._models = models
        self._index = index
        self._prompts = prompts

    def set_alias(self, name: str, version: str, alias: Alias, /) -> None:
        """As Aliases.set_alias."""
        if name.startswith(INDEX):
            self._index().set_alias(index_alias(name, alias), version)
        elif name.startswith(PROMPT):
            self._prompts().set_alias(name.removeprefix(PROMPT), alias, version)
        else:
            self._models().set_alias(name, version, alias)

    def delete_alias(self, name: str, alias: Alias, /) -> None:
        """As Aliases.delete_alias: the aliases of an index or a prompt move, and are never taken away."""
        self._models().delete_alias(name, alias)

    def by_alias(self, name: str, alias: Alias, /) -> Version | None:
        """As Aliases.by_alias."""
        if name.startswith(INDEX):
            found = self._index().alias(index_alias(name, alias))
        elif name.startswith(PROMPT):
            found = self._prompts().alias(name.removeprefix(PROMPT), alias)
        else:
            return self._models().by_alias(name, alias)
        return Pointed(found) if found is not None else None


def index_alias(name: str, alias: Alias) -> str:
    """The vector store's name for an alias of `index:PRODUCT`: the product's for what serves, else with the alias."""
    product = name.removeprefix(INDEX)
    return product if alias == "serving" else f"{product}-{alias}"
