"""Objects in an S3 bucket, by obstore: every call bounded in time, every error translated, no secret in any of them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from plinth.errors import InvalidInput, MissingExtra, NotFound, Unavailable

if TYPE_CHECKING:
    from obstore.store import S3Store
    from pydantic import SecretStr

CONNECT_SECONDS = 2.0
SILENCE_SECONDS = 5.0
"""A server that says nothing for so long hangs. Parts of an upload have to get through in it, too: hence `PART`."""
REQUEST_SECONDS = 300.0
"""One request as a whole, such as the download of a large model."""
RETRY_SECONDS = 8.0
"""After which no request is tried again; with `SILENCE_SECONDS` the longest that one call of a dead server takes."""
RETRIES = 2
PART = 5 << 20
"""Bytes of an upload's parts, the least that S3 takes; what is smaller is one request."""

_used_by: int | None = None
"""The process whose threads do the requests: a fork has none of them, and would wait for ever."""


@dataclass(frozen=True, slots=True)
class Meta:
    """An object as its bucket lists it.

    Attributes:
        key: Its name below the bucket's prefix.
        size: Bytes.
        at: When it was written last, seconds since 1970 by the server's clock; whole seconds.
        etag: Its md5 where it was uploaded in one request and the server does not encrypt; else what the server likes.
    """

    key: str
    size: int
    at: float
    etag: str


