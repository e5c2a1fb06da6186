"""One suite for the registry port, run against every adapter."""

import pickle
import shutil

import lightgbm
import numpy as np
import pytest

from plinth.core.digests import digest_file
from plinth.errors import Corrupt, InvalidInput, NotFound, RefusedByPolicy
from plinth.models import onnx
from plinth.models.memory import MemoryRegistry
from plinth.models.port import Dataset, Training
from plinth.models.rules import MODEL_FILE

FEATURES = ["late_rate", "hour", "distance"]


@pytest.fixture(scope="module")
def matrix():
    return np.random.default_rng(0).normal(size=(500, len(FEATURES))).astype(np.float32)


@pytest.fixture(scope="module")
def model_path(tmp_path_factory, matrix):
    label = (matrix[:, 0] + matrix[:, 1] > 0).astype(int)
    booster = lightgbm.train(
        {"objective": "binary", "num_leaves": 4, "verbose": -1, "num_threads": 1},
        lightgbm.Dataset(matrix, label),
        num_boost_round=5,
    )
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    path.write_bytes(onnx.convert(booster, matrix))
    return path


@pytest.fixture(scope="module", params=["memory", "mlflow", "mlflow-server"])
def registry(request, tmp_path_factory):
    if request.param == "memory":
        return MemoryRegistry()
    from plinth.models.mlflow import MlflowRegistry
    from plinth.models.mlflow_connection import MlflowConnection

    if request.param == "mlflow-server":
        server = request.getfixturevalue("mlflow_server")
        connection = MlflowConnection(server.url, server.user, server.password)
        return MlflowRegistry(connection, tmp_path_factory.mktemp("fetched"))
    # A space and a percent sign: the path goes through a file URI.
    folder = tmp_path_factory.mktemp("state") / "my state 5%" / "mlflow"
    return MlflowRegistry(MlflowConnection(f"sqlite:///{folder / 'mlflow.db'}"), folder / "artifacts")


@pytest.fixture
def kept(registry, request):
    """Where a version's model file is kept, with nothing of it elsewhere."""

    def find(version):
        if "mlflow-server" not in request.node.name:
            return registry.model_file(version.name, version.version)
        shutil.rmtree(registry.artifacts)
        source = registry._client.get_model_version(version.name, version.version).source
        folder = request.getfixturevalue("mlflow_server").artifacts / source.removeprefix("mlflow-artifacts:/")
        return folder / MODEL_FILE

    return find


@pytest.fixture
def make(model_path, matrix, request):
    def training(**changes):
        values = {
            "product": "flight-delays",
            "model": request.node.originalname.removeprefix("test_").replace("_", "-")[:60],
            "model_file": model_path,
            "feature_names": FEATURES,
            "input_example": matrix[:3],
            "output_example": onnx.score(model_path, matrix[:3]),
            "params": {"learning_rate": 0.05, "rounds": 5},
            "metrics": {"auc": 0.75, "log_loss": 0.47},
            "datasets": [
                Dataset("features", "train", "2013-01-01", "2013-05-01", 100, "a" * 64),
                Dataset("features", "evaluate", "2013-06-01", "2014-01-01", 200, "b" * 64),
            ],
            "commit": "c" * 40,
            "dirty": False,
            "pip_requirements": ["onnxruntime==1.22.0"],
            "plots": {"roc.png": b"\x89PNG"},
            "documents": {"evaluation.json": '{"auc": 0.75, "é": 1}'},
            "tags": {"pipeline_run": "run-7"},
        }
        return Training(**{**values, **changes})

    return training


def test_a_training_is_kept_with_everything_it_was_made_of(registry, make, model_path):
    version = registry.log_training(make())
    assert version.version == "1"
    assert version.digest == digest_file(model_path)
    assert version.aliases == ("candidate",)
    assert version.tags["product"] == "flight-delays"
    assert version.tags["pipeline_run"] == "run-7"
    run = registry.run(version.run_id)
    assert run.params == {"learning_rate": "0.05", "rounds": "5"}
    assert run.metrics == {"auc": 0.75, "log_loss": 0.47}
    assert run.tags["git_commit"] == "c" * 40
    assert sorted(run.datasets, key=lambda data: data.role) == sorted(make().datasets, key=lambda data: data.role)
    assert registry.document(version.run_id, "evaluation.json").decode() == '{"auc": 0.75, "é": 1}'
    assert registry.document(version.run_id, "roc.png") == b"\x89PNG"


