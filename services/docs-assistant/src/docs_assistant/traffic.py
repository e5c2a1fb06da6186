"""Requests to drill and to roll out with: golden questions that thresholds may be chosen on, asked by many people."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from plinth.assistants.golden import load_golden
from plinth.errors import NotFound

if TYPE_CHECKING:
    from plinth.wiring import Platform

PRODUCT = "docs-assistant"


def requests(platform: Platform) -> Iterator[dict[str, Any]]:
    """Bodies for `POST /ask`, without an end. Each is somebody else's, so the split of a rollout holds.

    Raises:
        NotFound: The golden set has no answerable question of the split `dev`.
    """
    product = platform.products.get(PRODUCT)
    path = product.folder / product.spec.answers().golden
    asked = [golden for golden in load_golden(path) if golden.split == "dev" and golden.kind == "answerable"]
    if not asked:
        raise NotFound("no answerable question of the split dev", where=str(path), hint="add some")
    for number, golden in enumerate(itertools.cycle(asked)):
        yield {"question": golden.question, "user": f"traffic-{number}"}
