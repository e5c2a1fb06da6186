"""ONNX Runtime: a model file's bytes to a scorer."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from plinth.errors import Corrupt, MissingExtra
from plinth.serving.port import FloatMatrix

WARM_UP_SECONDS = 10.0
"""How long a run at loading may take."""


class OnnxScorer:
    """A binary classifier: input float32 [n, k], one output the probabilities float32 [n, 2].

    Args:
        model: The bytes of the model file. Loading from bytes leaves no folder for external data to be read from.
        threads: Threads of one run. One is fastest for single rows, and leaves the cores to other requests.

    Raises:
        Corrupt: The bytes are no model, or its inputs and outputs are not those above.
        MissingExtra: onnxruntime is not installed.
    """

    def __init__(self, model: bytes, *, threads: int = 1) -> None:
        try:
            import onnxruntime as ort
        except ModuleNotFoundError:
            raise MissingExtra("onnxruntime", "serving") from None
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # its errors reach us as exceptions; standard error stays JSON lines
        try:
            self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise Corrupt(f"ONNX Runtime cannot load the model: {error}", where="model.onnx") from error
        self._run = self._session.run
        self._make_options = ort.RunOptions
        self._run_options = ort.RunOptions()
        self._input, self.features = self._find_input()
        self._outputs = [self._find_output()]
        self._warm_up()

    def score(self, matrix: FloatMatrix) -> NDArray[np.float64]:
        """Probabilities of the positive class, [n], of a matrix [n, features]."""
        answer = self._run(self._outputs, {self._input: matrix}, self._run_options)[0]
        scores: NDArray[np.float64] = answer[:, 1].astype(np.float64)
        return scores

    def stop(self) -> None:
        """End the runs that are going on: each raises at its next node (within one node nothing looks)."""
        stopped, self._run_options = self._run_options, self._make_options()
        stopped.terminate = True

    def _find_input(self) -> tuple[str, int]:
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(float)" or len(inputs[0].shape) != 2:
            raise Corrupt("the model's input is not one float32 matrix [n, k]", where="model.onnx")
        width = inputs[0].shape[1]
        if not isinstance(width, int):
            raise Corrupt("the model does not say how many features it takes", where="model.onnx")
        return inputs[0].name, width

    def _find_output(self) -> str:
        for output in self._session.get_outputs():
            if output.type == "tensor(float)" and len(output.shape) == 2:
                return str(output.name)
        raise Corrupt(
            "the model has no output of float32 probabilities [n, 2]",
            where="model.onnx",
            hint="convert it with zipmap off",
        )

    def _warm_up(self) -> None:
        """The first runs allocate; and a model that cannot score zeros, or hangs, is found before it serves."""
        for rows in (1, 1, 8):
            ending = threading.Timer(WARM_UP_SECONDS, self.stop)
            ending.start()
            try:
                scores = self.score(np.zeros((rows, self.features), dtype=np.float32))
            except Exception as error:
                raise Corrupt(f"the model does not run: {error}", where="model.onnx") from error
            finally:
                ending.cancel()
            if scores.shape != (rows,) or not ((scores >= 0) & (scores <= 1)).all():
                raise Corrupt("the model's answer is not one probability a row", where="model.onnx")
