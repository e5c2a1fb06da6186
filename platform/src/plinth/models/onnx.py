"""LightGBM to ONNX and back to numbers: conversion that is proven on a sample, scoring offline.

Serving runs the same file with ONNX Runtime alone; nothing here is on the request path.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plinth.core.formats import check_model_file
from plinth.errors import Corrupt, InvalidInput, MissingExtra

Matrix = NDArray[np.float32]

INPUT, OUTPUT = "input", "probabilities"
TOLERANCE = 1e-5
_THRESHOLDS = re.compile(r"^threshold=(.*)$", re.MULTILINE)
# The sizes of the trees in bytes; they change with the thresholds' spelling, and LightGBM does without them.
_TREE_SIZES = re.compile(r"^tree_sizes=.*\n", re.MULTILINE)


def convert(booster: Any, sample: Matrix, *, tolerance: float = TOLERANCE) -> bytes:
    """A LightGBM booster (binary, numeric features) as ONNX: input "input" float32 [n, k], outputs "label" int64 [n]
    and "probabilities" float32 [n, 2].

    LightGBM compares float32 features with float64 thresholds, ONNX with float32 ones: rounded to nearest, a threshold
    between two neighbouring floats moves onto one of them and rows change sides (differences of .02 on the rolling
    rates of flight-delays). Rounded down, `x <= threshold` says the same for every float32 x.

    Args:
        booster: A lightgbm.Booster.
        sample: float32 [n, k], rows to compare on; take them from outside of the training window.
        tolerance: Largest difference of a probability.

    Raises:
        InvalidInput: The ONNX model differs from the booster by more than `tolerance` on the sample.
        MissingExtra: onnxmltools or lightgbm is not installed.
    """
    try:
        import lightgbm
        from onnxmltools import convert_lightgbm
        from onnxmltools.convert.common.data_types import FloatTensorType
    except ImportError as error:
        raise MissingExtra(error.name or "onnxmltools", "models") from error
    text = _THRESHOLDS.sub(_round_down, _TREE_SIZES.sub("", booster.model_to_string()))
    snapped = lightgbm.Booster(model_str=text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = convert_lightgbm(
            snapped, initial_types=[(INPUT, FloatTensorType([None, sample.shape[1]]))], zipmap=False
        )
    # onnxmltools names the graph at random; the same booster must give the same digest.
    model.graph.name = "lightgbm"
    for output in model.graph.output:
        # onnxmltools declares the label as of one row, at which ONNX Runtime warns on every batch.
        if output.name == "label":
            output.type.tensor_type.shape.dim[0].dim_param = "n"
    data: bytes = model.SerializeToString()
    difference = float(np.abs(_run(_session(data), sample) - booster.predict(sample)).max())
    if not difference <= tolerance:
        raise InvalidInput(
            f"the ONNX model differs from LightGBM by {difference:.2e} on {len(sample)} rows (at most {tolerance:.0e})",
            where="plinth.models.onnx.convert",
            hint="use numeric features without categoricals; LightGBM's own categoricals do not survive the conversion",
        )
    return data


def _round_down(line: re.Match[str]) -> str:
    """A line of thresholds, each the largest float32 not above it."""
    exact = np.array(line[1].split(), dtype=np.float64)
    near = exact.astype(np.float32)
    down = np.where(near.astype(np.float64) > exact, np.nextafter(near, np.float32(-np.inf)), near)
    return "threshold=" + " ".join(repr(float(value)) for value in down)


def score(path: Path, matrix: Matrix, *, name: str = "model.onnx") -> NDArray[np.float64]:
    """The probability of the positive class for every row, by an ONNX file whose format is checked first.

    Args:
        path: The file; under whatever name, see `name`.
        matrix: float32 [n, k].
        name: The name the file goes by, since the artefact store keeps it under its digest.

    Raises:
        RefusedByPolicy: Not a self-contained ONNX model.
        Corrupt: ONNX Runtime cannot load it.
        InvalidInput: The number of columns is not the model's.
    """
    check_model_file(path, name)
    return _run(_session(path.read_bytes(), str(path)), matrix)


def _session(data: bytes, where: str = "memory") -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra("onnxruntime", "models") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 2
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    # ONNX Runtime's errors share no base class of their own.
    except Exception as error:
        raise Corrupt(
            f"ONNX Runtime cannot load the model: {str(error)[:200]}", where=where, hint="train and release again"
        ) from error
    names = [value.name for value in session.get_inputs()], [value.name for value in session.get_outputs()]
    if names[0] != [INPUT] or OUTPUT not in names[1]:
        raise Corrupt(
            f"the model has inputs {names[0]} and outputs {names[1]}, not {INPUT!r} and {OUTPUT!r}",
            where=where,
            hint="convert it with plinth.models.onnx.convert",
        )
    return session


def _run(session: Any, matrix: Matrix) -> NDArray[np.float64]:
    columns = session.get_inputs()[0].shape[1]
    if matrix.ndim != 2 or matrix.dtype != np.float32 or matrix.shape[1] != columns:
        raise InvalidInput(
            f"the matrix is {matrix.dtype} {list(matrix.shape)}, the model takes float32 [n, {columns}]",
            where="plinth.models.onnx",
            hint="build it with the feature service the model was trained on",
        )
    probabilities: NDArray[np.float64] = session.run([OUTPUT], {INPUT: matrix})[0][:, 1].astype(np.float64)
    return probabilities
