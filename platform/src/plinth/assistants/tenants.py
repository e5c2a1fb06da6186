"""Tenants: whose key asks decides what may be read. Keys are kept as sha256 only.

`<state>/products/<product>/tenants.json`: `{"tenants": [{"name", "key_sha256", "labels"}]}`, readable by its owner
only. A request without a key, or with the key "public", is of the tenant `public`. The key of the freshness probes lies
beside it in `probe.key`; nobody is given it.
"""

from __future__ import annotations

import hmac
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from plinth.assistants.records import write_file, write_json
from plinth.core.assistants import Label, Name, Sha256
from plinth.core.corpus import PROBE_TENANT, SHARED_TENANT, Scope
from plinth.core.digests import digest_bytes
from plinth.errors import Conflict, Corrupt, InvalidInput, NotFound, Unavailable
from plinth.pipelines.slots import slot

HEADER = "X-Plinth-Key"
"""The header of a request that has the key."""

FILE = "tenants.json"
PROBE_KEY = "probe.key"
PUBLIC_KEY = "public"
MAX_KEY = 200
"""Characters of a key that are looked at; ours have 50."""


class Tenant(BaseModel):
    """A tenant, and the labels that whoever holds its key has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    key_sha256: Sha256
    labels: tuple[Label, ...] = ()


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks."""

    tenant: str = SHARED_TENANT
    labels: frozenset[str] = frozenset()

    def scope(self, since: float | None = None, until: float | None = None) -> Scope:
        """What may be read for it."""
        return Scope(self.tenant, self.labels, since, until)


class Door:
    """Tells who asks by the key, for a running service: changes of the file count at once. Thread-safe.

    Args:
        folder: The product's state folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._stamp: tuple[Any, ...] = ()
        self._tenants: tuple[Tenant, ...] = ()

    def caller(self, key: str) -> Caller | None:
        """Who holds this key; None if nobody does.

        Raises:
            Unavailable: The tenants cannot be read now: then nobody's key counts.
        """
        if key in ("", PUBLIC_KEY):
            return Caller()
        digest = digest_bytes(key[:MAX_KEY].encode("utf-8", "surrogatepass"))
        found = None
        for tenant in self._known():  # every one is compared: the time taken tells nothing
            if hmac.compare_digest(tenant.key_sha256, digest) and len(key) <= MAX_KEY:
                found = Caller(tenant.name, frozenset(tenant.labels))
        return found

    def _known(self) -> tuple[Tenant, ...]:
        stamp = tuple(_stamp(self._folder / name) for name in (FILE, PROBE_KEY))
        with self._lock:
            if stamp != self._stamp:
                try:
                    self._tenants = (*tenants(self._folder), *_probe(self._folder))
                except Corrupt as error:
                    raise Unavailable(error.what, where=error.where, hint=error.hint) from error
                self._stamp = stamp
            return self._tenants


def tenants(folder: Path) -> list[Tenant]:
    """The tenants of a product, as they were added.

    Raises:
        Corrupt: The file is not what it should be.
    """
    try:
        return TypeAdapter(dict[str, list[Tenant]]).validate_json((folder / FILE).read_bytes())["tenants"]
    except FileNotFoundError:
        return []
    except (OSError, ValidationError, KeyError) as error:
        raise Corrupt(
            "the tenants cannot be read", where=str(folder / FILE), hint="restore the file; nobody's key counts so far"
        ) from error


def add(folder: Path, name: str, labels: Sequence[str] = ()) -> str:
    """Add a tenant. Returns its key, which is kept nowhere.

    Raises:
        InvalidInput: The name or a label does not fit.
        Conflict: There is a tenant of that name.
        Unavailable: The file cannot be written.
    """
    key = f"plinth_{secrets.token_urlsafe(32)}"
    try:
        tenant = Tenant(name=name, key_sha256=digest_bytes(key.encode()), labels=tuple(dict.fromkeys(labels)))
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidInput(
            f"{first['input']!r} does not fit: {first['msg']}",
            where=f"tenant {first['loc'][0]}",
            hint="small letters, digits and hyphens, at most 50 of them",
        ) from None
    with _changing(folder) as known:
        if name in (SHARED_TENANT, PROBE_TENANT) or any(one.name == name for one in known):
            raise Conflict(
                f"there is a tenant {name!r}", where=str(folder), hint="`plinth tenant list PRODUCT` names them"
            )
        known.append(tenant)
    return key


def remove(folder: Path, name: str) -> None:
    """Forget a tenant and its key. What it has in index builds is removed elsewhere (`plinth tenant delete`).

    Raises:
        NotFound: There is none of that name.
        Unavailable: The file cannot be written.
    """
    with _changing(folder) as known:
        kept = [tenant for tenant in known if tenant.name != name]
        if len(kept) == len(known):
            raise NotFound(f"no tenant {name!r}", where=str(folder), hint="`plinth tenant list PRODUCT` names them")
        known[:] = kept


def probe_key(folder: Path) -> str:
    """The key of the freshness probes; made when there is none.

    Raises:
        Unavailable: It cannot be written.
    """
    path = folder / PROBE_KEY
    with _locked(folder):
        if key := _read_key(path):
            return key
        key = f"probe_{secrets.token_urlsafe(32)}"
        write_file(path, key.encode(), mode=0o600)
        return key


@contextmanager
def _changing(folder: Path) -> Iterator[list[Tenant]]:
    """The tenants as a list, written back when the block ends well; one process at a time."""
    with _locked(folder):
        known = tenants(folder)
        yield known
        write_json(folder / FILE, {"tenants": [tenant.model_dump(mode="json") for tenant in known]}, mode=0o600)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with slot(folder / ".tenants", limit=1, wait=10):
        yield


def _probe(folder: Path) -> list[Tenant]:
    key = _read_key(folder / PROBE_KEY)
    return [Tenant(name=PROBE_TENANT, key_sha256=digest_bytes(key.encode()))] if key else []


def _read_key(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino
