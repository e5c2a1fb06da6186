"""The prompt registry in MLflow: its SQL store, written to without a server in between.

MLflow's own detection of variables looks for `{{ name }}` only and misses those inside `{% %}`, so the declared
variables are kept in a tag, and MLflow's `format` is never used. `register_prompt` is not used either: it links the
prompt to whatever experiment the process last had, in a thread that nobody waits for.

Importing MLflow takes seconds, so this module is only imported where a registry is really used.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from plinth.core.mlflow_environment import MLFLOW_ENVIRONMENT
from plinth.errors import Conflict, MissingExtra, NotFound, Unavailable
from plinth.generation.prompts import Registered, check_alias, check_registration, prompt_digest, prompt_name

_ABSENT = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}  # the second: no such alias; the name is a model's


class MlflowPrompts:
    """The prompt registry's port over MLflow 3.17.

    Args:
        store: SQLAlchemy URL of MLflow's database, or address of its server; a database is made on first use.
    """

    def __init__(self, store: str) -> None:
        self.store = store

    @cached_property
    def _client(self) -> Any:
        os.environ.update(MLFLOW_ENVIRONMENT)
        try:
            from mlflow import MlflowClient
        except ModuleNotFoundError as error:
            raise MissingExtra(error.name or "mlflow", "models") from error
        with self._errors():
            if self.store.startswith("sqlite:///"):
                Path(self.store.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
            return MlflowClient(self.store, self.store)

    @contextmanager
    def _errors(self, absent: str = "") -> Iterator[None]:
        """MLflow's errors as ours; `absent` says what is not there when MLflow says that something is not."""
        from mlflow.exceptions import MlflowException

        try:
            yield
        except MlflowException as error:
            if absent and error.error_code in _ABSENT:
                raise NotFound(absent, where=self.store, hint="plinth prompt list PRODUCT") from None
            text = str(error).split("\n")[0][:300]
            if error.error_code == "RESOURCE_ALREADY_EXISTS":
                raise Conflict(text, where=self.store, hint="run it again, or give the prompt another name") from None
            raise Unavailable(
                f"MLflow: {text}", where=self.store, hint="check the state folder and `plinth doctor`"
            ) from error
        except OSError as error:
            raise Unavailable(
                f"MLflow's folder cannot be used: {error.strerror}", where=str(error.filename or self.store),
                hint="free disk space, or check its permissions",
            ) from error  # fmt: skip

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
            raise Unavailable(f"the version of {name} that was made is gone", where=self.store, hint="run it again")
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
            raise NotFound(absent, where=self.store, hint="versions are numbers")
        client = self._client
        with self._errors(absent):
            found = client.get_prompt_version(name, version)
        if found is None:
            raise NotFound(absent, where=self.store, hint="plinth prompt list PRODUCT")
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
