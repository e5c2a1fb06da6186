"""A prompt registry in memory, for tests. It keeps the same contract as the MLflow adapter (tests/contract)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from plinth.errors import NotFound
from plinth.generation.prompts import Registered, check_alias, check_registration, prompt_digest, prompt_name


class MemoryPrompts:
    """Everything in dictionaries."""

    def __init__(self) -> None:
        self._versions: dict[str, list[Registered]] = {}
        self._aliases: dict[tuple[str, str], str] = {}

    def register(
        self, name: str, template: str, variables: Sequence[str], *, message: str = "", actor: str = ""
    ) -> Registered:
        """As PromptRegistry.register."""
        check_registration(name, template, message)
        digest = prompt_digest(template, variables)
        kept = self._versions.setdefault(name, [])
        found = next((version for version in kept if version.digest == digest), None)
        if found is None:
            created = datetime.now(UTC).isoformat(timespec="milliseconds")
            number = str(len(kept) + 1)
            found = Registered(name, number, digest, template, tuple(variables), message, actor, created)
            kept.append(found)
        return found

    def get(self, name: str, version: str) -> Registered:
        """As PromptRegistry.get."""
        for found in self._versions.get(name, ()):
            if found.version == version:
                return found
        raise NotFound(f"no version {version!r} of prompt {name!r}", where="memory", hint="plinth prompt list PRODUCT")

    def versions(self, product: str) -> list[Registered]:
        """As PromptRegistry.versions."""
        names = sorted(name for name in self._versions if name.startswith(prompt_name(product, "")))
        return [version for name in names for version in reversed(self._versions[name])]

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """As PromptRegistry.set_alias."""
        check_alias(alias)
        self._aliases[name, alias] = self.get(name, version).version

    def alias(self, name: str, alias: str) -> str | None:
        """As PromptRegistry.alias."""
        return self._aliases.get((name, alias))