def test_the_model_file_comes_back_byte_for_byte(registry, make, model_path):
    version = registry.log_training(make())
    assert registry.model_file(version.name, version.version).read_bytes() == model_path.read_bytes()


def test_versions_count_up_and_are_listed_newest_first(registry, make):
    first, second = registry.log_training(make()), registry.log_training(make())
    assert [first.version, second.version] == ["1", "2"]
    assert [version.version for version in registry.versions(first.name)] == ["2", "1"]
    assert {version.name for version in registry.versions()} >= {first.name}


def test_an_alias_belongs_to_one_version_and_moves(registry, make):
    first, second = registry.log_training(make()), registry.log_training(make())
    assert registry.get(first.name, "1").aliases == ()
    assert registry.by_alias(first.name, "candidate").version == second.version
    registry.set_alias(first.name, "1", "serving")
    registry.set_alias(first.name, "2", "serving")
    assert registry.by_alias(first.name, "serving").version == "2"
    assert registry.get(first.name, "2").aliases == ("candidate", "serving")
    assert registry.by_alias(first.name, "rejected") is None


def test_an_alias_is_taken_away_once_and_again(registry, make):
    version = registry.log_training(make())
    registry.set_alias(version.name, "1", "serving")
    registry.delete_alias(version.name, "candidate")
    assert registry.get(version.name, "1").aliases == ("serving",)
    assert registry.by_alias(version.name, "candidate") is None
    registry.delete_alias(version.name, "candidate")
    registry.delete_alias("no-such-model", "candidate")


def test_a_rejected_candidate_is_kept_with_its_reasons(registry, make):
    version = registry.log_training(make(alias="rejected", reasons=["calibration: 0.08 over 0.05", "slice-floor"]))
    assert version.aliases == ("rejected",)
    assert version.tags["registered_as"] == "rejected"
    assert version.tags["reasons"] == "calibration: 0.08 over 0.05; slice-floor"


def test_tags_are_added_and_overwritten(registry, make):
    version = registry.log_training(make())
    registry.set_tags(version.name, "1", {"release": "ab12", "pipeline_run": "run-8"})
    tags = registry.get(version.name, "1").tags
    assert (tags["release"], tags["pipeline_run"], tags["product"]) == ("ab12", "run-8", "flight-delays")


def test_what_does_not_exist_is_not_found(registry, make):
    version = registry.log_training(make())
    assert registry.versions("no-such-model") == []
    assert registry.by_alias("no-such-model", "serving") is None
    for call in (
        lambda: registry.get(version.name, "9"),
        lambda: registry.get(version.name, "latest"),
        lambda: registry.get("no-such-model", "1"),
        lambda: registry.set_alias(version.name, "9", "serving"),
        lambda: registry.set_tags(version.name, "9", {"a": "b"}),
        lambda: registry.run("0" * 32),
        lambda: registry.document("0" * 32, "evaluation.json"),
        lambda: registry.document(version.run_id, "none.json"),
        lambda: registry.model_file(version.name, "9"),
    ):
        with pytest.raises(NotFound):
            call()


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "", ".hidden", "a\\b"])
def test_a_document_name_that_leads_elsewhere_is_refused(registry, make, name):
    with pytest.raises(InvalidInput):
        registry.log_training(make(documents={name: "x"}))
    with pytest.raises(InvalidInput):
        registry.document("0" * 32, name)


@pytest.mark.parametrize("changes", [{"pip_requirements": []}, {"metrics": {"auc": float("nan")}}])
def test_an_incomplete_training_is_refused_and_nothing_is_registered(registry, make, changes):
    with pytest.raises(InvalidInput):
        registry.log_training(make(model="incomplete", **changes))
    assert registry.versions("incomplete") == []


def test_a_pickle_is_refused_and_nothing_is_registered(registry, make, tmp_path):
    for name in ("model.pkl", "model.onnx", "model.txt"):
        path = tmp_path / name
        path.write_bytes(pickle.dumps({"weights": [1.0]}))
        with pytest.raises(RefusedByPolicy):
            registry.log_training(make(model="poisoned", model_file=path))
    assert registry.versions("poisoned") == []


def test_a_changed_model_file_is_corrupt_and_a_missing_one_not_found(registry, make, kept):
    version = registry.log_training(make())
    registry.model_file(version.name, "1")
    path = kept(version)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(Corrupt):
        registry.model_file(version.name, "1")
    path.unlink()
    with pytest.raises(NotFound):
        registry.model_file(version.name, "1")
