"""A real HTTP server on 127.0.0.1 that speaks as an OpenAI-compatible endpoint does, well or badly, as it is told."""

import hashlib
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Reply:
    """What the server does with one request to /v1/chat/completions or /v1/embeddings.

    Attributes:
        pieces: The text, in the pieces it is streamed in.
        status: HTTP status; from 300 on the body is an error with the text of `pieces`.
        wait: Seconds before anything is sent.
        between: Seconds before each piece.
        usage: Tokens as (prompt, completion); None leaves them out, as some endpoints do.
        done: Whether `data: [DONE]` ends the stream; some endpoints just end it.
        cut: Close the connection after so many pieces, in the middle of the stream.
        hang: After so many pieces send nothing more, and keep the connection open.
        finish: The reason at the end, such as "stop" or "length"; None leaves it out.
        extra: Lines sent before the pieces, as they are (such as an event without choices, or what is no JSON).
        headers: Beside the usual ones, such as {"Retry-After": "0"}.
    """

    pieces: Sequence[str] = ("Yes", " [1].")
    status: int = 200
    wait: float = 0.0
    between: float = 0.0
    usage: tuple[int, int] | None = (11, 5)
    done: bool = True
    cut: int | None = None
    hang: int | None = None
    finish: str | None = "stop"
    extra: Sequence[str] = ()
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """A request that came in."""

    path: str
    headers: dict[str, str]
    body: dict


class OpenAIServer:
    """The server; use it as a context manager.

    `script(...)` says what becomes of the next requests, in order; the last reply serves whatever comes after.
    `asked` holds every request, `left` counts clients that went away in the middle of a stream.
    """

    def __init__(self, *replies, dimension=8):
        self.asked: list[Asked] = []
        self.left = 0
        self.dimension = dimension
        self.over = threading.Event()
        self._lock = threading.Lock()
        self._replies = list(replies) or [Reply()]
        outer = self

        class Handler(_Handler):
            owner = outer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self):
        """The `base_url` of a client."""
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def script(self, *replies):
        """What becomes of the next requests."""
        with self._lock:
            self._replies = list(replies)

    def next_reply(self, asked):
        """The reply to a request that came in."""
        with self._lock:
            self.asked.append(asked)
            return self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: OpenAIServer

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        reply = self.owner.next_reply(Asked(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        try:
            if self._over(reply.wait):
                return
            if reply.status >= 300:
                self._json(reply, {"error": {"message": "".join(reply.pieces), "type": "error", "code": None}})
            elif self.path.endswith("/embeddings"):
                self._json(reply, self._embeddings(body))
            elif self.path.endswith("/chat/completions"):
                self._stream(reply, body) if body.get("stream") else self._json(reply, _completion(reply, body))
            else:
                self._json(Reply(status=404), {"error": {"message": "no such path"}})
        except OSError:
            self.owner.left += 1
            self.close_connection = True

    def _over(self, seconds):
        """Wait; True when the server is being stopped."""
        return seconds > 0 and self.owner.over.wait(seconds)

    def _json(self, reply, value):
        data = json.dumps(value).encode()
        self.send_response(reply.status)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(data)), **reply.headers}
        for name, text in headers.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, reply, body):
        self.send_response(200)
        for name, text in {
            "Content-Type": "text/event-stream",
            "Transfer-Encoding": "chunked",
            **reply.headers,
        }.items():
            self.send_header(name, text)
        self.end_headers()
        for line in reply.extra:
            self._chunk(line)
        self._event(body, {"role": "assistant"})
        for number, piece in enumerate(reply.pieces):
            if reply.hang == number:
                self.owner.over.wait(60)
                return
            if reply.cut == number:
                self.close_connection = True
                self.connection.close()
                return
            if self._over(reply.between):
                return
            self._event(body, {"content": piece})
        if reply.finish:
            self._event(body, {}, finish=reply.finish)
        if reply.usage and body.get("stream_options", {}).get("include_usage"):
            self._data({**_head(body, "chat.completion.chunk"), "choices": [], "usage": _usage(reply.usage)})
        if reply.done:
            self._chunk("data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    def _event(self, body, delta, finish=None):
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        self._data({**_head(body, "chat.completion.chunk"), "choices": [choice]})

    def _data(self, value):
        self._chunk(f"data: {json.dumps(value)}\n\n")

    def _chunk(self, text):
        data = text.encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _embeddings(self, body):
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        size = body.get("dimensions") or self.owner.dimension
        data = [{"object": "embedding", "index": n, "embedding": vector(text, size)} for n, text in enumerate(texts)]
        return {
            "object": "list",
            "model": body["model"],
            "data": data,
            "usage": {"prompt_tokens": 1, "total_tokens": 1},
        }


def vector(text, size):
    """Numbers that depend on the text alone."""
    numbers = hashlib.shake_256(text.encode()).digest(size)
    return [number / 255 + 0.001 for number in numbers]


def _head(body, kind):
    return {"id": "chatcmpl-1", "object": kind, "created": 1, "model": body["model"]}


def _usage(usage):
    return {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}


def _completion(reply, body):
    message = {"role": "assistant", "content": "".join(reply.pieces)}
    choices = [{"index": 0, "message": message, "finish_reason": reply.finish}]
    answer = {**_head(body, "chat.completion"), "choices": choices}
    return {**answer, "usage": _usage(reply.usage)} if reply.usage else answer
