"""The ONNX scorer: shapes, and what is refused."""

import numpy as np
import pytest

from plinth.errors import Corrupt
from plinth.serving.onnxruntime import OnnxScorer


def test_scores_are_the_positive_class(make_model):
    scorer = OnnxScorer(make_model([1.0, -1.0]))
    scores = scorer.score(np.array([[0, 0], [2, 0], [0, 2]], dtype=np.float32))
    assert scorer.features == 2
    assert scores == pytest.approx([0.5, 1 / (1 + np.exp(-2)), 1 / (1 + np.exp(2))], abs=1e-6)


@pytest.mark.parametrize("data", [b"", b"\x08\x08", b"not a model"])
def test_bytes_that_are_no_model_are_refused(data):
    with pytest.raises(Corrupt):
        OnnxScorer(data)


def test_a_truncated_model_is_refused(make_model):
    model = make_model([1.0])
    with pytest.raises(Corrupt):
        OnnxScorer(model[: len(model) // 2])


def test_a_model_whose_answer_is_no_probability_is_refused(make_model):
    with pytest.raises(Corrupt, match="probability"):
        OnnxScorer(make_model([1.0], bias=float("nan")))
