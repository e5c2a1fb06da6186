"""What serving needs from its neighbours, and what a product gives it.

Rooms on one floor never import each other, so the feature reader and the telemetry come in through these protocols;
the product's service wires them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from plinth.core.evidence import Arm
from plinth.core.routes import Route

FloatMatrix = NDArray[np.float32]


class FeatureBlock(Protocol):
    """Rows of one online read, defaults filled in."""

    @property
    def values(self) -> NDArray[np.float64]:
        """[n rows, all features of all views in the plan's order]."""

    @property
    def status(self) -> NDArray[np.uint8]:
        """[n rows, views]: 0 fresh, 1 missing, 2 older than its TTL, 3 from the future."""


class FeatureReader(Protocol):
    """Reads features by entity key from the online store."""

    def read(self, keys: dict[str, Sequence[str | None]], at: NDArray[np.int64]) -> FeatureBlock:
        """One row for each request.

        Args:
            keys: Join key to its n values.
            at: The time each prediction is made, seconds since 1970-01-01 UTC, [n].

        Raises:
            Unavailable: The store cannot be read now (locked, missing).
        """


class Scorer(Protocol):
    """A loaded model that takes `features` columns."""

    features: int

    def score(self, matrix: FloatMatrix) -> NDArray[np.float64]:
        """Probabilities [n] of a float32 matrix [n, features]."""

    def stop(self) -> None:
        """End the runs that are going on, from another thread: they raise. Later runs are not touched."""


@dataclass(frozen=True, slots=True)
class Instances:
    """The parsed instances of one request.

    Attributes:
        entity_ids: One id an instance; labels are joined by it.
        at: The time each prediction is made, seconds since 1970-01-01 UTC, [n].
        keys: Join key to its n values.
        rows: The product's own form of the instances, one an instance, handed back to `assemble`.
    """

    entity_ids: Sequence[str]
    at: NDArray[np.int64]
    keys: dict[str, Sequence[str | None]]
    rows: Any


class ServedProduct(Protocol):
    """What a product tells the service: how to read a request and how to make the model's vector."""

    name: str
    entity: str
    max_batch: int

    @property
    def feature_names(self) -> Sequence[str]:
        """Names of the matrix's columns."""

    def parse(self, body: bytes) -> Instances:
        """The instances of a request's body.

        Raises:
            InvalidInput: The body does not fit; `where` names the field.
        """

    def assemble(self, instances: Instances, values: NDArray[np.float64]) -> FloatMatrix:
        """The model's matrix [n, features] from view values and what the request itself carries."""

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI description of the product's request and answer: `request`, `answer` schemas and `examples`."""


class ReleaseSource(Protocol):
    """Where releases come from."""

    def current(self) -> Route | None:
        """How traffic is to be split now, or None while nothing was promoted. Called every half second: cheap.

        Raises:
            Unavailable: The ledger cannot be reached.
        """

    def artifacts(self, digest: str) -> Mapping[str, tuple[Path, str]]:
        """File name in the bundle to its path and sha256.

        Raises:
            NotFound, Corrupt: The release or one of its artefacts is missing or damaged.
        """


@dataclass(frozen=True, slots=True)
class Observation:
    """What one running copy of a product's service says it does.

    Attributes:
        where: Its address.
        route: The route it applies, None while it serves nothing.
        loaded: Digests of the releases it holds in memory.
        problem: Why it does not apply what the ledger wants, or why it does not answer; "" when it is well.
        instance: Which process it is; another one after a restart. "" where the backend does not tell.
    """

    where: str
    route: Route | None
    loaded: tuple[str, ...] = ()
    problem: str = ""
    instance: str = ""


class Backend(Protocol):
    """What a route is applied on: the product's own services, KServe, a gateway."""

    def apply(self, product: str, route: Route) -> None:
        """Make the product's traffic follow the route. Idempotent by `route.order`; an older route is refused.

        Raises:
            Conflict: A newer route is applied.
            Unavailable: The backend cannot be reached.
        """

    def observe(self, product: str) -> Sequence[Observation]:
        """What every running copy of the product's service says. Never raises for a copy that does not answer."""


class Observer(Protocol):
    """Where the service reports to. Every call is on the request path: cheap, and never raises."""

    def request(
        self,
        *,
        path: str,
        code: int,
        seconds: float,
        rows: int,
        request_id: str,
        release: str,
        traceparent: str,
        marks: Sequence[tuple[str, int]],
        trace_id: str = "",
        caller: str = "",
    ) -> None:
        """A request was answered; called after the answer was sent.

        Args:
            path: One of the service's own paths, or "other".
            code: HTTP status.
            seconds: From its headers to its answer.
            rows: Instances scored; 0 unless it was a prediction.
            request_id: Its id.
            release: Digest of the release that answered, or "".
            traceparent: The caller's W3C trace context, or "".
            marks: When each step of a prediction ended: ("start", ns), ("parse", ns), ... in ns since 1970.
            trace_id: What `sample` said of it.
            caller: Who called, by the token; "" where none is asked for.
        """

    def sample(self, traceparent: str) -> str:
        """The id of the trace that a request is to have, 32 hexadecimal characters; "" where it is not to be traced.

        Args:
            traceparent: The caller's W3C trace context, or "".
        """

    def denied(self, reason: str) -> None:
        """A request was refused before it was read, by why: one of a few words, never what was sent."""

    def predicted(self, *, release: str, defaulted: Mapping[str, int]) -> None:
        """Rows of a prediction that a view had no fresh value for, by view."""

    def arm(
        self,
        *,
        route: Route,
        arm: Arm,
        release: str,
        failed: bool,
        seconds: float,
        scores: NDArray[np.float64],
        defaulted: int,
    ) -> None:
        """One arm of a rollout did its share of a request. Called only while the route names a candidate, once a
        request and arm; for the arm "shadow" from another thread than the rest, so it has to be thread-safe.

        Args:
            route: The route the request was answered under.
            arm: Who scored.
            release: Digest of the release that scored.
            failed: Whether the request failed because of it (status 500 and above).
            seconds: Service time: reading features, scoring and (except for a shadow) making the answer.
            scores: Probabilities [n]; empty when it failed.
            defaulted: Rows that some view had no fresh value for.
        """

    def event(self, name: str, level: int, **fields: Any) -> None:
        """Something worth a log line happened outside a request: a release was taken over, or refused."""

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The metrics and their content type: Prometheus's text format, or what the `Accept` header asks for."""
