"""The prompt registry's port, and the rules that every adapter keeps."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from plinth.core.assistants import Prompt
from plinth.core.digests import digest_json
from plinth.errors import InvalidInput

MAX_TEMPLATE_CHARS = 20_000
MAX_MESSAGE_CHARS = 1000
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*\.[a-z][a-z0-9]*(-[a-z0-9]+)*")
_ALIAS = re.compile(r"[a-z][a-z-]{0,49}")
_NUL_OR_SURROGATE = re.compile("[\x00\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Registered:
    """A version of a prompt, as the registry keeps it. Versions never change.

    Attributes:
        name: `product.prompt`, such as "docs-assistant.answer".
        version: Counts from "1", per name.
        digest: sha256 over template and variables.
        template: The text, byte for byte.
        variables: Those that the template uses, in the order declared.
        message: Why this version was made.
        actor: Who made it.
        created_at: When, ISO 8601 UTC.
    """

    name: str
    version: str
    digest: str
    template: str
    variables: tuple[str, ...]
    message: str
    actor: str
    created_at: str

    @property
    def prompt(self) -> Prompt:
        """As a release pins it, under its name in the product."""
        return Prompt(
            name=self.name.partition(".")[2], version=self.version, template=self.template, variables=self.variables
        )

    def as_dict(self) -> dict[str, Any]:
        """Stable JSON, without the template."""
        return {
            "name": self.name,
            "version": self.version,
            "sha256": self.digest,
            "variables": list(self.variables),
            "message": self.message,
            "actor": self.actor,
            "created_at": self.created_at,
        }


class PromptRegistry(Protocol):
    """Keeps versions of prompts."""

    def register(
        self, name: str, template: str, variables: Sequence[str], *, message: str = "", actor: str = ""
    ) -> Registered:
        """Keep a template; the same template with the same variables again gives the version there is.

        The template itself is not judged here: `plinth.generation.templates.check_prompt` does that before.

        Raises:
            InvalidInput: The name is not `product.prompt`, or the text is empty, too long or no valid Unicode.
            Conflict: A model of that name is registered.
            Unavailable: The store cannot be used now.
        """

    def get(self, name: str, version: str) -> Registered:
        """One version.

        Raises:
            NotFound: There is none.
            Unavailable: The store cannot be used now.
        """

    def versions(self, product: str) -> list[Registered]:
        """Every version of every prompt of a product: by name, newest first."""

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Point an alias at a version.

        Raises:
            NotFound: There is no such version.
            InvalidInput: The alias is not of lower-case letters and hyphens.
        """

    def alias(self, name: str, alias: str) -> str | None:
        """The version that an alias points at, or None."""


def prompt_name(product: str, prompt: str) -> str:
    """The registry's name of a product's prompt."""
    return f"{product}.{prompt}"


def check_registration(name: str, template: str, message: str) -> None:
    """What every adapter refuses.

    Raises:
        InvalidInput: As `PromptRegistry.register`.
    """
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{name!r} is no name of a prompt",
            where="prompt registry",
            hint="product.prompt, such as docs-assistant.answer",
        )
    if not template.strip():
        raise InvalidInput("the template is empty", where=name, hint="write one")
    for what, text, limit in (("template", template, MAX_TEMPLATE_CHARS), ("message", message, MAX_MESSAGE_CHARS)):
        if len(text) > limit:
            raise InvalidInput(f"the {what} has {len(text):,} characters", where=name, hint=f"at most {limit:,}")
        if _NUL_OR_SURROGATE.search(text):
            raise InvalidInput(f"the {what} holds a character that is no text", where=name, hint="save it as UTF-8")


def check_alias(alias: str) -> None:
    """Raises InvalidInput unless the alias is of lower-case letters and hyphens: MLflow keeps some words for itself."""
    if not _ALIAS.fullmatch(alias) or alias == "latest":
        raise InvalidInput(f"{alias!r} is no alias", where="prompt registry", hint="lower-case letters and hyphens")


def prompt_digest(template: str, variables: Sequence[str]) -> str:
    """sha256 over what decides a prompt."""
    return digest_json([template, list(variables)])
