"""An index build of a product, from its sources to the checks: what pipelines and commands call."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from plinth.assistants import freshness
from plinth.assistants.builds import Contents, Engine, alone, make_build
from plinth.assistants.checks import Check, check_build
from plinth.assistants.contents import Before, Read, read_sources, unchanged
from plinth.assistants.freshness import SourceFreshness
from plinth.assistants.port import Tools
from plinth.assistants.records import (
    CHECKS,
    BuildRecord,
    build_folder,
    described,
    read_build,
    write_json,
)
from plinth.assistants.tombstones import deleted_tenants
from plinth.core.assistants import AssistantSpec, SourceSpec
from plinth.core.products import Product
from plinth.errors import NotFound, PlinthError, RefusedByPolicy
from plinth.generation.prompts import PromptRegistry
from plinth.guardrails.patterns import rules_digest, screen
from plinth.ingestion.port import Source
from plinth.ingestion.read import Ingestor
from plinth.ingestion.sandbox import Sandbox
from plinth.ledger.store import Ledger

log = logging.getLogger(__name__)


class BuildTools(Tools, Protocol):
    """What builds need beside what answering needs."""

    @property
    def prompts(self) -> PromptRegistry:
        """The prompt registry."""

    def source(self, spec: SourceSpec) -> Source:
        """A source of documents."""


class Progress(Protocol):
    """Told what is going on: `reading` (files) or `indexing` (chunks), how many of how many are done."""

    def __call__(self, what: str, done: int, total: int) -> None:
        """See the class."""


def _say_nothing(what: str, done: int, total: int) -> None:
    log.debug("%s %d of %d", what, done, total)


PROGRESS: ContextVar[Progress] = ContextVar("plinth_index_progress", default=_say_nothing)
"""Who is told how far a build is, set by who starts the pipeline in this process."""


@dataclass(frozen=True)
class Indexed:
    """A build that was made, or was there, and what reading the sources gave."""

    record: BuildRecord
    made: bool
    read: Read


def engine_of(tools: Tools, product: str, spec: AssistantSpec) -> Engine:
    """What builds of the product are made with. Raises as `Tools.embedder`."""
    return Engine(tools.embedder(spec.embedding), tools.sparse, tools.store(product))


def chosen_sources(spec: AssistantSpec, given: Mapping[str, str], home: Path) -> tuple[SourceSpec, ...]:
    """The product's sources, with those that somebody names put in their place or beside them.

    Args:
        spec: The product's assistant.
        given: Name of a source to a folder, or to a file with one URL a line.
        home: The workspace, for relative paths.

    Raises:
        NotFound: There is no such folder or file.
        InvalidInput: A name is none.
    """
    sources = {source.name: source for source in spec.sources}
    for name, path in given.items():
        place = home / path
        if not place.exists():
            raise NotFound("the source is not there", where=f"{name}={path}", hint="give a folder, or a file of URLs")
        known = sources.get(name)
        kind = "folder" if place.is_dir() else "urls"
        if known is None:
            sources[name] = SourceSpec.model_validate({"name": name, "kind": kind, "path": str(place.resolve())})
        else:
            everything = SourceSpec.model_fields["include"].default
            sources[name] = known.model_copy(
                update={"kind": kind, "path": str(place.resolve()), "include": everything, "exclude": ()}
            )
    return tuple(sources.values())


def sources_of(spec: AssistantSpec, build: BuildRecord | None) -> tuple[SourceSpec, ...]:
    """What a build is kept fresh from: the product's sources, and those that were named for this build."""
    given = {name: held.given for name, held in build.sources.items() if held.given} if build else {}
    kept = {source.name: source for source in spec.sources} | given
    return tuple(kept.values())


def known_freshness(product: Product, state: Path, serving: BuildRecord | None) -> dict[str, SourceFreshness]:
    """What is known of each source of the build that serves."""
    sources = sources_of(product.answers(), serving)
    return freshness.of_serving(freshness.read(state), serving, freshness.objectives(sources))


def watch(ledger: Ledger, product: Product, state: Path) -> dict[str, str]:
    """Look whether sources of the build that serves are beyond their objectives; returns source to why.

    A breach and a recovery are told once each. Raises as the ledger does.
    """
    serving = serving_record(ledger, product.name, state)
    sources = sources_of(product.answers(), serving)
    return freshness.watch(ledger, product.name, state, sources, known_freshness(product, state, serving))


