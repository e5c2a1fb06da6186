"""One run of ingestion: sources to chunks, incrementally; what cannot or must not be read is quarantined."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

from plinth.core.assistants import Chunking, SourceSpec
from plinth.core.corpus import Chunk
from plinth.core.digests import digest_bytes, digest_json
from plinth.core.privacy import Detector
from plinth.errors import InvalidInput, MissingExtra, NotFound, RefusedByPolicy, Unavailable
from plinth.ingestion.chunking import chunk_document
from plinth.ingestion.limits import TooLarge
from plinth.ingestion.port import Count, Listed, Parser, Refused, Source
from plinth.ingestion.screening import Screen, Screening
from plinth.ingestion.suffixes import by_suffix, suffix_of

RULES = 2
"""Raised when reading or redacting changes, so that unchanged files are read again."""

Progress = Callable[[int, int], None]
"""Called with how many of how many files are done."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a file from the run before.

    Attributes:
        stamp: The source's stamp of it; "" is unknown.
        digest: sha256 of its bytes.
        chunks: Its chunks; none if it was refused.
        redacted: How much personal data of each kind was taken out.
        refused: Why it is quarantined, or None.
    """

    stamp: str
    digest: str
    chunks: tuple[Chunk, ...] = ()
    redacted: Mapping[str, int] = field(default_factory=dict)
    refused: Refused | None = None


@dataclass(frozen=True, slots=True)
class SourceState:
    """How a source was found.

    Attributes:
        files: How many files it has, quarantined ones included.
        as_of: When the listing that the chunks stand for began, seconds since 1970-01-01 UTC; None if it could not be
            read as a whole, so that what was known stays as old as it was.
        newest: When its newest file was changed, or None.
        changed_at: When the oldest of the changes that this run read was made, as far as files tell, or None.
        problem: Why it could not be read as a whole, or "".
    """

    files: int
    as_of: float | None
    newest: float | None
    changed_at: float | None = None
    problem: str = ""


@dataclass(slots=True)
class Ingested:
    """What a run gave.

    Attributes:
        documents: Every file by its id (`source/path`), quarantined ones included: `previous` of the next run.
        refused: What is quarantined, in the order of the sources.
        redacted: How much personal data of each kind was taken out.
        sources: How each source was found.
        read: How many files were parsed; the others were known.
        removed: Ids that are gone.
    """

    documents: dict[str, Known] = field(default_factory=dict)
    refused: list[Refused] = field(default_factory=list)
    redacted: dict[str, int] = field(default_factory=dict)
    sources: dict[str, SourceState] = field(default_factory=dict)
    read: int = 0
    removed: list[str] = field(default_factory=list)

    @property
    def chunks(self) -> list[Chunk]:
        """Every chunk, in the order of sources, paths and positions."""
        return [chunk for known in self.documents.values() for chunk in known.chunks]


@dataclass(frozen=True, slots=True)
class _Task:
    spec: SourceSpec
    source: Source
    listed: Listed

    @property
    def id(self) -> str:
        return f"{self.spec.name}/{self.listed.path}"


@dataclass(frozen=True, slots=True)
class _Done:
    known: Known | None
    read: bool = False
    problem: str = ""


class Ingestor:
    """Reads sources. One object serves many runs.

    Args:
        sources: What is declared of each source, and the source.
        parsers: One or more for each kind of file.
        chunking: How documents are cut.
        count: Tokens of a text, by the embedding model.
        personal_data: What it finds is replaced by its kind before anything is cut.
        secrets: A file in which it finds something is quarantined.
        screen: Names of the rules that a text breaks by trying to instruct its reader; such a file is quarantined.
        rules: Digest of what decides about the three above; part of the fingerprint.
        workers: Threads; each may have one parser at work.
        clock: Seconds since 1970-01-01 UTC.
    """

    def __init__(
        self, sources: Sequence[tuple[SourceSpec, Source]], parsers: Sequence[Parser], chunking: Chunking, count: Count,
        personal_data: Detector, secrets: Detector, *, screen: Screen | None = None, rules: str = "",
        workers: int = 2, clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._sources = list(sources)
        self._parsers = by_suffix(parsers)
        self._chunking = chunking
        self._count = count
        self._screening = Screening(personal_data, secrets, screen)
        self._rules = rules
        self._workers = workers
        self._clock = clock

    @property
    def fingerprint(self) -> str:
        """sha256 of how files are read and cut. What an Ingestor of another one knew is no `previous` of this one."""
        return digest_json([RULES, self._rules, self._chunking.digest, sorted(self._parsers)])

    def run(
        self, previous: Mapping[str, Known] | None = None, on_progress: Progress | None = None,
    ) -> Ingested:  # fmt: skip
        """Read what has changed.

        A file with the stamp of before is not opened; one with the content of before is not parsed. What a source that
        cannot be listed had before stays; so does a file that cannot be read now.

        Args:
            previous: `Ingested.documents` of the run before, by the same fingerprint. It may load chunks lazily.
            on_progress: Told of each file.

        Raises:
            MissingExtra: A parser's package is not installed.
        """
        previous = {} if previous is None else previous
        result = Ingested()
        tasks = {spec.name: self._listed(spec, source, result) for spec, source in self._sources}
        total, done = sum(map(len, tasks.values())), 0
        with ThreadPoolExecutor(self._workers, thread_name_prefix="plinth-ingest") as pool:
            for spec, _ in self._sources:
                problems: dict[str, str] = {}
                changes: list[float] = []
                work = partial(self._read, previous)
                for task, outcome in zip(tasks[spec.name], pool.map(work, tasks[spec.name]), strict=True):
                    done += 1
                    if outcome.problem:
                        problems[task.id] = outcome.problem
                    if outcome.known is not None:
                        result.documents[task.id] = outcome.known
                    if outcome.read:
                        result.read += 1
                        changes.append(task.listed.modified)
                    if on_progress is not None:
                        on_progress(done, total)
                if changes:
                    state = result.sources[spec.name]
                    result.sources[spec.name] = replace(state, changed_at=min(changes))
                self._keep(spec, previous, problems, result)
        _summarize(result, previous)
        return result

    def _listed(self, spec: SourceSpec, source: Source, result: Ingested) -> list[_Task]:
        """What a source has now; its state says when it was asked, or why it could not answer."""
        began = self._clock()
        try:
            tasks = [_Task(spec, source, listed) for listed in source.list()]
        except (NotFound, Unavailable, InvalidInput) as error:
            result.sources[spec.name] = SourceState(0, None, None, problem=str(error))
            return []
        newest = max((task.listed.modified for task in tasks), default=None)
        result.sources[spec.name] = SourceState(len(tasks), began, newest)
        return tasks

    def _keep(
        self, spec: SourceSpec, previous: Mapping[str, Known], problems: Mapping[str, str], result: Ingested
    ) -> None:
        """What a source that could not be read as a whole had before stays: absence is not proven."""
        state = result.sources[spec.name]
        below = (f"{spec.name}/",) if state.problem else tuple(f"{id}/" for id in problems)
        if not below:
            return
        kept = [id for id in previous if id not in result.documents and id.startswith(below)]
        result.documents.update((id, _owned(previous[id], spec)) for id in kept)
        # What was never read cannot be out of date: a page that is always away must not make its source stale for ever.
        stale = [problem for id, problem in problems.items() if id in previous and previous[id].chunks]
        stale = stale or (list(problems.values()) if kept else [])
        if stale:
            problem = stale[0] if len(stale) == 1 else f"{stale[0]}; and {len(stale) - 1} more"
            result.sources[spec.name] = replace(state, as_of=None, problem=problem)

    def _read(self, previous: Mapping[str, Known], task: _Task) -> _Done:
        known = previous.get(task.id)
        if known is not None and task.listed.stamp and known.stamp == task.listed.stamp:
            return _Done(_owned(known, task.spec))
        try:
            data = task.source.read(task.listed.path)
        except NotFound:
            return _Done(None)
        except Unavailable as error:
            kept = _refused(task, "", error) if known is None else _owned(known, task.spec)
            return _Done(kept, problem=str(error))
        except (InvalidInput, RefusedByPolicy) as error:
            return _Done(_refused(task, "", error))
        digest = digest_bytes(data)
        if known is not None and known.digest == digest:
            return _Done(_owned(replace(known, stamp=task.listed.stamp), task.spec))
        return _Done(self._parse(task, data, digest), read=True)

    def _parse(self, task: _Task, data: bytes, digest: str) -> Known:
        suffix = suffix_of(task.listed.path, data, is_page=task.spec.kind == "urls")
        parser = self._parsers.get(suffix)
        if parser is None:
            return _quarantined(
                task, digest, "unknown-format", f"no parser reads {suffix or 'a file without a suffix'}"
            )
        try:
            path = task.listed.path
            parsed = parser.parse(data, path if path.lower().endswith(suffix) else path + suffix)
            screened = self._screening.look(task.spec, task.listed, parsed, data, digest)
            if isinstance(screened, Refused):
                return Known(task.listed.stamp, digest, refused=screened)
            chunks = tuple(chunk_document(screened.document, self._chunking, self._count))
        except (InvalidInput, RefusedByPolicy, Unavailable) as error:
            return _refused(task, digest, error)
        except MissingExtra:
            raise
        except Exception as error:  # noqa: BLE001 - a parser's bug on one file must not stop the run
            return _quarantined(task, digest, "unreadable", f"the parser failed with {type(error).__name__}")
        return Known(task.listed.stamp, digest, chunks, screened.redacted)


def _owned(known: Known, spec: SourceSpec) -> Known:
    """What is known, with whose it is and who may read it as it is declared now."""
    if all(chunk.tenant == spec.tenant and chunk.labels == spec.labels for chunk in known.chunks):
        return known
    return replace(
        known, chunks=tuple(replace(chunk, tenant=spec.tenant, labels=spec.labels) for chunk in known.chunks)
    )


def _refused(task: _Task, digest: str, error: InvalidInput | RefusedByPolicy | Unavailable) -> Known:
    kind = "too-large" if isinstance(error, TooLarge) else "policy"
    return _quarantined(task, digest, kind if isinstance(error, RefusedByPolicy) else "unreadable", error.what)


def _quarantined(task: _Task, digest: str, kind: str, reason: str) -> Known:
    refused = Refused(task.spec.name, task.listed.path, digest, kind, reason)
    # What could not be read is tried again: the right to read it changes no stamp.
    return Known(task.listed.stamp if digest else "", digest, refused=refused)


def _summarize(result: Ingested, previous: Mapping[str, Known]) -> None:
    redacted: Counter[str] = Counter()
    for known in result.documents.values():
        redacted.update(known.redacted)
        if known.refused is not None:
            result.refused.append(known.refused)
    result.redacted = dict(sorted(redacted.items()))
    result.removed = [id for id in previous if id not in result.documents]
