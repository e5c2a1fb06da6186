"""What the Prefect server counts of the products' runs, by its HTTP API: its SDK would cost the controller 150 MiB."""

from __future__ import annotations

import http.client
import json
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

from pydantic import SecretStr

from plinth.core.basic_auth import credentials
from plinth.core.products import Product
from plinth.errors import Unavailable
from plinth.telemetry import metrics
from plinth.telemetry.prometheus import Reading

TIMEOUT = 3.0
ENDS = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
AT_WORK = ("RUNNING", "CANCELLING")


class PrefectReadings:
    """Counts of flow runs, by the name of their flow: `PRODUCT.PIPELINE` (runtime/prefect.py).

    Args:
        api_url: Address of the server's API.
        auth: Its user:password; empty is none.
        products: The manifests that can be read now.
    """

    def __init__(self, api_url: str, auth: SecretStr, products: Callable[[], list[Product]]) -> None:
        self._url = urllib.parse.urlsplit(api_url)
        self._headers = {"Content-Type": "application/json", **credentials(auth)}
        self._products = products

    def __call__(self) -> Iterator[Reading]:
        """Runs by the state they ended in, at work, and due, of every pipeline.

        Raises:
            Unavailable: The server does not answer, or refuses.
            OSError, http.client.HTTPException: Likewise.
        """
        kind = http.client.HTTPSConnection if self._url.scheme == "https" else http.client.HTTPConnection
        with closing(kind(str(self._url.hostname), self._url.port, timeout=TIMEOUT)) as connection:
            for product in self._products():
                for pipeline in product.pipelines:
                    key = product.name, pipeline.name
                    for state in ENDS:
                        yield metrics.PIPELINE_RUNS, (*key, state.lower()), self._count(connection, key, [state])
                    yield metrics.PIPELINE_RUNNING, key, self._count(connection, key, AT_WORK)
                    # "Late" and "AwaitingConcurrencySlot" are states of this type; what is planned for later is not.
                    due = self._count(connection, key, ["PENDING"])
                    late = self._count(connection, key, ["SCHEDULED"], ["Late", "AwaitingConcurrencySlot"])
                    yield metrics.PIPELINE_QUEUED, key, due + late

    def _count(
        self,
        connection: http.client.HTTPConnection,
        key: tuple[str, str],
        types: list[str] | tuple[str, ...],
        names: list[str] | None = None,
    ) -> int:
        state: dict[str, Any] = {"type": {"any_": list(types)}}
        if names:
            state["name"] = {"any_": names}
        body = {"flows": {"name": {"any_": [".".join(key)]}}, "flow_runs": {"state": state}}
        connection.request("POST", f"{self._url.path}/flow_runs/count", json.dumps(body), self._headers)
        answer = connection.getresponse()
        said = answer.read(100_000)
        if answer.status != 200:
            raise Unavailable(f"the Prefect server answered {answer.status}", where=self._url.geturl())
        return int(json.loads(said))
