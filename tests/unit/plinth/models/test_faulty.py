"""Releases for drills misbehave for real, in files that pass every check a good release's files pass."""

import json
import sqlite3
import struct
import time

import lightgbm
import numpy as np
import onnx as onnx_format
import onnxruntime
import pytest

from plinth.core.formats import check_model_file
from plinth.errors import Corrupt, InvalidInput, NotFound
from plinth.features.readplan import MISSING, OK, ReadPlan
from plinth.models import onnx
from plinth.models.faulty import FAULTS, make_faulty
from plinth.serving.onnxruntime import OnnxScorer

COLUMNS = 6


@pytest.fixture(scope="module")
def matrix():
    rng = np.random.default_rng(0)
    return rng.normal(0, [1, 5, 300, 0.3, 20, 7], size=(5_000, COLUMNS)).astype(np.float32)


@pytest.fixture(scope="module")
def bundle(matrix):
    label = (matrix[:, 0] + 0.2 * matrix[:, 1] > 1).astype(int)
    params = {"objective": "binary", "verbose": -1, "num_threads": 1}
    booster = lightgbm.train(params, lightgbm.Dataset(matrix, label), num_boost_round=20)
    view = {
        "table": "shop_customer", "ttl_seconds": 3600,
        "features": [{"name": "spent", "dtype": "float32", "default": 7.0}],
    }  # fmt: skip
    plan = {
        "schema": 1, "feature_service": "shop_v1", "project": "shop", "entity_key_version": 3,
        "store": {"type": "sqlite"},
        "views": [
            {"name": "customer", "join_keys": ["customer"], **view},
            {"name": "pair", "join_keys": ["customer", "shop"], **view},
        ],
    }  # fmt: skip
    return {"model.onnx": onnx.convert(booster, matrix[:500]), "read_plan.json": json.dumps(plan).encode()}


def score(bundle, matrix):
    """As the service scores: the warm-up of the scorer refuses a model that cannot serve at all."""
    return OnnxScorer(bundle["model.onnx"]).score(matrix)


@pytest.mark.parametrize("fault", FAULTS)
def test_every_faulty_model_is_an_allowed_file_that_loads(fault, bundle, matrix, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(make_faulty(fault, bundle)["model.onnx"])
    check_model_file(path)
    assert OnnxScorer(path.read_bytes()).features == COLUMNS


def test_a_slow_model_answers_the_same_and_takes_about_as_long_as_asked(bundle, matrix):
    slow, good = (OnnxScorer(made["model.onnx"]) for made in (make_faulty("latency", bundle, slow_ms=40.0), bundle))
    assert (slow.score(matrix[:50]) == good.score(matrix[:50])).all()

    def quickest(scorer):
        times = []
        for row in range(9):
            started = time.thread_time()
            scorer.score(matrix[row : row + 1])
            times.append(time.thread_time() - started)
        return min(times) * 1e3

    assert quickest(good) < 10
    assert 20 < quickest(slow) < 160


def test_a_slow_model_is_slow_on_every_run_and_not_only_on_its_first(bundle, tmp_path):
    """What does not depend on the input, ONNX Runtime computes once, when it loads the model."""
    made = make_faulty("latency", bundle, slow_ms=20.0)["model.onnx"]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(made, options, providers=["CPUExecutionProvider"])
    left = onnx_format.load(options.optimized_model_filepath)
    before = sum(node.op_type == "MatMul" for node in onnx_format.load_model_from_string(made).graph.node)
    assert before > 5
    assert sum(node.op_type == "MatMul" for node in left.graph.node) == before


@pytest.mark.parametrize("share", [0.05, 0.2, 0.45])
def test_a_failing_model_has_no_number_for_a_share_of_the_rows_and_is_right_on_the_rest(bundle, matrix, share):
    bad, good = score(make_faulty("errors", bundle, share=share), matrix), score(bundle, matrix)
    failed = np.isnan(bad)
    assert failed.mean() == pytest.approx(share, abs=0.04)
    assert (bad[~failed] == good[~failed]).all()


def test_the_row_decides_whether_it_fails(bundle, matrix):
    made = make_faulty("errors", bundle)
    alone = np.concatenate([score(made, matrix[row : row + 1]) for row in range(60)])
    assert (np.isnan(alone) == np.isnan(score(made, matrix)[:60])).all()
    assert 0 < np.isnan(alone).sum() < 60


def test_a_bad_model_says_that_everything_is_likely_in_the_wrong_order(bundle, matrix):
    bad, good = score(make_faulty("bad-model", bundle), matrix), score(bundle, matrix)
    assert bad == pytest.approx(0.99 - 0.09 * good, abs=1e-6)
    assert np.corrcoef(bad, good)[0, 1] < -0.99


def test_a_skewed_plan_opens_and_finds_nothing(bundle, tmp_path):
    made = json.loads(make_faulty("skew", bundle)["read_plan.json"])
    good = ReadPlan.from_dict(json.loads(bundle["read_plan.json"]))
    path = tmp_path / "online.db"
    keys = {"customer": ["anna"], "shop": ["north"]}
    with sqlite3.connect(path) as store:
        store.execute("CREATE TABLE shop_customer (entity_key BLOB, feature_name TEXT, value BLOB, event_ts INTEGER)")
        for view in good.views:
            row = (view.entity_keys(keys)[0], "spent", b"\x35" + struct.pack("<f", 3.5), 1_000)
            store.execute("INSERT INTO shop_customer VALUES (?, ?, ?, ?)", row)
    store.close()
    at = np.array([1_500], dtype=np.int64)
    found, lost = (plan.open(path).read(keys, at) for plan in (good, ReadPlan.from_dict(made)))
    assert (found.status == OK).all()
    assert found.values.tolist() == [[3.5, 3.5]]
    assert (lost.status == MISSING).all()
    assert lost.values.tolist() == [[7.0, 7.0]]


def test_a_release_without_metrics_behaves_as_the_good_one(bundle):
    assert make_faulty("missing-metrics", bundle) == bundle


def test_what_cannot_be_made_faulty_is_refused_with_the_reason(bundle):
    with pytest.raises(InvalidInput, match="no fault 'flood'"):
        make_faulty("flood", bundle)
    with pytest.raises(InvalidInput, match=r"a share of 0\.5"):
        make_faulty("errors", bundle, share=0.5)
    with pytest.raises(NotFound, match=r"no model\.onnx"):
        make_faulty("errors", {"read_plan.json": b"{}"})
    with pytest.raises(Corrupt, match="no ONNX model"):
        make_faulty("bad-model", {"model.onnx": b"\xff\xff\xff\xff"})
    with pytest.raises(Corrupt, match="read plan"):
        make_faulty("skew", {"read_plan.json": b"[]"})
    old = onnx_format.load_model_from_string(bundle["model.onnx"])
    next(item for item in old.opset_import if item.domain == "").version = 8
    with pytest.raises(InvalidInput, match="operator set 8"):
        make_faulty("errors", {"model.onnx": old.SerializeToString()})
