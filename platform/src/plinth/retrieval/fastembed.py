"""Models of fastembed: other embedding models, and cross-encoders that rerank. Their weights are downloaded.

fastembed takes them from Hugging Face's hub, unless `cache` holds them: a machine without a network gets a copy of a
cache that was filled elsewhere. Which files it loads, its own list of models decides; they do not pass
`plinth.core.formats`, as most use operators of ONNX Runtime's own domain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from plinth.core.answers import Hit
from plinth.core.digests import digest_file, digest_json
from plinth.errors import InvalidInput, MissingExtra, Unavailable
from plinth.retrieval.port import Progress, Vectors
from plinth.retrieval.texts import slices, well_formed

_REPORT_EVERY = 64


class FastembedEmbedder:
    """One of fastembed's embedding models. Thread-safe.

    Texts are run one by one: many of its models are quantized dynamically, and in a batch a vector would depend on its
    neighbours.

    Args:
        model: Its name in fastembed's list, such as BAAI/bge-small-en-v1.5.
        cache: Folder of the weights; what is not there is downloaded, with some tries over half a minute.

    Raises:
        InvalidInput: fastembed does not know the model.
        Unavailable: The weights are neither in the cache nor downloadable.
        MissingExtra: fastembed is not installed.
    """

    def __init__(self, model: str, cache: Path) -> None:
        try:
            from fastembed import TextEmbedding
        except ImportError as error:
            raise MissingExtra("fastembed", "fastembed") from error
        self.name = model
        with _errors(TextEmbedding, model, cache):
            self._model: Any = TextEmbedding(model, cache_dir=str(cache))
        self.dimension: int = self._model.embedding_size
        inner: Any = self._model.model
        # A copy: the limit of tokens is the model's, and counting has none.
        self._tokenizer = type(inner.tokenizer).from_str(inner.tokenizer.to_str())
        self.max_tokens: int = self._tokenizer.truncation["max_length"]
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._digest = digest_json({"files": _files(inner._model_dir), "model": model, "kind": type(inner).__name__})

    @property
    def digest(self) -> str:
        """sha256 over the model's files, its name and how fastembed pools it."""
        return self._digest

    def embed_documents(self, texts: Sequence[str], on_progress: Progress | None = None) -> Vectors:
        """One vector a text, float32 [n, dimension], in the order given. Progress is told every 64 texts."""
        vectors = np.empty((len(texts), self.dimension), np.float32)
        for start, part in slices(texts, _REPORT_EVERY):
            for number, vector in enumerate(self._model.passage_embed(map(well_formed, part), batch_size=1), start):
                vectors[number] = _normalised(vector)
            if on_progress:
                on_progress(start + len(part), len(texts))
        return vectors

    def embed_query(self, text: str) -> Vectors:
        """The vector of a question, float32 [dimension]; some models treat questions in another way than documents."""
        return _normalised(next(iter(self._model.query_embed(well_formed(text)))))

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, without the special ones."""
        return len(self._tokenizer.encode(well_formed(text), add_special_tokens=False).ids)


class FastembedReranker:
    """A cross-encoder: reads the question and a chunk together. Arguments and errors as FastembedEmbedder's."""

    def __init__(self, model: str, cache: Path) -> None:
        try:
            from fastembed.rerank.cross_encoder import TextCrossEncoder
        except ImportError as error:
            raise MissingExtra("fastembed", "fastembed") from error
        self.name = model
        with _errors(TextCrossEncoder, model, cache):
            self._model: Any = TextCrossEncoder(model, cache_dir=str(cache))

    def rerank(self, question: str, hits: Sequence[Hit]) -> list[Hit]:
        """The same hits, best first; the score is the model's logit. Equal scores keep their order."""
        texts = [well_formed(hit.chunk.indexed_text) for hit in hits]
        scores = self._model.rerank(well_formed(question), texts, batch_size=1)
        scored = [replace(hit, score=float(score)) for hit, score in zip(hits, scores, strict=True)]
        return sorted(scored, key=lambda hit: -hit.score)


def _normalised(vector: Any) -> Vectors:
    """Length 1: not all of its models normalise."""
    length = float(np.linalg.norm(vector))
    unit: Vectors = (np.asarray(vector) / (length or 1.0)).astype(np.float32)
    return unit


def _files(folder: Path) -> dict[str, str]:
    """sha256 of each file that the model is loaded from."""
    folder = Path(folder)
    return {p.relative_to(folder).as_posix(): digest_file(p) for p in sorted(folder.rglob("*")) if p.is_file()}


@contextmanager
def _errors(kind: Any, model: str, cache: Path) -> Iterator[None]:
    """fastembed's errors as ours: a ValueError may mean anything, and a broken file is one of ONNX Runtime's."""
    known = sorted(described["model"] for described in kind.list_supported_models())
    if model.lower() not in {name.lower() for name in known}:
        raise InvalidInput(
            f"fastembed has no model {model!r}", where="fastembed", hint=f"one of: {', '.join(known[:40])}"
        )
    try:
        yield
    # Its downloaders and ONNX Runtime raise errors of many kinds without a common base.
    except Exception as error:
        raise Unavailable(
            f"the model {model!r} cannot be loaded: {str(error)[:200]}",
            where=str(cache),
            hint="copy a filled cache there, allow the download, or use the provider minilm, which needs none",
        ) from error
