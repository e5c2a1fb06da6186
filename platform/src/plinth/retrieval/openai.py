"""Embeddings of any endpoint that speaks OpenAI's API: vLLM, Ollama, llama.cpp, text-embeddings-inference, a cloud."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np

from plinth.core.addresses import is_own_machine
from plinth.core.digests import digest_json
from plinth.errors import InvalidInput, MissingExtra, PlinthError, Unavailable
from plinth.retrieval.port import Progress, Vectors
from plinth.retrieval.texts import slices, well_formed

BATCH_TEXTS, BATCH_CHARS = 64, 100_000
# Requests under way at once: they wait for the endpoint, not for this machine.
PARALLEL = 4
TIMEOUT, RETRIES = 60.0, 3
_WORD_OR_SIGN = re.compile(r"\w+|[^\w\s]")
_LETTERS_A_TOKEN = 4


class OpenAIEmbedder:
    """A model behind an OpenAI-compatible endpoint. Thread-safe.

    Args:
        model: Its name at the endpoint.
        base_url: Address, such as http://host/v1. It comes from the product's owner, so any address is allowed.
        api_key: The key; "" sends a placeholder, for endpoints without one.
        dimension: Numbers in a vector: asked for and checked. None takes what the model gives, learned from the first
            answer: reading `dimension` or `digest` before sends a request.
        client: An `openai.OpenAI`; None makes one that waits 60 s and tries a failed request three times more.
        max_tokens: What the model reads of a text at most.

    Raises:
        MissingExtra: openai is not installed.
    """

    def __init__(
        self,
        model: str,
        base_url: str,
        api_key: str,
        dimension: int | None = None,
        client: Any = None,
        *,
        max_tokens: int = 8191,
    ) -> None:
        self.name = model
        self.max_tokens = max_tokens
        self._base_url = base_url.rstrip("/")
        self._asked = dimension
        self._client = client or _client(self._base_url, api_key)

    @cached_property
    def dimension(self) -> int:
        """Numbers in a vector."""
        return self._asked or int(self._request(["dimension"], None).shape[1])

    @property
    def digest(self) -> str:
        """sha256 over address, model and dimension.

        It cannot see other weights put behind the same name: an endpoint does not say what it runs. Give the model a
        name with a version where the endpoint has one.
        """
        return digest_json({"base_url": self._base_url, "model": self.name, "dimension": self.dimension})

    def embed_documents(self, texts: Sequence[str], on_progress: Progress | None = None) -> Vectors:
        """One vector a text, float32 [n, dimension], in the order given. Progress is told after every batch.

        Raises:
            Unavailable: The endpoint does not answer, refuses the key or gives no vectors.
            InvalidInput: It refuses a text, or its vectors have another dimension.
        """
        vectors = np.empty((len(texts), self.dimension), np.float32)
        done = 0
        batches = list(slices(texts, BATCH_TEXTS, BATCH_CHARS))
        pool = ThreadPoolExecutor(PARALLEL, thread_name_prefix="embed")
        try:
            answers = pool.map(lambda batch: self._request(batch[1], self.dimension), batches)
            for (start, batch), answer in zip(batches, answers, strict=True):
                vectors[start : start + len(batch)] = answer
                done += len(batch)
                if on_progress:
                    on_progress(done, len(texts))
        finally:
            # After an error, the requests that have not begun are not sent.
            pool.shutdown(cancel_futures=True)
        return vectors

    def embed_query(self, text: str) -> Vectors:
        """The vector of a question, float32 [dimension]; errors as embed_documents."""
        vector: Vectors = self._request([text], self.dimension)[0]
        return vector

    def count_tokens(self, text: str) -> int:
        """About how many tokens: one for every four letters of a word, begun or full, and for every sign.

        An endpoint does not show its tokenizer; this is rather too many than too few for English.
        """
        return sum(-(-len(part) // _LETTERS_A_TOKEN) for part in _WORD_OR_SIGN.findall(text))

    def _request(self, texts: Sequence[str], dimension: int | None) -> Vectors:
        """Vectors of length 1. An empty text goes as a space: most endpoints refuse it."""
        parameters: dict[str, Any] = {"dimensions": self._asked} if self._asked else {}
        with self._errors():
            answer = self._client.embeddings.create(
                model=self.name,
                input=[well_formed(text).replace("\0", " ") or " " for text in texts],
                encoding_format="float",
                **parameters,
            )
            data = sorted(answer.data, key=lambda one: one.index)
            vectors = np.array([one.embedding for one in data], np.float32)
        if vectors.ndim != 2 or len(vectors) != len(texts) or not vectors.size:
            raise self._unavailable(f"it gave {len(data)} vectors for {len(texts)} texts")
        if dimension and vectors.shape[1] != dimension:
            raise InvalidInput(
                f"the model {self.name!r} gives vectors of {vectors.shape[1]} numbers, not {dimension}",
                where=self._base_url,
                hint="set `dimension` to what the model gives",
            )
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not (np.isfinite(lengths) & (lengths > 0)).all():
            raise self._unavailable("it gave a vector that has no direction")
        unit: Vectors = vectors / lengths
        return unit

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """The SDK's errors as ours. What the endpoint wrote is not passed on: it may repeat the text, or the key."""
        import openai

        try:
            yield
        except openai.APITimeoutError:
            raise self._unavailable("no answer in time") from None
        except openai.APIStatusError as error:
            raise self._refused(error.status_code) from None
        except openai.APIConnectionError as error:
            raise self._unavailable(f"the connection failed ({type(error.__cause__ or error).__name__})") from None
        except (openai.APIError, ValueError, TypeError, AttributeError):
            raise self._unavailable("it does not answer as an OpenAI-compatible endpoint does") from None

    def _refused(self, status: int) -> PlinthError:
        if status in (401, 403):
            return self._unavailable(f"it does not accept the key ({status})", "check the variable of `api_key_env`")
        if status == 404:
            return self._unavailable("it does not know the path or the model (404)")
        if 400 <= status < 500 and status not in (408, 409, 425, 429):
            return InvalidInput(
                f"the embedding endpoint refuses the request ({status})",
                where=self._base_url,
                hint="shorter chunks, or no `dimension`; its log says more",
            )
        return self._unavailable(f"it answers {status}")

    def _unavailable(self, what: str, hint: str = "check the endpoint; its log says more") -> Unavailable:
        return Unavailable(f"the embedding model {self.name!r}: {what}", where=self._base_url, hint=hint)


def _client(base_url: str, api_key: str) -> Any:
    try:
        from openai import DefaultHttpxClient, OpenAI
    except ImportError as error:
        raise MissingExtra("openai", "generation") from error
    return OpenAI(
        base_url=base_url,
        api_key=api_key or "none",
        timeout=TIMEOUT,
        max_retries=RETRIES,
        http_client=DefaultHttpxClient(follow_redirects=False, timeout=TIMEOUT, trust_env=not is_own_machine(base_url)),
    )
