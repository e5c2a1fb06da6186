"""A registry in memory, for tests. It keeps the same contract as the MLflow adapter (tests/contract)."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from plinth.errors import NotFound
from plinth.models.port import Alias, ModelVersion, Run, Training
from plinth.models.rules import MODEL_FILE, check_name, check_stored, check_training, run_tags, version_tags


class MemoryRegistry:
    """Everything in dictionaries, but model files, which are copied into a temporary folder of its own."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="registry-")
        self._versions: dict[tuple[str, str], ModelVersion] = {}
        self._runs: dict[str, Run] = {}
        self._documents: dict[tuple[str, str], bytes] = {}

    def log_training(self, training: Training) -> ModelVersion:
        """As Registry.log_training."""
        digest = check_training(training)
        number = str(1 + sum(name == training.model for name, _ in self._versions))
        run_id = f"run-{len(self._runs) + 1}"
        target = Path(self._folder.name) / training.model / number
        target.mkdir(parents=True)
        shutil.copyfile(training.model_file, target / MODEL_FILE)
        self._runs[run_id] = Run(
            run_id,
            {name: str(value) for name, value in training.params.items()},
            dict(training.metrics),
            run_tags(training),
            tuple(training.datasets),
        )
        files = {**training.plots, **{name: text.encode() for name, text in training.documents.items()}}
        self._documents |= {(run_id, name): content for name, content in files.items()}
        tags = version_tags(training, digest)
        created = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._versions[training.model, number] = ModelVersion(training.model, number, run_id, digest, created, (), tags)
        self.set_alias(training.model, number, training.alias)
        return self.get(training.model, number)

    def versions(self, model: str | None = None) -> list[ModelVersion]:
        """As Registry.versions."""
        return [version for version in reversed(self._versions.values()) if model in (None, version.name)]

    def get(self, model: str, version: str) -> ModelVersion:
        """As Registry.get."""
        try:
            return self._versions[model, version]
        except KeyError:
            raise NotFound(
                f"no version {version!r} of model {model!r}", where="memory", hint="plinth model list"
            ) from None

    def by_alias(self, model: str, alias: Alias) -> ModelVersion | None:
        """As Registry.by_alias."""
        return next((version for version in self.versions(model) if alias in version.aliases), None)

    def set_alias(self, model: str, version: str, alias: Alias) -> None:
        """As Registry.set_alias."""
        self.get(model, version)
        self.delete_alias(model, alias)
        target = self.get(model, version)
        self._versions[model, version] = replace(target, aliases=tuple(sorted({*target.aliases, alias})))

    def delete_alias(self, model: str, alias: Alias) -> None:
        """As Registry.delete_alias."""
        if holder := self.by_alias(model, alias):
            rest = tuple(name for name in holder.aliases if name != alias)
            self._versions[model, holder.version] = replace(holder, aliases=rest)

    def set_tags(self, model: str, version: str, tags: Mapping[str, str]) -> None:
        """As Registry.set_tags."""
        target = self.get(model, version)
        self._versions[model, version] = replace(target, tags={**target.tags, **tags})

    def run(self, run_id: str) -> Run:
        """As Registry.run."""
        try:
            return self._runs[run_id]
        except KeyError:
            raise NotFound(f"no run {run_id!r}", where="memory", hint="plinth model list") from None

    def document(self, run_id: str, name: str) -> bytes:
        """As Registry.document."""
        check_name(name)
        try:
            return self._documents[run_id, name]
        except KeyError:
            raise NotFound(f"run {run_id!r} has no document {name!r}", where="memory", hint="check the name") from None

    def model_file(self, model: str, version: str) -> Path:
        """As Registry.model_file."""
        found = self.get(model, version)
        path = Path(self._folder.name) / model / version / MODEL_FILE
        return check_stored(path, found.digest, f"{model} version {version}")
