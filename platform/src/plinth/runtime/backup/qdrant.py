"""Qdrant: a snapshot of each collection, by the server's own API, and the aliases beside."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from plinth.errors import Corrupt, Unavailable

ALIASES = "aliases.json"
SECONDS = 600.0


class QdrantPart:
    """The collections of index builds, and which alias names which.

    Args:
        url: The server's address.
        key: Its API key.
    """

    name = "qdrant"

    def __init__(self, url: str, key: str) -> None:
        self._url = url.rstrip("/")
        self._key = key

    def dump(self, folder: Path) -> int:
        """As Part.dump. The server keeps no copy of its snapshots."""
        with _translated(self._url), self._client() as client:
            names = sorted(one["name"] for one in _result(client.get("/collections"))["collections"])
            aliases = _result(client.get("/aliases"))["aliases"]
            for name in names:
                made = _result(client.post(f"/collections/{name}/snapshots", params={"wait": "true"}))["name"]
                snapshot = f"/collections/{name}/snapshots/{made}"
                with client.stream("GET", snapshot) as answer, (folder / f"{name}.snapshot").open("wb") as file:
                    answer.raise_for_status()
                    for part in answer.iter_bytes():
                        file.write(part)
                _result(client.delete(snapshot, params={"wait": "true"}))
        rows = [{"alias": one["alias_name"], "collection": one["collection_name"]} for one in aliases]
        (folder / ALIASES).write_text(json.dumps(rows, indent=1), encoding="utf-8")
        return len(names)

    def restore(self, folder: Path) -> int:
        """As Part.restore. A snapshot is uploaded, never fetched by the server from an address."""
        try:
            aliases = json.loads((folder / ALIASES).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise Corrupt(f"the aliases cannot be read: {error!r}", where=str(folder / ALIASES)) from error
        files = sorted(folder.glob("*.snapshot"))
        with _translated(self._url), self._client() as client:
            for one in _result(client.get("/collections"))["collections"]:
                _result(client.delete(f"/collections/{one['name']}"))
            for path in files:
                with path.open("rb") as file:
                    _result(
                        client.post(
                            f"/collections/{path.stem}/snapshots/upload",
                            params={"priority": "snapshot", "wait": "true"},
                            files={"snapshot": (path.name, file)},
                        )
                    )
            actions = [
                {"create_alias": {"alias_name": one["alias"], "collection_name": one["collection"]}} for one in aliases
            ]
            if actions:
                _result(client.post("/collections/aliases", json={"actions": actions}))
        return len(files)

    def _client(self) -> Any:
        import httpx

        # trust_env off: a proxy of the environment must see neither the key nor the documents.
        return httpx.Client(base_url=self._url, headers={"api-key": self._key}, timeout=SECONDS, trust_env=False)


@contextlib.contextmanager
def _translated(url: str) -> Iterator[None]:
    import httpx

    try:
        yield
    except httpx.HTTPError as error:  # its text has the address, and not the key
        raise Unavailable(f"Qdrant failed: {error}", where=url, hint="is it running?") from error


def _result(answer: Any) -> Any:
    answer.raise_for_status()
    return answer.json()["result"]
