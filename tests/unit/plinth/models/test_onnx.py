import lightgbm
import numpy as np
import onnx as onnx_format
import pytest

from plinth.core.formats import check_model_file
from plinth.errors import Corrupt, InvalidInput, RefusedByPolicy
from plinth.models import onnx

COLUMNS = 5


@pytest.fixture(scope="module")
def matrix():
    """Shrunk rates: quotients of small integers, many of them neighbouring float32 values, as rolling features are."""
    rng = np.random.default_rng(0)
    n = rng.integers(0, 400, size=(20_000, COLUMNS))
    late = rng.binomial(n, 0.24)
    rates = (late + 4 * 0.24) / (n + 4)
    return np.ascontiguousarray(rates * np.array([1, 1 / 3, 7, 1e-3, 1e4]), dtype=np.float32)


@pytest.fixture(scope="module")
def booster(matrix):
    rng = np.random.default_rng(1)
    label = (rng.random(len(matrix)) < matrix[:, 0]).astype(int)
    params = {
        "objective": "binary",
        "num_leaves": 31,
        "min_data_in_leaf": 5,
        "max_bin": 1000,
        "verbose": -1,
        "num_threads": 1,
    }
    return lightgbm.train(params, lightgbm.Dataset(matrix, label), num_boost_round=60)


@pytest.fixture(scope="module")
def path(tmp_path_factory, booster, matrix):
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    path.write_bytes(onnx.convert(booster, matrix))
    return path


def test_the_converted_model_agrees_with_lightgbm_on_every_row(booster, matrix, path):
    difference = np.abs(onnx.score(path, matrix) - booster.predict(matrix)).max()
    assert difference < 2e-6


def test_a_value_on_a_threshold_and_its_neighbours_stay_on_their_side(booster, path, matrix):
    """Rounded to nearest, a float64 threshold may land on the float32 above it; these rows would then change sides."""
    thresholds = np.array(
        [value for line in booster.model_to_string().splitlines() if line.startswith("threshold=")
         for value in line.removeprefix("threshold=").split()], dtype=np.float64,
    )  # fmt: skip
    near = thresholds.astype(np.float32)
    values = np.concatenate([np.nextafter(near, np.float32(-np.inf)), near, np.nextafter(near, np.float32(np.inf))])
    rows = np.tile(np.median(matrix, axis=0), (COLUMNS * len(values), 1)).astype(np.float32)
    for column in range(COLUMNS):
        rows[column * len(values) : (column + 1) * len(values), column] = values
    assert np.abs(onnx.score(path, rows) - booster.predict(rows)).max() < 2e-6


def test_the_conversion_is_the_same_every_time_and_is_a_safe_self_contained_file(booster, matrix, path):
    assert onnx.convert(booster, matrix[:100]) == path.read_bytes()
    check_model_file(path)
    onnx_format.checker.check_model(str(path))


def test_a_model_of_native_categoricals_is_refused_by_its_difference(matrix):
    rng = np.random.default_rng(2)
    codes = rng.integers(0, 40, size=(5000, 1)).astype(np.float32)
    label = (rng.random(5000) < (codes[:, 0] % 7) / 7).astype(int)
    data = lightgbm.Dataset(codes, label, categorical_feature=[0])
    booster = lightgbm.train({"objective": "binary", "verbose": -1, "num_threads": 1}, data, num_boost_round=20)
    odd = (codes + 0.5).astype(np.float32)  # LightGBM truncates a category, ONNX compares it as it is
    with pytest.raises(InvalidInput, match="differs from LightGBM"):
        onnx.convert(booster, odd)


@pytest.mark.parametrize(
    "bad", [np.zeros((3, COLUMNS)), np.zeros((3, COLUMNS + 1), np.float32), np.zeros(COLUMNS, np.float32)]
)
def test_a_matrix_that_does_not_fit_is_refused(path, bad):
    with pytest.raises(InvalidInput, match="float32"):
        onnx.score(path, bad)


def test_the_file_may_lie_under_its_digest(path, matrix, tmp_path):
    stored = tmp_path / ("ab" * 32)
    stored.write_bytes(path.read_bytes())
    assert np.array_equal(onnx.score(stored, matrix[:9]), onnx.score(path, matrix[:9]))


def test_a_valid_onnx_model_of_another_shape_is_no_model_of_ours(tmp_path, matrix):
    node = onnx_format.helper.make_node("Identity", ["x"], ["y"])
    value = [onnx_format.helper.make_tensor_value_info(name, 1, [None, COLUMNS]) for name in ("x", "y")]
    graph = onnx_format.helper.make_graph([node], "g", [value[0]], [value[1]])
    path = tmp_path / "model.onnx"
    model = onnx_format.helper.make_model(graph, ir_version=8, opset_imports=[onnx_format.helper.make_opsetid("", 15)])
    path.write_bytes(model.SerializeToString())
    with pytest.raises(Corrupt, match="inputs"):
        onnx.score(path, matrix)


def test_what_is_no_onnx_never_reaches_the_runtime(tmp_path, matrix):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(RefusedByPolicy):
        onnx.score(path, matrix)
