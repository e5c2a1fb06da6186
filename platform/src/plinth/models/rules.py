"""Rules that every registry keeps, whatever tool is behind it."""

from __future__ import annotations

import math
from pathlib import Path

from plinth.core.digests import digest_file
from plinth.core.formats import check_model_file
from plinth.errors import Corrupt, InvalidInput, NotFound, RefusedByPolicy
from plinth.models.port import Training

MODEL_FILE = "model.onnx"
DOWNLOADING = ".download-"
"""How the folder of a model file begins that is being fetched."""


def check_training(training: Training) -> str:
    """Refuse a training that must not be registered. Returns the sha256 of its model file.

    Raises:
        RefusedByPolicy: The model file is not of an allowed format.
        InvalidInput: No `pip_requirements`, a bad file name, or a metric that is no finite number.
    """
    where = f"training of {training.model}"
    check_model_file(training.model_file)
    if training.model_file.suffix.lower() != ".onnx":
        raise RefusedByPolicy(
            f"a {training.model_file.suffix} model cannot be served",
            where=where,
            hint="convert it to ONNX (plinth.models.onnx.convert)",
        )
    if not training.pip_requirements:
        raise InvalidInput("a training needs pip_requirements", where=where, hint="name what loads the model, pinned")
    bad = sorted(name for name, value in training.metrics.items() if not math.isfinite(value))
    if bad:
        raise InvalidInput(
            f"metrics that are no finite number: {', '.join(bad)}", where=where, hint="leave out what is not defined"
        )
    for name in (*training.plots, *training.documents):
        check_name(name)
    return digest_file(training.model_file)


def version_tags(training: Training, digest: str) -> dict[str, str]:
    """The tags a version is registered with: product, content, code, and why it was rejected if it was."""
    tags = {
        "product": training.product,
        "sha256": digest,
        "git_commit": training.commit,
        "registered_as": training.alias,
        **training.tags,
    }
    return {**tags, "reasons": "; ".join(training.reasons)} if training.reasons else tags


def run_tags(training: Training) -> dict[str, str]:
    """The tags of the run behind a version."""
    return {
        "product": training.product,
        "git_commit": training.commit,
        "git_dirty": str(training.dirty).lower(),
        **training.tags,
    }


def check_name(name: str) -> None:
    """Refuse a file name that is none, or leads elsewhere.

    Raises:
        InvalidInput: The name holds a separator, starts with a dot or is empty.
    """
    if not name or name.startswith(".") or set(name) & set("/\\\0"):
        raise InvalidInput(
            f"{name!r} is no plain file name", where="registry document", hint="give a name without a path"
        )


def check_stored(path: Path, digest: str, where: str) -> Path:
    """A stored model file, its digest and its format checked.

    Raises:
        NotFound: The file is gone.
        Corrupt: Its content is not what its digest says.
        RefusedByPolicy: Its content is not of an allowed format.
    """
    if not path.is_file():
        raise NotFound(f"the model file {path.name} is gone", where=where, hint="restore it, or train again")
    if digest_file(path) != digest:
        raise Corrupt(
            f"the model file {path.name} is corrupt: its content does not match its digest {digest[:12]}",
            where=where,
            hint="restore it, or train again; nothing loads it as it is",
        )
    check_model_file(path)
    return path
