"""A model's endpoint that is right and slow, for drills: the offline generator behind OpenAI's protocol, and a pause.

It listens on this machine while the drill lasts. A release that asks it is slow in the way releases become slow: what
it depends on is.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from plinth.generation.extractive import ExtractiveGenerator
from plinth.generation.port import Message

SLOW_SECONDS = 0.75
MAX_BODY = 10_000_000


class SlowEndpoint:
    """Serves `POST /v1/chat/completions`, as a stream, within a `with` block.

    Args:
        pause: Seconds before each answer.
    """

    def __init__(self, pause: float = SLOW_SECONDS) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"  # the end of the answer is the end of the connection

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(min(int(self.headers["Content-Length"]), MAX_BODY)))
                time.sleep(pause)
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                with contextlib.suppress(OSError):  # who asked has gone
                    self.wfile.write(_events(_sentences(body["messages"])))

            def log_message(self, format: str, *args: Any) -> None:
                """Says nothing: the drill's own output tells."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True, name="slow-endpoint")

    def __enter__(self) -> SlowEndpoint:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


def _sentences(messages: list[dict[str, Any]]) -> list[str]:
    return ExtractiveGenerator().sentences([Message(message["role"], str(message["content"])) for message in messages])


def _events(sentences: list[str]) -> bytes:
    """OpenAI's stream of chunks: each sentence, the end, and what ends every stream."""
    deltas: list[tuple[dict[str, str], str | None]] = [({"content": f"{text}\n\n"}, None) for text in sentences]
    chunks = [
        {
            "id": "drill", "object": "chat.completion.chunk", "created": 0, "model": "drill",
            "choices": [{"index": 0, "delta": delta, "finish_reason": reason}],
        }
        for delta, reason in [*deltas, ({}, "stop")]
    ]  # fmt: skip
    return b"".join(b"data: %s\n\n" % json.dumps(chunk).encode() for chunk in chunks) + b"data: [DONE]\n\n"
