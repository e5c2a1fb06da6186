"""Any endpoint that speaks OpenAI's chat completions: vLLM, Ollama, llama.cpp, a cloud.

Where it is, `base_url` says: configuration of the product's owner and never of a request, so addresses of this machine
and of private networks are allowed. Redirects are not followed; a proxy of the environment is used, but not to this
machine. `max_tokens` is sent under its old name, which every such server knows; tokens that a reasoning model thinks in
are its endpoint's to limit.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from plinth.core.addresses import is_own_machine
from plinth.core.answers import Usage
from plinth.errors import InvalidInput, MissingExtra, PlinthError, Unavailable
from plinth.generation.budget import cost_of, estimate_prompt, token_weight
from plinth.generation.port import Piece, Request

if TYPE_CHECKING:
    from plinth.core.assistants import Endpoint

_CONNECT_SECONDS = 5.0
_CHARS_A_TOKEN = 16  # far more than any tokenizer's average: beyond it the endpoint ignores max_tokens


class OpenAIGenerator:
    """A model behind an OpenAI-compatible endpoint.

    Args:
        endpoint: Address, model, sampling and prices.
        api_key: The key; "" sends a placeholder, for endpoints without one.
        timeout: Seconds for the whole answer, retries included; also the longest silence.
        retries: How often a request that failed is tried again, with growing pauses; only before the first piece.
    """

    def __init__(self, endpoint: Endpoint, api_key: str, timeout: float, retries: int) -> None:
        self.name = endpoint.model
        self._endpoint = endpoint
        self._api_key = api_key
        self._timeout = timeout
        self._retries = retries
        self._client: tuple[asyncio.AbstractEventLoop, Any] | None = None

    def _connected(self) -> Any:
        """The client with its pool of connections, which belong to one event loop."""
        loop = asyncio.get_running_loop()
        if self._client is None or self._client[0] is not loop:
            try:
                from openai import AsyncOpenAI, DefaultAsyncHttpxClient, Timeout
            except ModuleNotFoundError as error:
                raise MissingExtra(error.name or "openai", "generation") from error
            url = str(self._endpoint.base_url)
            limits = Timeout(self._timeout, connect=min(_CONNECT_SECONDS, self._timeout))
            client = AsyncOpenAI(
                base_url=url,
                api_key=self._api_key or "none",
                max_retries=self._retries,
                timeout=limits,
                http_client=DefaultAsyncHttpxClient(
                    follow_redirects=False, timeout=limits, trust_env=not is_own_machine(url)
                ),
            )
            self._client = (loop, client)
        return self._client[1]

    async def stream(self, request: Request) -> AsyncIterator[Piece]:
        """As Generator.stream. An endpoint that counts no tokens gets them estimated, and the usage says so."""
        deadline = asyncio.get_running_loop().time() + self._timeout
        client = self._connected()
        with self._errors():
            async with asyncio.timeout_at(deadline):
                chunks = await client.chat.completions.create(**self._parameters(request))
        size, generated, finished, usage = 0, 0.0, False, None
        try:
            while True:
                with self._errors():
                    async with asyncio.timeout_at(deadline):
                        chunk = await anext(chunks, None)
                if chunk is None:
                    break
                usage = getattr(chunk, "usage", None) or usage
                for choice in (chunk.choices or ())[:1]:
                    finished = finished or bool(choice.finish_reason)
                    if text := getattr(choice.delta, "content", None) or "":
                        size += len(text)
                        generated += token_weight(text)
                        yield Piece(text)
                if size > request.max_tokens * _CHARS_A_TOKEN:
                    finished = True
                    break
        finally:
            await chunks.close()
        if not finished and usage is None:
            raise self._unavailable("the answer ended in the middle")
        yield Piece("", self._usage(request, usage, math.ceil(generated)), self.name)

    def _parameters(self, request: Request) -> dict[str, Any]:
        parameters: dict[str, Any] = {
            "model": self._endpoint.model,
            "messages": [{"role": message.role, "content": message.content} for message in request.messages],
            "max_tokens": request.max_tokens,
            "temperature": self._endpoint.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self._endpoint.seed is not None:
            parameters["seed"] = self._endpoint.seed
        return parameters

    def _usage(self, request: Request, counted: Any, generated: int) -> Usage:
        prompt = getattr(counted, "prompt_tokens", None)
        completion = getattr(counted, "completion_tokens", None)
        if isinstance(prompt, int) and isinstance(completion, int):
            return Usage(prompt, completion, cost_of(self._endpoint, prompt, completion))
        prompt = estimate_prompt(request.messages)
        return Usage(prompt, generated, cost_of(self._endpoint, prompt, generated), estimated=True)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """The SDK's errors as ours. What the endpoint wrote is not passed on: it may repeat the prompt, or the key."""
        import openai

        try:
            yield
        except (TimeoutError, openai.APITimeoutError):
            raise self._unavailable(f"no answer within {self._timeout:g} s") from None
        except openai.APIStatusError as error:
            raise self._refused(error.status_code, error.code or error.type) from None
        except openai.APIConnectionError as error:
            raise self._unavailable(f"the connection failed ({type(error.__cause__ or error).__name__})") from None
        except openai.APIError as error:
            raise self._unavailable(f"it reports an error while answering{_kind(error.code or error.type)}") from None
        except ValueError:  # an event that is no JSON
            raise self._unavailable("it does not answer as an OpenAI-compatible endpoint does") from None

    def _refused(self, status: int, code: str | None) -> PlinthError:
        variable = self._endpoint.api_key_env
        if status in (401, 403):
            hint = f"check the key in the environment variable {variable}" if variable else "set api_key_env"
            return self._unavailable(f"it does not accept the key ({status})", hint)
        if status == 404:
            return self._unavailable(f"it does not know the path or the model {self.name!r} (404)")
        if 400 <= status < 500 and status not in (408, 409, 425, 429):
            return InvalidInput(
                f"the model's endpoint refuses the request: {status}{_kind(code)}",
                where=str(self._endpoint.base_url),
                hint="fewer or shorter sources, a smaller max_tokens; its log says more",
            )
        return self._unavailable(f"it answers {status}{_kind(code)}")

    def _unavailable(self, what: str, hint: str = "check the endpoint; its log says more") -> Unavailable:
        return Unavailable(f"the model {self.name!r}: {what}", where=str(self._endpoint.base_url), hint=hint)


def _kind(code: Any) -> str:
    """An error's short name, if it has one that is nothing else."""
    return f" ({code})" if isinstance(code, str) and re.fullmatch(r"[\w.-]{1,60}", code) else ""