class Objects:
    """The objects of one bucket, or of a prefix of it. Methods raise Unavailable as the class says.

    Args:
        url: `s3://bucket` or `s3://bucket/prefix`.
        endpoint: The server's address; "" is AWS, by the environment's region.
        key: Access key.
        secret: Its secret.

    Raises:
        InvalidInput: The url or the endpoint is none.
    """

    def __init__(self, url: str, endpoint: str, key: str, secret: SecretStr) -> None:
        parts = urlsplit(url)
        if parts.scheme != "s3" or not parts.netloc or parts.query or parts.fragment or "@" in parts.netloc:
            raise InvalidInput(
                "the object store's address is no bucket", where="PLINTH_OBJECT_STORE", hint="such as s3://plinth"
            )
        server = urlsplit(endpoint)
        if endpoint and (server.scheme not in {"http", "https"} or not server.hostname or "@" in server.netloc):
            raise InvalidInput(
                "the object store's endpoint is no address", where="PLINTH_OBJECT_ENDPOINT",
                hint="such as http://127.0.0.1:8333",
            )  # fmt: skip
        self.bucket, self.prefix = parts.netloc, parts.path.strip("/")
        self._endpoint, self._key, self._secret = endpoint, key, secret

    def __repr__(self) -> str:
        return f"Objects({self.where()!r})"

    def where(self, key: str = "") -> str:
        """An object's place, for people."""
        return "s3://" + "/".join(part for part in (self.bucket, self.prefix, key) if part)

    def head(self, key: str) -> Meta | None:
        """What is known of an object; None when there is none."""
        with self._translated(key) as tool:
            try:
                return _meta(tool.head(self._store, key))
            except FileNotFoundError:
                return None

    def put(self, key: str, content: bytes | Path) -> None:
        """Write an object, whole or not at all, over what may be there."""
        size = content.stat().st_size if isinstance(content, Path) else len(content)
        with self._translated(key) as tool:
            tool.put(self._store, key, content, use_multipart=size > PART, chunk_size=PART, max_concurrency=4)

    def create(self, key: str, content: bytes) -> bool:
        """Write an object unless there is one. Returns whether it was written."""
        with self._translated(key) as tool:
            try:
                tool.put(self._store, key, content, mode="create", use_multipart=False)
            except tool.exceptions.AlreadyExistsError:
                return False
        return True

    def get(self, key: str) -> Iterator[bytes]:
        """An object's content, in pieces.

        Raises:
            NotFound: There is none.
        """
        with self._translated(key) as tool:
            try:
                found = tool.get(self._store, key)
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    raise
                raise NotFound("there is no such object", where=self.where(key)) from None
            for piece in found.stream(PART):
                yield bytes(piece)

    def read(self, key: str) -> bytes:
        """A small object's content. Raises as `get`."""
        return b"".join(self.get(key))

    def delete(self, key: str) -> None:
        """Delete an object; nothing when there is none."""
        with self._translated(key) as tool:
            tool.delete(self._store, key)

    def copy(self, key: str, to: str) -> None:
        """Copy an object, inside the server."""
        with self._translated(key) as tool:
            tool.copy(self._store, key, to)

    def list(self, folder: str) -> Iterator[Meta]:
        """The objects below a folder, by name."""
        with self._translated(folder) as tool:
            for page in tool.list(self._store, folder, chunk_size=1000):
                for one in page:
                    yield _meta(one)

    @cached_property
    def _store(self) -> S3Store:
        from obstore.store import S3Store

        options: dict[str, Any] = {"skip_signature": False}
        if self._key:  # by a function: what AWS_* in the environment says of a session would be mixed with the key
            options["credential_provider"] = self._credentials
        client: dict[str, Any] = {
            "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
            "read_timeout": timedelta(seconds=SILENCE_SECONDS),
            "timeout": timedelta(seconds=REQUEST_SECONDS),
        }
        if self._endpoint:
            host = urlsplit(self._endpoint).hostname
            options |= {"endpoint": self._endpoint.rstrip("/"), "region": "us-east-1"}  # a server's own has no regions
            # The profile's own server is not behind the environment's proxy, and there is no switch for that alone.
            client |= {"allow_http": True, "proxy_url": "http://127.0.0.1:9", "proxy_excludes": host}
        return S3Store(
            self.bucket,
            prefix=self.prefix or None,
            virtual_hosted_style_request=False,
            client_options=client,  # type: ignore[arg-type]
            retry_config={
                "max_retries": RETRIES,
                "retry_timeout": timedelta(seconds=RETRY_SECONDS),
                "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=1), "base": 2},
            },
            **options,
        )

    def _credentials(self) -> dict[str, Any]:
        secret = self._secret.get_secret_value()
        return {"access_key_id": self._key, "secret_access_key": secret, "token": None, "expires_at": None}

    @contextmanager
    def _translated(self, key: str) -> Iterator[Any]:
        """The tool, its errors as ours. Theirs quote the server, which quotes the request: none is passed on."""
        global _used_by
        if _used_by not in {None, os.getpid()}:
            raise Unavailable(
                "this process was forked from one that had used the object store", where=self.where(key),
                hint="start it as a process of its own (spawn)",
            )  # fmt: skip
        try:
            import obstore
        except ModuleNotFoundError:
            raise MissingExtra("obstore", "servers") from None
        _used_by = os.getpid()
        try:
            yield obstore
        except (obstore.exceptions.BaseError, FileNotFoundError, ValueError) as error:
            what, hint = _reason(str(error))
            address = f" at {self._endpoint}" if self._endpoint else ""
            raise Unavailable(f"the object store{address} {what}", where=self.where(key), hint=hint) from None


def _meta(found: Any) -> Meta:
    return Meta(found["path"], found["size"], found["last_modified"].timestamp(), (found["e_tag"] or "").strip('"'))


def _reason(text: str) -> tuple[str, str]:
    """What a message of the tool says, in our words, and what to do."""
    if "NoSuchBucket" in text:
        return "has no such bucket", "make it, or see PLINTH_OBJECT_STORE"
    status = re.search(r"status code: (\d{3})|status: (\d{3})", text)
    code = int(status[1] or status[2]) if status else 0
    if code in {401, 403}:
        return (
            f"refuses the access key ({code})",
            "see PLINTH_OBJECT_KEY and PLINTH_OBJECT_SECRET (in .env), and that the key may use the bucket",
        )
    again = "`plinth status` tells whether it runs; what this machine holds already goes on serving"
    if code:
        return f"answers {code}", again
    if "kind: Timeout" in text:
        return "does not answer", again
    return "cannot be reached", again
