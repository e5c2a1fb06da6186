"""The process that parses: `python -m plinth.ingestion.child`, started by `plinth.ingestion.sandbox` and ended with it.

It reads requests from standard input and writes replies to standard output, each a length of 8 bytes and as many bytes:
a request is JSON (`path`, `suffix`) and then the file, a reply JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import sys
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from plinth.errors import MissingExtra, PlinthError
from plinth.ingestion.kinds import parser_of
from plinth.ingestion.limits import TooLarge

LENGTH = struct.Struct(">Q")


def main(memory: int) -> None:
    """Serve until standard input ends."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not end up between the replies
    _limit(memory)
    requests = sys.stdin.buffer
    while (head := requests.read(LENGTH.size)) and len(head) == LENGTH.size:
        request = json.loads(requests.read(LENGTH.unpack(head)[0]))
        data = requests.read(LENGTH.unpack(requests.read(LENGTH.size))[0])
        _send(replies, _answer(request["path"], request["suffix"], data))


def _answer(path: str, suffix: str, data: bytes) -> dict[str, Any]:
    try:
        parsed = parser_of(suffix).parse(data, path)
    except MissingExtra as error:
        return {"missing": error.what.split("'")[1], "extra": error.where.split("'")[1]}
    except MemoryError:
        return {"error": "TooLarge", "what": "reading it takes more memory than the limit"}
    except RecursionError:
        return {"error": "TooLarge", "what": "it is nested too deeply"}
    except PlinthError as error:
        kind = "TooLarge" if isinstance(error, TooLarge) else type(error).__name__
        return {"error": kind, "what": error.what, "hint": error.hint}
    except Exception as error:  # noqa: BLE001 - whatever a library throws at a hostile file is the file's fault
        return {"error": "InvalidInput", "what": f"{PurePosixPath(path).suffix or 'it'}: {type(error).__name__}"}
    return {"title": parsed.title, "blocks": [[block.text, block.headings, block.kind] for block in parsed.blocks]}


def _send(replies: BinaryIO, reply: dict[str, Any]) -> None:
    body = json.dumps(reply).encode()
    replies.write(LENGTH.pack(len(body)) + body)
    replies.flush()


def _limit(memory: int) -> None:
    """No more memory than given, no files written, no core dumps. macOS knows no limit of address space."""
    import resource

    for what, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
    ):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(what, (most, most))


if __name__ == "__main__":
    main(int(sys.argv[1]))
