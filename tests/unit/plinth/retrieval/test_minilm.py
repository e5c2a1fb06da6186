import io
import json
import os
import time
import zipfile

import pytest

from embedding_models import minilm_folder, read_weights
from plinth.core.digests import digest_file
from plinth.errors import Corrupt, NotFound, Unavailable
from plinth.retrieval import minilm


class Package:
    """The distribution, with another archive in it."""

    def __init__(self, path):
        self.path = path

    def locate_file(self, _):
        return self.path


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """Replace the package's archive by bytes, or by a zip of entries."""

    def replace(content):
        path = tmp_path / "model.zip"
        if isinstance(content, dict):
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
                for name, data in content.items():
                    file.writestr(name, data)
        else:
            path.write_bytes(content)
        monkeypatch.setattr(minilm, "distribution", lambda _: Package(path))

    return replace


@pytest.fixture
def quick(monkeypatch):
    """make_minilm without its seconds of work: the files of the model that was made for this run."""
    folder = minilm_folder()
    data = (folder / "model.onnx").read_bytes()
    made = []
    monkeypatch.setattr(minilm, "read_weights", lambda: {"model.safetensors": b"", **_tokenizer(folder)})
    monkeypatch.setattr(minilm, "_model", lambda _: made.append(1) or data)
    return made


def _tokenizer(folder):
    return {"tokenizer.json": (folder / "tokenizer.json").read_bytes()}


def test_the_model_has_the_bytes_that_the_module_names():
    folder = minilm_folder()
    assert sorted(path.name for path in folder.iterdir()) == ["card.json", "model.onnx", "tokenizer.json"]
    assert digest_file(folder / "model.onnx") == minilm.MODEL_SHA256
    assert digest_file(folder / "tokenizer.json") == minilm.TOKENIZER_SHA256
    card = json.loads((folder / "card.json").read_text())
    assert card["origin"]["licence"] == "Apache-2.0"
    assert card["origin"]["weights"] == minilm.WEIGHTS_SHA256
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_weights_are_the_published_ones():
    assert sorted(read_weights()) == ["model.safetensors", "tokenizer.json"]


def test_a_model_that_is_there_is_used_again(tmp_path, quick):
    said = []
    folder = minilm.make_minilm(tmp_path / "models", said.append)
    assert said == ["reading the weights", "making the int8 model", "writing"]
    assert minilm.make_minilm(tmp_path / "models", said.append) == folder
    assert len(said) == 3
    assert quick == [1]


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "card.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_a_damaged_model_is_made_again(tmp_path, quick, name, damage):
    folder = minilm.make_minilm(tmp_path)
    path = folder / name
    before = path.read_bytes()
    if damage == "delete":
        path.unlink()
    else:
        middle = len(before) // 2
        path.write_bytes(before[:middle] + (bytes([before[middle] ^ 1]) + before[middle + 1 :]) * (damage == "flip"))
    assert minilm.make_minilm(tmp_path) == folder
    assert path.read_bytes() == before
    assert quick == [1, 1]
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_what_killed_processes_left_is_swept_and_what_is_young_stays(tmp_path, quick):
    old, young = tmp_path / ".making-old", tmp_path / ".making-young"
    for path in (old, young):
        path.mkdir()
        (path / "model.onnx").write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    minilm.make_minilm(tmp_path)
    assert not old.exists()
    assert young.exists()


def test_a_place_that_cannot_be_written_is_unavailable(tmp_path, quick):
    (tmp_path / "models").write_text("a file where the folder should be")
    with pytest.raises(Unavailable, match="cannot be written"):
        minilm.make_minilm(tmp_path / "models")


def test_a_missing_package_is_named_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setattr(minilm, "PACKAGE", "no-such-package-of-ours")
    with pytest.raises(NotFound, match="no-such-package-of-ours"):
        minilm.read_weights()


def test_a_package_without_its_archive_is_not_found(tmp_path, monkeypatch):
    monkeypatch.setattr(minilm, "distribution", lambda _: Package(tmp_path / "nothing.zip"))
    with pytest.raises(NotFound, match="no weights"):
        minilm.read_weights()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"no zip at all", "not a zip"),
        ({"tokenizer.json": b"{}"}, "model.safetensors"),
        ({"model.safetensors": b"other weights", "tokenizer.json": b"{}"}, "not the published file"),
        ({**{f"{n}.txt": b"" for n in range(101)}, "model.safetensors": b""}, "more than 100 entries"),
    ],
)
def test_another_archive_is_refused(archive, content, reason):
    archive(content)
    with pytest.raises(Corrupt, match=reason):
        minilm.read_weights()


def test_an_archive_that_unpacks_to_gigabytes_is_refused_after_its_limit(archive, monkeypatch):
    monkeypatch.setattr(minilm, "MAX_BYTES", {"model.safetensors": 1 << 20, "tokenizer.json": 1 << 20})
    archive({"model.safetensors": bytes(64 << 20), "tokenizer.json": b"{}"})
    with pytest.raises(Corrupt, match="unpacks to more than 1 MiB"):
        minilm.read_weights()


def test_an_archive_that_lies_about_a_size_is_refused(archive):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("model.safetensors", b"x" * 5000)
        file.writestr("tokenizer.json", b"{}")
    data = buffer.getvalue()
    archive(data.replace((5000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    with pytest.raises(Corrupt):
        minilm.read_weights()


def test_weights_that_give_other_bytes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(minilm, "bert_graph", lambda *_, **__: b"other bytes")
    monkeypatch.setattr(minilm, "read_weights", read_weights)
    with pytest.raises(Corrupt, match="other bytes than the known one"):
        minilm.make_minilm(tmp_path)
    assert not list(tmp_path.iterdir())
