"""Embeddings on ONNX Runtime, from a folder with `model.onnx`, `tokenizer.json` and `card.json`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from plinth.core.digests import digest_bytes, digest_json
from plinth.core.formats import check_model_file
from plinth.errors import Corrupt, MissingExtra, NotFound
from plinth.retrieval.onnx import INPUT, OUTPUT
from plinth.retrieval.port import Progress, Vectors
from plinth.retrieval.texts import slices, well_formed

# Of a text longer than this many characters a token, only the beginning is tokenized.
CHARS_PER_TOKEN = 64
_REPORT_EVERY = 64
_VNNI = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})


class OnnxEmbedder:
    """Texts to vectors of length 1. Thread-safe.

    Every text is run by itself, on as many texts at once as there are threads. On a CPU this is faster than batches
    (no padding, and a text's activations stay in the cache), and a vector depends on nothing but its text: the
    activations of the int8 model have one scale for all that runs together, and two runs of a text give the same bytes
    whatever stands beside it.

    A text is read up to the model's `max_tokens`, special tokens included, and never beyond 64 characters for each of
    them; NUL and other control characters are dropped and a lone surrogate counts as U+FFFD, which is dropped too. An
    empty text has a vector as well, that of no words.

    Args:
        folder: The model, as `plinth.retrieval.minilm.make_minilm` makes it.
        threads: How many texts run at once; 0 is one for each core this process may use.

    Raises:
        NotFound: A file is missing.
        Corrupt: A file is not what the card says.
        RefusedByPolicy: The model file is not self-contained ONNX of the standard operators.
        MissingExtra: onnxruntime or tokenizers is not installed.
    """

    def __init__(self, folder: Path, *, threads: int = 0) -> None:
        card = _card(folder)
        check_model_file(folder / "model.onnx")
        model = _checked(folder, "model.onnx", card)
        self.name: str = card["name"]
        self.dimension: int = card["dimension"]
        self.max_tokens: int = card["max_tokens"]
        self.threads = threads or _cores()
        self._digest = digest_json({key: card[key] for key in ("files", "max_tokens", "pooling")})
        self._session = _session(model, str(folder / "model.onnx"))
        self._tokenizer = _tokenizer(_checked(folder, "tokenizer.json", card), str(folder / "tokenizer.json"))
        self._end = self._tokenizer.encode("").ids[-1]

    @property
    def digest(self) -> str:
        """sha256 over the digests of model and tokenizer, the limit of tokens and the pooling.

        ONNX Runtime's version and the kind of processor are not in it: their float32 kernels differ in the last bits.
        """
        return self._digest

    def embed_documents(self, texts: Sequence[str], on_progress: Progress | None = None) -> Vectors:
        """One vector a text, float32 [n, dimension], in the order given. Progress is told every 64 texts."""
        vectors = np.empty((len(texts), self.dimension), np.float32)
        done = 0
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="embed")
        try:
            for start, part in slices(texts):
                tokens = self._tokens(part)
                # Longest first: the threads end a slice together.
                order = sorted(range(len(part)), key=lambda number: -len(tokens[number]))
                for number, vector in zip(order, pool.map(self._run, [tokens[n] for n in order]), strict=True):
                    vectors[start + number] = vector
                    done += 1
                    if on_progress and (done % _REPORT_EVERY == 0 or done == len(texts)):
                        on_progress(done, len(texts))
        finally:
            # Whoever stops in the middle, by an error of on_progress, does not wait for the rest of the slice.
            pool.shutdown(cancel_futures=True)
        return vectors

    def embed_query(self, text: str) -> Vectors:
        """The vector of a question, float32 [dimension]: the same as that of a document with this text."""
        return self._run(self._tokens([text])[0])

    def count_tokens(self, text: str) -> int:
        """Tokens of a text of any length, without the special ones."""
        return len(self._tokenizer.encode(well_formed(text), add_special_tokens=False).ids)

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids, at most `max_tokens` each."""
        limit = self.max_tokens
        encodings = self._tokenizer.encode_batch_fast([well_formed(text[: limit * CHARS_PER_TOKEN]) for text in texts])
        ids = (encoding.ids for encoding in encodings)
        return [one if len(one) <= limit else [*one[: limit - 1], self._end] for one in ids]

    def _run(self, tokens: list[int]) -> Vectors:
        vector: Vectors = self._session.run([OUTPUT], {INPUT: np.array([tokens], np.int64)})[0][0]
        return vector


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _card(folder: Path) -> dict[str, Any]:
    path = folder / "card.json"
    try:
        card = json.loads(path.read_bytes())
        if set(card["files"]) != {"model.onnx", "tokenizer.json"} or not card["name"] or card["pooling"] != "mean":
            raise ValueError("it is not a card of an embedding model")
        if min(int(card["dimension"]), int(card["max_tokens"]) - 2) < 1:
            raise ValueError("its numbers are too small")
    except FileNotFoundError as error:
        raise NotFound("there is no embedding model", where=str(folder), hint=_HINT) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"the embedding model's card is unreadable: {error}", where=str(path), hint=_HINT) from error
    return dict(card)


_HINT = "plinth.retrieval.minilm.make_minilm makes it again"


def _checked(folder: Path, name: str, card: dict[str, Any]) -> bytes:
    """A file's bytes, which are what the card says."""
    try:
        data = (folder / name).read_bytes()
    except OSError as error:
        raise NotFound(f"the embedding model has no {name}", where=str(folder), hint=_HINT) from error
    if digest_bytes(data) != card["files"][name]:
        raise Corrupt("the file is not the one that the card names", where=str(folder / name), hint=_HINT)
    return data


def _session(model: bytes, where: str) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra("onnxruntime", "retrieval") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # The threads are ours, a text each.
    options.intra_op_num_threads = 1
    if _products_overflow():
        options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    # ONNX Runtime's errors share no base class of their own.
    except Exception as error:
        raise Corrupt(f"ONNX Runtime cannot load the model: {str(error)[:200]}", where=where, hint=_HINT) from error


def _products_overflow() -> bool:
    """Whether the processor is, or may be, an x86 one without VNNI: sums of two products saturate at 16 bits there.

    ONNX Runtime then has slower kernels that are exact. It takes processors with AMX for such ones (1.32), which costs
    two thirds of the speed, so it is not asked for everywhere. Others ignore it.
    """
    try:
        return _VNNI.isdisjoint(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return True


def _tokenizer(data: bytes, where: str) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingExtra("tokenizers", "retrieval") from error
    try:
        tokenizer = Tokenizer.from_buffer(data)
    # The bindings raise a bare Exception.
    except Exception as error:
        raise Corrupt(f"the tokenizer cannot be loaded: {str(error)[:200]}", where=where, hint=_HINT) from error
    # The published file pads to 128 tokens and cuts there.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
