"""Training: LightGBM on float32 numeric features, and the lookup baseline that it has to beat.

Windows are UTC dates, half-open, over the scheduled departure. Iterations are chosen by early stopping on the
validation window; nothing later than it is looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from flight_delays.request import LEAD_TIME
from plinth.errors import InvalidInput, MissingExtra
from plinth.models.evaluation import as_datetime, auc, log_loss


class Frame(Protocol):
    """Rows to learn from: one flight each, in any order; every column is an array of n values."""

    @property
    def matrix(self) -> NDArray[np.float32]:
        """[n, k], finite."""

    @property
    def label(self) -> NDArray[np.int8]:
        """[n], 1 when the flight arrived 15 or more minutes late, -1 where that is not known."""

    @property
    def prediction_time(self) -> NDArray[Any]:
        """[n], epoch seconds or datetime64, UTC."""

    @property
    def carrier(self) -> NDArray[Any]:
        """[n], IATA code."""

    @property
    def origin(self) -> NDArray[Any]:
        """[n], IATA code."""

    @property
    def hour(self) -> NDArray[Any]:
        """[n], hour of the scheduled departure, local to the origin."""


@dataclass(frozen=True)
class Window:
    """UTC dates [start, end) of scheduled departures."""

    start: date
    end: date

    def rows(self, frame: Frame) -> NDArray[np.bool_]:
        """Which rows of the frame lie in the window and have a label; [n]."""
        departure = as_datetime(frame.prediction_time) + np.timedelta64(LEAD_TIME)
        inside: NDArray[np.bool_] = (departure >= np.datetime64(self.start)) & (departure < np.datetime64(self.end))
        return inside & (frame.label >= 0)

    def __str__(self) -> str:
        return f"{self.start}..{self.end}"


@dataclass(frozen=True)
class Windows:
    """The windows of one training. They follow each other and do not overlap."""

    train: Window = Window(date(2013, 1, 1), date(2013, 5, 1))
    validate: Window = Window(date(2013, 5, 1), date(2013, 6, 1))
    evaluate: Window = Window(date(2013, 6, 1), date(2014, 1, 1))

    def __post_init__(self) -> None:
        edges = [(window.start, window.end) for window in (self.train, self.validate, self.evaluate)]
        flat = [edge for pair in edges for edge in pair]
        if flat != sorted(flat) or any(start >= end for start, end in edges):
            raise InvalidInput(
                f"the windows {self.train}, {self.validate}, {self.evaluate} are empty or overlap",
                where="training windows",
                hint="train before validate before evaluate, each with its start before its end",
            )


# Chosen on May (trained to April) and April (trained to March); docs/explanation/model.md has the trials.
PARAMETERS: dict[str, Any] = {
    "objective": "binary",
    "learning_rate": 0.05,
    "num_leaves": 31,
    "min_data_in_leaf": 400,
    "lambda_l2": 5.0,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "max_bin": 255,
    "seed": 20130101,
    # One thread takes 10 s. Two take 5 on an idle machine, and over a minute on a busy one: OpenMP's threads wait for
    # each other at every split, spinning.
    "num_threads": 1,
    "deterministic": True,
    # With `deterministic`, the choice between row- and column-wise must be made here and not by timing.
    "force_row_wise": True,
    "verbosity": -1,
}
MAX_ROUNDS = 800
PATIENCE = 60
SMOOTHING = 50.0


@dataclass(frozen=True)
class Baseline:
    """The historical late rate of (carrier, origin, local hour), shrunk towards the overall rate.

    `rates` maps the key to its rate; a key never seen gets `overall`. Shrinkage: as if SMOOTHING more flights had been
    late at the overall rate (empirical Bayes with a fixed prior weight; Efron & Morris 1975).
    """

    overall: float
    rates: dict[tuple[str, str, int], float]

    @classmethod
    def fit(cls, frame: Frame, rows: NDArray[np.bool_]) -> Baseline:
        """From the labelled rows of the training window."""
        keys, place = np.unique(_keys(frame, rows), return_inverse=True)
        late = np.asarray(frame.label)[rows].astype(np.float64)
        overall = float(late.mean())
        smoothed = (np.bincount(place, late) + SMOOTHING * overall) / (np.bincount(place) + SMOOTHING)
        return cls(overall, {_split(key): float(rate) for key, rate in zip(keys, smoothed, strict=True)})

    def predict(self, frame: Frame, rows: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Probability of being late for the chosen rows; [m]."""
        keys, place = np.unique(_keys(frame, rows), return_inverse=True)
        return np.array([self.rates.get(_split(key), self.overall) for key in keys])[place]


