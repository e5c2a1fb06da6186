"""Releases of assistants that misbehave, for drills: a good configuration made bad, out of what any release may hold.

Nothing in the service knows of a drill. The index really gives the wrong chunks, the generator really is not there.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from plinth.assistants.builds import alone
from plinth.core.assistants import AssistantConfig, Endpoint, Generator, IndexRef
from plinth.core.digests import digest_json
from plinth.errors import InvalidInput
from plinth.retrieval.port import Point, VectorStore

AssistantFault = Literal["latency", "errors", "bad-index", "missing-metrics"]
ASSISTANT_FAULTS: tuple[AssistantFault, ...] = get_args(AssistantFault)

NOBODY = "http://127.0.0.1:1/v1"
"""No program of a user may listen on port 1, so whoever connects is refused."""

SLICE = 512
SEED = 20130601


def make_faulty_assistant(
    fault: str, config: AssistantConfig, store: VectorStore, state: Path, *, slow: str
) -> AssistantConfig:
    """A configuration with a fault.

    Args:
        fault: `latency`: the generator is behind an endpoint that takes its time. `errors`: the generator's endpoint
            refuses connections, and there is no fallback. `bad-index`: an index build in which each chunk is found by
            what another one says. `missing-metrics`: the configuration as it is; what is missing is missing elsewhere.
        config: A good release's configuration.
        store: The product's vector store, which gets the bad build.
        state: The product's state folder.
        slow: Address of an endpoint that answers well and late, such as http://127.0.0.1:8080/v1.

    Raises:
        InvalidInput: No such fault, or an index of one chunk, which cannot be mixed up.
        Conflict: Somebody makes an index build.
        Unavailable: The disk is full, or a server does not answer.
    """
    if fault not in ASSISTANT_FAULTS:
        raise InvalidInput(f"no fault {fault!r}", where="--fault", hint=f"one of {', '.join(ASSISTANT_FAULTS)}")
    if fault == "latency":
        return config.model_copy(update={"generator": _behind(config.generator, slow)})
    if fault == "errors":
        return config.model_copy(update={"generator": _behind(config.generator, NOBODY)})
    if fault == "bad-index":
        with alone(state):
            return config.model_copy(update={"index": _mixed_up(config.index, store)})
    return config


def _behind(generator: Generator, endpoint: str) -> Generator:
    """The same limits, and another model at that address."""
    model = Endpoint(provider="openai", model="drill", base_url=endpoint)
    return generator.model_copy(update={"primary": model, "fallback": None, "retries": 0})


def _mixed_up(index: IndexRef, store: VectorStore) -> IndexRef:
    """A build with the same chunks, whose vectors are those of other chunks. It is not described: drills alone use it,
    and no later build may take its vectors."""
    build = digest_json(["drill", index.build, datetime.now(UTC).isoformat()])[:16]
    with closing(store.open(index.build)) as good:
        points = list(good.points())
    if len(points) < 2:
        raise InvalidInput("an index of one chunk cannot be mixed up", where=f"index build {index.build}")
    store.create(build, index.dimension)
    try:
        for some in _slices(points):
            store.add(build, some)
        store.complete(build)
    except BaseException:
        store.drop(build)
        raise
    # What deleted tenants had is in no build any more, and the release must not name it.
    chunks = dict(sorted(Counter(point.chunk.tenant for point in points).items()))
    checksum = {tenant: index.checksum[tenant] for tenant in chunks}
    return index.model_copy(update={"build": build, "chunks": chunks, "checksum": checksum})


def _slices(points: Sequence[Point]) -> Iterator[list[Point]]:
    """Every point with the vectors of the next one in a random order, the same each time: none keeps its own."""
    order = sorted(points, key=lambda point: point.chunk.id)
    random.Random(SEED).shuffle(order)  # noqa: S311 - mixes up, no secret
    mixed = [
        Point(point.chunk, other.dense, other.sparse)
        for point, other in zip(order, [*order[1:], order[0]], strict=True)
    ]
    for start in range(0, len(mixed), SLICE):
        yield mixed[start : start + SLICE]
