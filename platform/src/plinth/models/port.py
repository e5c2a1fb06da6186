"""The model registry, as the platform needs it: what a training left behind, and the versions it made.

The ledger says what serves; aliases and tags here are projections of it, for people who look at the registry's UI.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

Alias = Literal["candidate", "serving", "rejected"]


@dataclass(frozen=True)
class Dataset:
    """A dataset a training read. `digest` is the sha256 of its content; `start` and `end` are UTC dates, half-open."""

    name: str
    role: Literal["train", "validate", "evaluate"]
    start: str
    end: str
    rows: int
    digest: str


@dataclass(frozen=True)
class Training:
    """What one training leaves behind, as it is logged and registered.

    `model_file` is a file of an allowed format (plinth.core.formats); its bytes are what the version's digest names.
    `input_example` holds a few rows, float32 [m, k], and `output_example` the model's probabilities for them [m].
    `documents` are files of text (evaluation.json), `plots` are PNG images, each by file name.
    `alias` is where the version is put; its `reasons` say why when it is "rejected".
    """

    product: str
    model: str
    model_file: Path
    feature_names: Sequence[str]
    input_example: Any
    output_example: Any
    params: Mapping[str, str | int | float | bool]
    metrics: Mapping[str, float]
    datasets: Sequence[Dataset]
    commit: str
    dirty: bool
    pip_requirements: Sequence[str]
    alias: Alias = "candidate"
    reasons: Sequence[str] = ()
    plots: Mapping[str, bytes] = field(default_factory=dict)
    documents: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelVersion:
    """A registered version. `digest` is the sha256 of its model file, `created_at` is ISO 8601 in UTC."""

    name: str
    version: str
    run_id: str
    digest: str
    created_at: str
    aliases: tuple[str, ...]
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Run:
    """What the registry kept of a training."""

    run_id: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    datasets: tuple[Dataset, ...]


class Registry(Protocol):
    """A model registry. Every method raises Unavailable when the store cannot be reached or written."""

    def log_training(self, training: Training) -> ModelVersion:
        """Log a training and register its model as a new version under its alias.

        Raises:
            RefusedByPolicy: The model file is not of an allowed format; nothing is registered.
            InvalidInput: No `pip_requirements`, or a metric that is no finite number.
        """
        ...

    def versions(self, model: str | None = None) -> list[ModelVersion]:
        """Versions of one model, or of all, newest first; empty when there are none."""
        ...

    def get(self, model: str, version: str) -> ModelVersion:
        """One version. Raises NotFound."""
        ...

    def by_alias(self, model: str, alias: Alias) -> ModelVersion | None:
        """The version that carries the alias, or None."""
        ...

    def set_alias(self, model: str, version: str, alias: Alias) -> None:
        """Move an alias to a version; the version that had it loses it. Raises NotFound."""
        ...

    def delete_alias(self, model: str, alias: Alias) -> None:
        """Take an alias away; where nothing carries it, nothing is done."""
        ...

    def set_tags(self, model: str, version: str, tags: Mapping[str, str]) -> None:
        """Add or overwrite tags of a version. Raises NotFound."""
        ...

    def run(self, run_id: str) -> Run:
        """The training behind a version. Raises NotFound."""
        ...

    def document(self, run_id: str, name: str) -> bytes:
        """A plot or document of a training, by file name. Raises NotFound."""
        ...

    def model_file(self, model: str, version: str) -> Path:
        """The version's model file, its format and digest checked now.

        Raises:
            NotFound: No such version, or its file is gone.
            Corrupt: The content is not what was registered.
            RefusedByPolicy: The content is not of an allowed format.
        """
        ...