def _keys(frame: Frame, rows: NDArray[np.bool_]) -> NDArray[np.str_]:
    columns = (np.asarray(column)[rows].astype(str) for column in (frame.carrier, frame.origin, frame.hour))
    carrier, origin, hour = columns
    joined: NDArray[np.str_] = np.strings.add(
        np.strings.add(carrier, "|"), np.strings.add(np.strings.add(origin, "|"), hour)
    )
    return joined


def _split(key: str) -> tuple[str, str, int]:
    carrier, origin, hour = str(key).split("|")
    return carrier, origin, int(float(hour))


@dataclass(frozen=True)
class Trained:
    """A trained model: the booster, the baseline beside it, and how it was made."""

    booster: Any
    baseline: Baseline
    feature_names: tuple[str, ...]
    windows: Windows
    params: dict[str, str | int | float | bool]
    metrics: dict[str, float] = field(default_factory=dict)

    def predict(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        """Probability of being late by LightGBM itself; [n]."""
        return np.asarray(self.booster.predict(matrix, num_iteration=self.booster.best_iteration), dtype=np.float64)


def train(frame: Frame, feature_names: Sequence[str], windows: Windows | None = None, **overrides: Any) -> Trained:
    """Train on the training window, with the number of iterations chosen on the validation window.

    The same frame gives the same booster, byte for byte, on the same version of LightGBM.

    Args:
        frame: Labelled rows, at least those of the first two windows.
        feature_names: k names, in the order of the matrix's columns.
        windows: By default January to April, May, June to December.
        overrides: LightGBM parameters other than PARAMETERS.

    Raises:
        InvalidInput: A window holds no row or one class only, or the matrix is not float32, finite and of k columns.
        MissingExtra: LightGBM is not installed.
    """
    try:
        import lightgbm
    except ImportError as error:
        raise MissingExtra(error.name or "lightgbm", "models") from error
    windows = windows or Windows()
    _check(frame, feature_names)
    rows, held_out = (_usable(frame, window) for window in (windows.train, windows.validate))
    params = {**PARAMETERS, **overrides}
    data = lightgbm.Dataset(frame.matrix[rows], frame.label[rows], feature_name=list(feature_names), params=params)
    held = lightgbm.Dataset(frame.matrix[held_out], frame.label[held_out], reference=data)
    booster = lightgbm.train(
        params, data, MAX_ROUNDS, valid_sets=[held], callbacks=[lightgbm.early_stopping(PATIENCE, verbose=False)]
    )
    baseline = Baseline.fit(frame, rows)
    label = frame.label[held_out]
    scores = np.asarray(booster.predict(frame.matrix[held_out], num_iteration=booster.best_iteration))
    metrics = {
        "iterations": float(booster.best_iteration),
        "train_rows": float(rows.sum()),
        "validate_rows": float(held_out.sum()),
        "validate_log_loss": log_loss(label, scores),
        "validate_auc": auc(label, scores) or 0.0,
        "validate_baseline_auc": auc(label, baseline.predict(frame, held_out)) or 0.0,
    }
    logged = {
        **params,
        "iterations": booster.best_iteration,
        "features": len(feature_names),
        "train_window": str(windows.train),
        "validate_window": str(windows.validate),
        "evaluate_window": str(windows.evaluate),
    }
    return Trained(booster, baseline, tuple(feature_names), windows, logged, metrics)


def _check(frame: Frame, feature_names: Sequence[str]) -> None:
    matrix = frame.matrix
    if matrix.dtype != np.float32 or matrix.ndim != 2 or matrix.shape[1] != len(feature_names):
        raise InvalidInput(
            f"the matrix is {matrix.dtype} {list(matrix.shape)}, not float32 [n, {len(feature_names)}]",
            where="training frame",
            hint="build it with flight_delays.dataset",
        )
    finite = np.atleast_1d(np.isfinite(matrix).all(axis=0))
    bad = [name for name, ok in zip(feature_names, finite, strict=True) if not ok]
    if bad:
        raise InvalidInput(
            f"features that are not finite: {', '.join(bad[:5])}",
            where="training frame",
            hint="a missing feature has a declared default; a NaN is a bug in the assembly",
        )


def _usable(frame: Frame, window: Window) -> NDArray[np.bool_]:
    rows = window.rows(frame)
    if np.unique(frame.label[rows]).size < 2:
        raise InvalidInput(
            f"the window {window} holds {int(rows.sum())} rows and not both classes",
            where="training frame",
            hint="widen the window, or land the batches it needs",
        )
    return rows
