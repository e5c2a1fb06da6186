"""Parses hostile files in processes of their own, with limits of memory, time and output.

A process is kept for the next file, so that a thousand small ones stay quick; one that dies or takes too long is ended
and another takes its place. It shares this user's rights: the limits contain a crash or a bomb, not an attacker who
already runs code in it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

from plinth.core.corpus import Block
from plinth.errors import InvalidInput, MissingExtra, RefusedByPolicy, Unavailable
from plinth.ingestion.child import LENGTH
from plinth.ingestion.kinds import MODULES
from plinth.ingestion.limits import MAX_MEMORY_BYTES, MAX_SECONDS, MAX_TEXT_CHARS, TooLarge
from plinth.ingestion.port import Parsed

_FILES_A_PROCESS = 500  # then another takes its place: libraries leak
_ENVIRONMENT = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "SYSTEMROOT")  # and no keys
_ERRORS = {"TooLarge": TooLarge, "RefusedByPolicy": RefusedByPolicy, "InvalidInput": InvalidInput}


class Sandbox:
    """Every parser behind one: reads all kinds of files. Thread-safe; as many processes as threads ask at once.

    Args:
        memory: Bytes of address space of a process.
        seconds: How long a file may take.
        max_reply: Bytes of a reply at most.
    """

    suffixes = tuple(MODULES)

    def __init__(
        self, *, memory: int = MAX_MEMORY_BYTES, seconds: float = MAX_SECONDS, max_reply: int = 8 * MAX_TEXT_CHARS
    ) -> None:
        self._memory = memory
        self._seconds = seconds
        self._max_reply = max_reply
        self._idle: list[_Process] = []
        self._lock = threading.Lock()
        self._finalizer = weakref.finalize(self, _end, self._idle)

    def parse(self, data: bytes, path: str) -> Parsed:
        """Read one file; see the port.

        Raises:
            Unavailable: No process can be started.
        """
        suffix = os.path.splitext(path)[1].lower()
        if suffix not in MODULES:
            raise InvalidInput(f"no parser reads {suffix or 'a file without a suffix'}", where=path)
        with self._process() as process:
            reply = process.ask({"path": path, "suffix": suffix}, data, self._seconds, self._max_reply)
        if "missing" in reply:
            raise MissingExtra(str(reply["missing"]), str(reply["extra"]))
        if "error" in reply:
            error = _ERRORS.get(str(reply["error"]), InvalidInput)
            raise error(str(reply["what"]), where=path, hint=str(reply.get("hint", "")))
        return Parsed(
            str(reply["title"]),
            tuple(Block(str(text), tuple(headings), str(kind)) for text, headings, kind in reply["blocks"]),
        )

    def close(self) -> None:
        """End the processes. It can be used again."""
        with self._lock:
            _end(self._idle)

    @contextmanager
    def _process(self) -> Iterator[_Process]:
        with self._lock:
            process = self._idle.pop() if self._idle else None
        process = process or _Process(self._memory)
        try:
            yield process
        except BaseException:
            process.end()
            raise
        if process.files < _FILES_A_PROCESS:
            with self._lock:
                self._idle.append(process)
        else:
            process.end()


class _Process:
    def __init__(self, memory: int) -> None:
        self.files = 0
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "plinth.ingestion.child", str(memory)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment,
            )  # fmt: skip
        except OSError as error:
            raise Unavailable(
                f"no process to parse in can be started: {error.strerror}", where="plinth.ingestion.child"
            ) from error

    def ask(self, request: dict[str, str], data: bytes, seconds: float, max_reply: int) -> dict[str, Any]:
        """The reply to a request.

        Raises:
            TooLarge: It takes too long, or the reply is too long.
            InvalidInput: The process died of it.
        """
        self.files += 1
        late = threading.Event()

        def end() -> None:
            late.set()
            self._process.kill()

        # Whatever the process does not do (read, answer), its end makes the pipes return.
        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            return self._exchange(json.dumps(request).encode(), data, max_reply)
        except (EOFError, BrokenPipeError, ValueError):
            if late.is_set():
                raise TooLarge(f"reading it takes longer than {seconds:g} s", where=request["path"]) from None
            raise InvalidInput("the parser crashed on it", where=request["path"]) from None
        finally:
            timer.cancel()

    def _exchange(self, request: bytes, data: bytes, max_reply: int) -> dict[str, Any]:
        requests, replies = self._process.stdin, self._process.stdout
        assert requests is not None  # noqa: S101 - Popen was given both pipes
        assert replies is not None  # noqa: S101
        requests.write(LENGTH.pack(len(request)) + request + LENGTH.pack(len(data)))
        requests.write(data)
        requests.flush()
        size = LENGTH.unpack(_exactly(replies, LENGTH.size))[0]
        if size > max_reply:
            raise TooLarge(f"its text takes more than {max_reply >> 20} MiB")
        reply = json.loads(_exactly(replies, size))
        if not isinstance(reply, dict):
            raise ValueError
        return reply

    def end(self) -> None:
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        self._process.wait()


def _exactly(pipe: IO[bytes], size: int) -> bytes:
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError
    return data


def _end(processes: list[_Process]) -> None:
    while processes:
        processes.pop().end()