def index_sources(
    tools: BuildTools,
    ledger: Ledger,
    product: Product,
    state: Path,
    sources: Sequence[SourceSpec],
    *,
    serving: BuildRecord | None = None,
    run: str = "",
) -> Indexed:
    """Read the sources and make the build of what they hold.

    Args:
        tools: The adapters.
        ledger: Knows the tenants that were deleted.
        product: The product.
        state: Its state folder.
        sources: What to read.
        serving: The build that serves, to go on from where no newer one has the same sources.
        run: The pipeline run.

    Raises:
        Conflict: Another build of the product is being made.
        RefusedByPolicy: There is nothing to index.
        Unavailable: The disk is full, or a server does not answer.
    """
    spec = product.answers()
    gone = deleted_tenants(ledger, product.name)
    wanted = [source for source in sources if source.tenant not in gone]
    for source in sources:
        if source.tenant in gone:
            log.warning("source %s is not read: its tenant %s was deleted", source.name, source.tenant)
    if not wanted:
        raise RefusedByPolicy("every source is of a tenant that was deleted", where=product.name)
    with alone(state):
        engine = engine_of(tools, product.name, spec)
        before = _before(state, engine, wanted, serving)
        ingestor = Ingestor(
            [(source, tools.source(source)) for source in wanted], [Sandbox()], spec.chunking,
            engine.embedder.count_tokens, tools.personal_data, tools.secrets, screen=screen,
            rules=rules_digest(),
        )  # fmt: skip
        tell = PROGRESS.get()
        read = read_sources(wanted, ingestor, engine.store, before, lambda done, total: tell("reading", done, total))
        given = {source.name: source for source in wanted if source not in spec.sources}
        held = {
            name: seen.model_copy(update={"given": given.get(name)}) for name, seen in read.contents.sources.items()
        }
        read = replace(read, contents=replace(read.contents, sources=held))
        built = make_build(
            state, read.contents, engine, spec.chunking.digest, previous=before.record if before else None, run=run,
            on_progress=lambda done, total: tell("indexing", done, total),
        )  # fmt: skip
    return Indexed(built.record, built.made, read)


def index_without_deleted(
    tools: BuildTools, ledger: Ledger, product: Product, state: Path, serving: BuildRecord, *, run: str = ""
) -> BuildRecord:
    """The build that serves, without the tenants that were deleted: no source is read, nothing is embedded.

    Raises:
        Conflict: Another build of the product is being made.
        PlinthError: The build that serves cannot be read.
    """
    gone = deleted_tenants(ledger, product.name)
    sources = {name: held for name, held in serving.sources.items() if held.tenant not in gone}
    with alone(state):
        engine = engine_of(tools, product.name, product.answers())
        before = Before.of(state, serving)
        index = engine.store.open(serving.index.build)
        try:
            chunks = [
                point.chunk
                for point in index.points()
                if point.chunk.tenant not in gone and point.chunk.source in sources
            ]
        finally:
            index.close()
        documents = {id: entry for id, entry in before.documents.items() if id.partition("/")[0] in sources}
        contents = Contents(
            chunks, sources, tuple(refused for refused in serving.refused if refused.source in sources),
            {"fingerprint": before.fingerprint, "documents": documents},
        )  # fmt: skip
        return make_build(state, contents, engine, serving.index.chunking, previous=serving, run=run).record


def _before(state: Path, engine: Engine, sources: Sequence[SourceSpec], serving: BuildRecord | None) -> Before | None:
    """The build to go on from: the newest complete one of the same sources, else what serves, else the newest."""
    complete = {build for build, done in engine.store.builds().items() if done}
    usable = [record for record in described(state) if record.index.build in complete]
    names = {source.name for source in sources}
    same = [record for record in usable if set(record.sources) == names]
    serves = [record for record in usable if serving and record.index.build == serving.index.build]
    for record in (*same[:1], *serves, *usable[:1]):
        try:
            return Before.of(state, record)
        except PlinthError as error:
            log.warning("build %s is not gone on from: %s", record.index.build, error)
    return None


def nothing_changed(
    tools: BuildTools, ledger: Ledger, product: Product, state: Path, serving: BuildRecord
) -> dict[str, str] | None:
    """Source to when it was listed, where the serving build holds what the sources hold; None where it may not."""
    spec = product.answers()
    gone = deleted_tenants(ledger, product.name)
    if serving.index.chunking != spec.chunking.digest:
        return None
    if serving.index.embedding != tools.embedder(spec.embedding).digest:
        return None
    try:
        before = Before.of(state, serving)
    except PlinthError:
        return None
    wanted = [source for source in sources_of(spec, serving) if source.tenant not in gone]
    return unchanged(wanted, tools.source, before, time.time)


def check(tools: Tools, product: Product, state: Path, record: BuildRecord, golden: Sequence[str] = ()) -> list[Check]:
    """Every check of a build as it is read back; what they found is kept beside it."""
    engine = engine_of(tools, product.name, product.answers())
    found = check_build(record, engine, golden=golden, detectors=(tools.personal_data, tools.secrets))
    rows: list[dict[str, Any]] = [{"check": c.check, "passed": c.passed, "reason": c.reason} for c in found]
    write_json(build_folder(state, record.index.build) / CHECKS, {"embedding": engine.embedder.digest, "checks": rows})
    return found


def serving_record(ledger: Ledger, product: str, state: Path) -> BuildRecord | None:
    """What the build of the serving release is made of; None where nothing serves, or it is not described."""
    serving = ledger.current(product)
    pinned = ledger.release(serving.digest).manifest.assistant if serving else None
    if pinned is None:
        return None
    try:
        return read_build(build_folder(state, pinned.index.build))
    except PlinthError:
        return None
