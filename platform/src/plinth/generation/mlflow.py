"""The prompt registry in MLflow: in its SQL store, or through its server.

MLflow's own detection of variables looks for `{{ name }}` only and misses those inside `{% %}`, so the declared
variables are kept in a tag, and MLflow's `format` is never used. `register_prompt` is not used either: it links the
prompt to whatever experiment the process last had, in a thread that nobody waits for.

Importing MLflow takes seconds, so this module is only imported where a registry is really used.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any, Protocol

from plinth.errors import NotFound, Unavailable
from plinth.generation.prompts import Registered, check_alias, check_registration, prompt_digest, prompt_name

_ABSENT = {"INVALID_PARAMETER_VALUE"}  # no such alias; the name is a model's
_LIST = "plinth prompt list PRODUCT"


class Connection(Protocol):
    """The way to MLflow (plinth.models.mlflow_connection, a room on this floor; wiring hands it in)."""

    @property
    def where(self) -> str:
        """The store as errors name it."""

    @property
    def client(self) -> Any:
        """MLflow's client."""

    def errors(self, absent: str = "", hint: str = "", codes: Collection[str] = ()) -> AbstractContextManager[None]:
        """MLflow's errors as ours."""


class MlflowPrompts:
    """The prompt registry's port over MLflow 3.17.

    Args:
        connection: The way to MLflow.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def _client(self) -> Any:
        return self._connection.client

    def _errors(self, absent: str = "") -> AbstractContextManager[None]:
        return self._connection.errors(absent, _LIST, _ABSENT)

    def register(
        self, name: str, template: str, variables: Sequence[str], *, message: str = "", actor: str = ""
    ) -> Registered:
        """As PromptRegistry.register."""
        check_registration(name, template, message)
        digest = prompt_digest(template, variables)
        if found := self._of_digest(name, digest):
            return found
        tags = {"sha256": digest, "variables": json.dumps(list(variables)), "actor": actor}
        with self._errors():
            self._create(name)
            self._client.create_prompt_version(name, template, description=message, tags=tags)
        # Asked again, not taken from the answer: of two processes that register the same text at once, both make a
        # version, and both then use the older one.
        found = self._of_digest(name, digest)
        if found is None:
            raise Unavailable(
                f"the version of {name} that was made is gone", where=self._connection.where, hint="run it again"
            )
        return found

    def _create(self, name: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_prompt(name, tags={"product": name.partition(".")[0]})
        except MlflowException as error:
            # There is one already; one that is a model's cannot be asked for as a prompt.
            if error.error_code != "RESOURCE_ALREADY_EXISTS" or self._client.get_prompt(name) is None:
                raise

    def _of_digest(self, name: str, digest: str) -> Registered | None:
        same = [version for version in self._search(f"name = '{name}'") if version.digest == digest]
        return min(same, key=lambda version: int(version.version), default=None)

    def get(self, name: str, version: str) -> Registered:
        """As PromptRegistry.get."""
        absent = f"no version {version!r} of prompt {name!r}"
        if not version.isdecimal():  # MLflow would take it for an alias
            raise NotFound(absent, where=self._connection.where, hint="versions are numbers")
        client = self._client
        with self._errors(absent):
            found = client.get_prompt_version(name, version)
        if found is None:
            raise NotFound(absent, where=self._connection.where, hint=_LIST)
        return _registered(found.name, found.version, found.template, found.tags, found)

    def versions(self, product: str) -> list[Registered]:
        """As PromptRegistry.versions."""
        prefix = prompt_name(product.replace("'", "").replace("%", ""), "")
        found = [version for version in self._search(f"name LIKE '{prefix}%'") if version.name.startswith(prefix)]
        return sorted(found, key=lambda version: (version.name, -int(version.version)))

    def _search(self, where: str) -> list[Registered]:
        client = self._client
        found, token = [], None
        with self._errors():
            while True:
                page = client.search_model_versions(
                    f"{where} AND tags.`mlflow.prompt.is_prompt` = 'true'", max_results=1000, page_token=token
                )
                found += page
                token = page.token
                if not token:
                    break
        return [
            _registered(entry.name, entry.version, entry.tags["mlflow.prompt.text"], entry.tags, entry)
            for entry in found
        ]

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """As PromptRegistry.set_alias."""
        check_alias(alias)
        self.get(name, version)
        with self._errors():
            self._client.set_prompt_alias(name, alias, int(version))

    def alias(self, name: str, alias: str) -> str | None:
        """As PromptRegistry.alias."""
        client = self._client
        try:
            with self._errors(f"no alias {alias!r} of prompt {name!r}"):
                return str(client.get_prompt_version_by_alias(name, alias).version)
        except NotFound:
            return None


def _registered(name: str, version: str | int, template: str, tags: dict[str, str], entry: Any) -> Registered:
    """Of a prompt version or, as a search gives it, a model version. A version made by hand in MLflow has no tags."""
    variables = tuple(json.loads(tags.get("variables", "[]")))
    return Registered(
        name=name,
        version=str(version),
        digest=tags.get("sha256") or prompt_digest(template, variables),
        template=template,
        variables=variables,
        message=str(getattr(entry, "commit_message", None) or getattr(entry, "description", None) or ""),
        actor=tags.get("actor", ""),
        created_at=datetime.fromtimestamp(entry.creation_timestamp / 1000, UTC).isoformat(timespec="milliseconds"),
    )
