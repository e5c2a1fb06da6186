"""A backend in memory that is pushed to, for tests, with the contract that a gateway's would have to keep."""

from __future__ import annotations

from collections.abc import Sequence

from plinth.core.routes import Route
from plinth.errors import Conflict, Unavailable
from plinth.serving.port import Observation


class MemoryBackend:
    """Applies routes at once. `down` makes it as unreachable as a service that is not running."""

    def __init__(self) -> None:
        self.routes: dict[str, Route] = {}
        self.down = False

    def apply(self, product: str, route: Route) -> None:
        """As Backend.apply."""
        if self.down:
            raise Unavailable("the backend is down", where=product)
        known = self.routes.get(product)
        if known is not None and known.order > route.order:
            raise Conflict(f"route {known.order} is newer than {route.order}", where=product)
        self.routes[product] = route

    def observe(self, product: str) -> Sequence[Observation]:
        """As Backend.observe."""
        if self.down:
            return [Observation(f"memory:{product}", None, problem="does not answer")]
        route = self.routes.get(product)
        return [Observation(f"memory:{product}", route, () if route is None else route.releases)]
