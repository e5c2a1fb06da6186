"""Routes: which release answers which entity. Pure, and the same for every serving backend.

A route is named by (generation, step). Both only grow, so whoever applies a route can refuse an older one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b

FULL = 10_000
"""All traffic, in basis points (hundredths of a percent), the unit of `Route.weight`."""


@dataclass(frozen=True, slots=True)
class Route:
    """How a product's traffic is split.

    Attributes:
        generation: The product's generation in the ledger.
        step: Step of the rollout within the generation; 0 while no rollout has moved traffic.
        serving: Digest of the release that answers what the candidate does not.
        candidate: Digest of the release that is rolled out, or None.
        weight: Share of the entities that the candidate answers, in basis points.
        shadow: Whether the candidate scores the rest as well, off the response path.
    """

    generation: int
    step: int
    serving: str
    candidate: str | None = None
    weight: int = 0
    shadow: bool = False

    @property
    def order(self) -> tuple[int, int]:
        """What decides which of two routes is the newer one."""
        return self.generation, self.step

    @property
    def releases(self) -> tuple[str, ...]:
        """Digests that have to be loaded."""
        return (self.serving,) if self.candidate is None else (self.serving, self.candidate)

    def to_candidate(self, entity_ids: Iterable[str]) -> list[bool]:
        """For each entity, whether the candidate answers it.

        Sticky: within a generation an entity keeps its place, and a growing weight only adds entities to the
        candidate. Another generation shuffles the entities anew.
        """
        key, weight = self.generation.to_bytes(8, "big"), self.weight
        return [_place(entity, key) < weight for entity in entity_ids]


def _place(entity: str, key: bytes) -> int:
    """Place of an entity in [0, FULL); 64 bits of hash make the remainder's bias invisible."""
    digest = blake2b(entity.encode("utf-8", "surrogatepass"), digest_size=8, key=key).digest()
    return int.from_bytes(digest, "big") % FULL
