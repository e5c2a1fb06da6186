"""A release of a product with a model, in memory: scorer, read plan, feature readers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plinth.core.formats import check_model_file
from plinth.errors import Corrupt, PlinthError
from plinth.serving.port import FeatureReader, Scorer
from plinth.serving.releases import Artifacts, ReleaseHolder, Routing, read_artifact

ReaderFactory = Callable[[dict[str, Any]], FeatureReader]
ScorerFactory = Callable[[bytes], Scorer]


@dataclass(frozen=True, eq=False)
class LoadedRelease:
    """A release in memory: model, read plan and the feature reader of each thread that serves it."""

    digest: str
    scorer: Scorer
    views: tuple[str, ...]
    plan: dict[str, Any]
    open_reader: ReaderFactory
    _local: threading.local = field(default_factory=threading.local, repr=False)

    def reader(self) -> FeatureReader:
        """The calling thread's feature reader: SQLite connections stay in the thread that opened them."""
        reader: FeatureReader | None = getattr(self._local, "reader", None)
        if reader is None:
            reader = self._local.reader = self.open_reader(self.plan)
        return reader


Releases = ReleaseHolder[LoadedRelease]
TabularRouting = Routing[LoadedRelease]


def on_equal_terms(serving: LoadedRelease, candidate: LoadedRelease) -> tuple[LoadedRelease, LoadedRelease]:
    """Both with feature readers that remember the same: shared where the read plan is, else both new.

    A reader keeps the rows it has read. Beside one that has served for hours a new release would look slow, and be
    rolled back for it.
    """
    if serving.plan == candidate.plan:
        return serving, replace(candidate, _local=serving._local)
    return replace(serving, _local=threading.local()), candidate


def check_finite(scores: NDArray[np.float64], release: LoadedRelease) -> None:
    """Refuse scores that JSON cannot carry.

    Raises:
        PlinthError: One is no number.
    """
    if not np.isfinite(scores).all():
        raise PlinthError("the model answered with something that is no number", where=release.digest)


def load_release(
    digest: str,
    artifacts: Artifacts,
    *,
    make_scorer: ScorerFactory,
    open_reader: ReaderFactory,
    width: int,
) -> LoadedRelease:
    """A release from its artefacts: digests, format, model (warmed up) and read plan.

    Args:
        digest: Its digest.
        artifacts: File name to path and sha256.
        make_scorer: A model's bytes to a scorer.
        open_reader: A read plan to a feature reader.
        width: Features that the product's code assembles.

    Raises:
        Corrupt: An artefact is missing or damaged, or the model takes another number of features than `width`.
        RefusedByPolicy: The model file is not of an allowed format.
    """
    model = read_artifact(artifacts, "model.onnx")
    check_model_file(artifacts["model.onnx"][0], "model.onnx")
    try:
        plan = json.loads(read_artifact(artifacts, "read_plan.json"))
        views = tuple(str(view["name"]) for view in plan["views"])
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"the read plan does not fit: {error}", where="read_plan.json", hint="release again") from error
    scorer = make_scorer(model)
    if scorer.features != width:
        raise Corrupt(
            f"the model takes {scorer.features} features, the product's code makes {width}",
            where="model.onnx",
            hint="deploy the code that the release was made with (`plinth release show`)",
        )
    open_reader(plan)  # a plan that cannot be opened is refused here, not at the first request
    return LoadedRelease(digest, scorer, views, plan, open_reader)
