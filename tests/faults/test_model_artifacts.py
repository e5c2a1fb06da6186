"""SECURITY rows 6, 7 and 9: hostile and damaged model files, at registration and at load, with the real tools."""

import gzip
import os
import pickle
import subprocess
import sys
import zipfile

import lightgbm
import numpy as np
import onnx as onnx_format
import pytest

from patience import PATIENCE
from plinth.errors import Corrupt, RefusedByPolicy
from plinth.ledger.artifacts import ArtifactStore
from plinth.models import onnx
from plinth.models.memory import MemoryRegistry
from plinth.models.mlflow import MlflowRegistry
from plinth.models.mlflow_connection import MlflowConnection
from plinth.models.port import Training

MATRIX = np.random.default_rng(0).normal(size=(400, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    booster = lightgbm.train(
        {"objective": "binary", "num_leaves": 4, "verbose": -1, "num_threads": 1},
        lightgbm.Dataset(MATRIX, (MATRIX[:, 0] > 0).astype(int)),
        num_boost_round=3,
    )
    path = tmp_path_factory.mktemp("good") / "model.onnx"
    path.write_bytes(onnx.convert(booster, MATRIX))
    return path


@pytest.fixture(scope="module", params=["memory", "mlflow"])
def registry(request, tmp_path_factory):
    if request.param == "memory":
        return MemoryRegistry()
    folder = tmp_path_factory.mktemp("state") / "mlflow"
    return MlflowRegistry(MlflowConnection(f"sqlite:///{folder / 'mlflow.db'}"), folder / "artifacts")


class Bomb:
    """Unpickling it makes a folder: the proof that code ran."""

    def __init__(self, proof):
        self.proof = str(proof)

    def __reduce__(self):
        return os.mkdir, (self.proof,)


def training(path, model="hostile"):
    return Training(
        product="flight-delays", model=model, model_file=path, feature_names=["a", "b", "c"],
        input_example=MATRIX[:2], output_example=[0.1, 0.2], params={}, metrics={"auc": 0.7}, datasets=[],
        commit="c" * 40, dirty=False, pip_requirements=["onnxruntime==1.22.0"],
    )  # fmt: skip


def hostile(kind, folder, proof, good):
    """A hostile file of every kind. Returns its path."""
    poison = pickle.dumps(Bomb(proof))
    match kind:
        case "pickle":
            name, data = "model.pkl", poison
        case "gzipped pickle":
            name, data = "model.pkl.gz", gzip.compress(poison)
        case "pickle renamed to onnx":
            name, data = "model.onnx", poison
        case "gzipped pickle renamed to onnx":
            name, data = "model.onnx", gzip.compress(poison)
        case "pickle renamed to LightGBM text":
            name, data = "model.txt", poison
        case "onnx with a pickle appended":
            name, data = "model.onnx", good.read_bytes() + poison
        case "truncated onnx":
            name, data = "model.onnx", good.read_bytes()[:-1]
        case "zip":
            name = "model.onnx"
            with zipfile.ZipFile(folder / name, "w") as archive:
                archive.writestr("data.pkl", poison)
            return folder / name
        case "onnx with external data":
            secret = folder / "secret"
            secret.write_bytes(b"\0" * 12)
            tensor = onnx_format.helper.make_tensor("w", 1, [3], [0.0, 0.0, 0.0])
            tensor.ClearField("float_data")
            tensor.data_location = onnx_format.TensorProto.EXTERNAL
            for key, value in {"location": "../../../etc/passwd", "offset": "0", "length": "12"}.items():
                entry = tensor.external_data.add()
                entry.key, entry.value = key, value
            model = onnx_format.load(good)
            model.graph.initializer.append(tensor)
            name, data = "model.onnx", model.SerializeToString()
        case "onnx header that claims 4 GiB":
            name, data = "model.onnx", b"\x08\x08\x42\x02\x10\x0f\x3a\xff\xff\xff\xff\x0f" + b"\0" * 64
    path = folder / name
    path.write_bytes(data)
    return path


KINDS = [
    "pickle", "gzipped pickle", "pickle renamed to onnx", "gzipped pickle renamed to onnx",
    "pickle renamed to LightGBM text", "onnx with a pickle appended", "truncated onnx", "zip",
    "onnx with external data", "onnx header that claims 4 GiB",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_hostile_model_is_refused_at_registration_and_its_code_never_runs(registry, tmp_path, good, kind):
    proof = tmp_path / "proof"
    with pytest.raises(RefusedByPolicy) as caught:
        registry.log_training(training(hostile(kind, tmp_path, proof, good)))
    assert caught.value.exit_code == 3
    assert caught.value.hint
    assert registry.versions("hostile") == []
    assert not proof.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_hostile_model_is_refused_at_load_even_when_its_digest_is_right(tmp_path, good, kind):
    """Somebody who can write the artefact store names the file by its digest; the format is still checked."""
    proof = tmp_path / "proof"
    store = ArtifactStore(tmp_path / "store")
    digest = store.put_file(hostile(kind, tmp_path, proof, good))
    with pytest.raises(RefusedByPolicy):
        onnx.score(store.path(digest), MATRIX)
    assert not proof.exists()


def test_a_registered_model_that_was_swapped_afterwards_is_refused_by_its_digest(registry, tmp_path, good):
    version = registry.log_training(training(good, "swapped"))
    path = registry.model_file("swapped", version.version)
    for data in (pickle.dumps(Bomb(tmp_path / "proof")), good.read_bytes()[:-9], b"", good.read_bytes() + b"\0"):
        path.write_bytes(data)
        with pytest.raises(Corrupt):
            registry.model_file("swapped", version.version)
    assert not (tmp_path / "proof").exists()


def test_a_truncated_artefact_is_refused_by_the_store(tmp_path, good):
    store = ArtifactStore(tmp_path / "store")
    digest = store.put_file(good)
    path = store.path(digest)
    path.chmod(0o644)
    path.write_bytes(good.read_bytes()[:-9])
    with pytest.raises(Corrupt):
        store.path(digest)


def test_looking_at_a_hostile_file_of_256_mib_keeps_memory_flat(tmp_path):
    """Millions of empty messages in one graph, and a safetensors header that claims all of memory."""
    path = tmp_path / "model.onnx"
    body = 256 << 20
    length = bytes(
        [body & 0x7F | 0x80, body >> 7 & 0x7F | 0x80, body >> 14 & 0x7F | 0x80, body >> 21 & 0x7F | 0x80, body >> 28]
    )
    with path.open("wb") as file:
        file.write(b"\x08\x08\x42\x02\x10\x0f\x3a" + length)
        for _ in range(256):
            file.write(b"\x0a\x00" * (1 << 19))
    tensors = tmp_path / "model.safetensors"
    tensors.write_bytes((1 << 62).to_bytes(8, "little") + b"{" * 64)
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from plinth.core import formats, onnx\n"
        "from plinth.errors import RefusedByPolicy\n"
        "onnx.MAX_FIELDS = 200_000\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n"
        "        formats.check_model_file(Path(name))\n"
        "    except RefusedByPolicy:\n"
        "        continue\n"
        "    sys.exit('accepted ' + name)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path), str(tensors)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 32 * 1024, "KiB grown"


def test_mlflow_itself_is_told_never_to_unpickle(registry, tmp_path, good):
    """A second line: even a pickle that got into MLflow's folder by another way is not loaded by MLflow."""
    if isinstance(registry, MemoryRegistry):
        pytest.skip("MLflow only")
    registry.versions()
    import cloudpickle
    import mlflow.pyfunc
    import yaml

    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "python_model.pkl").write_bytes(cloudpickle.dumps(Bomb(tmp_path / "proof")))
    flavour = {
        "loader_module": "mlflow.pyfunc.model", "python_model": "python_model.pkl",
        "cloudpickle_version": cloudpickle.__version__, "python_version": "3.11.0", "env": {},
    }  # fmt: skip
    (folder / "MLmodel").write_text(yaml.safe_dump({"flavors": {"python_function": flavour}, "model_uuid": "0" * 32}))
    with pytest.raises(Exception, match=r"(?i)pickle"):
        mlflow.pyfunc.load_model(str(folder))
    assert not (tmp_path / "proof").exists()
