"""Freshness as a service level: how long a change of a source takes to become searchable, deletions included.

Every build holds one probe document a source, of a tenant that nobody's key belongs to. Its token follows from the
source's chunks: when anything of the source changes or is deleted, the probe before disappears with it and another one
takes its place. So whoever finds the new token and no longer finds the old one knows that the service answers from the
changed documents. `<state>/products/<product>/freshness.json` keeps what is known; the service labels answers by it.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from plinth.assistants.records import BuildRecord, SourceRecord, write_json
from plinth.core.assistants import SourceSpec
from plinth.core.corpus import PROBE_TENANT, Chunk, checksum
from plinth.core.digests import digest_json
from plinth.core.durations import seconds
from plinth.errors import PlinthError
from plinth.ledger.store import Event, Ledger

log = logging.getLogger(__name__)

FILE = "freshness.json"
EVENT = "freshness"
PROBE = "plinth-probe"
POLL_SECONDS = 0.2

Find = Callable[[str], Sequence[str]]
"""Asks the running service as the probe tenant: a question in, the texts it finds out."""


@dataclass(frozen=True)
class SourceFreshness:
    """What is known of a source.

    Attributes:
        as_of: What changed before is searchable, and what was deleted before is not (UTC, ISO 8601).
        objective_seconds: How long that may take.
        lag_seconds: How long the last change took, or None when none was measured.
        probe: Token that the service was found to have.
        away: Why the source could not be read last time; "" when it could.
    """

    as_of: str
    objective_seconds: int
    lag_seconds: float | None = None
    probe: str = ""
    away: str = ""

    def age(self, now: datetime) -> float:
        """Seconds since `as_of`."""
        return (now - datetime.fromisoformat(self.as_of)).total_seconds()

    def late(self, now: datetime) -> str:
        """Why it is beyond its objective; "" when it is not."""
        age = self.age(now)
        if age > self.objective_seconds:
            return f"nobody knows what changed in the last {age:.0f} s, the objective is {self.objective_seconds} s"
        if self.lag_seconds is not None and self.lag_seconds > self.objective_seconds:
            lag = f"the last change took {self.lag_seconds:.0f} s to become searchable"
            return f"{lag}, the objective is {self.objective_seconds} s"
        return ""


def stamp(at: float | None = None) -> str:
    """A time, seconds since 1970, in ISO 8601 UTC; now by default."""
    when = datetime.now(UTC) if at is None else datetime.fromtimestamp(at, UTC)
    return when.isoformat(timespec="microseconds")


def probe_of(source: str, chunks: Iterable[Chunk]) -> tuple[str, Chunk]:
    """The token and the probe document of a source with these chunks."""
    token = "probe" + digest_json([source, checksum(list(chunks))])[:24]
    text = f"{token} shows how fresh the index of {source} is."
    chunk = Chunk(
        document=f"{source}/{PROBE}", version=digest_json(text), source=source, title="Freshness probe", headings=(),
        text=text, position=0, tenant=PROBE_TENANT,
    )  # fmt: skip
    return token, chunk


def read(state: Path) -> dict[str, SourceFreshness]:
    """What is known of each source; nothing where nothing was written yet or it cannot be read."""
    try:
        sources = json.loads((state / FILE).read_bytes())["sources"]
        return {name: SourceFreshness(**value) for name, value in sources.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s is ignored: %s (%s)", FILE, error, state)
        return {}


def write(state: Path, known: Mapping[str, SourceFreshness]) -> None:
    """Keep what is known.

    Raises:
        Unavailable: The disk is full.
    """
    write_json(state / FILE, {"sources": {name: asdict(value) for name, value in sorted(known.items())}})


def nothing_changed(
    state: Path, specs: Sequence[SourceSpec], listed: Mapping[str, str], away: Mapping[str, str]
) -> None:
    """Sources whose files are those of the serving build: what is searchable is as of the listing.

    Args:
        state: The product's state folder.
        specs: The product's sources; what is known of others is forgotten.
        listed: Source to when it was listed, of those that did not change.
        away: Source to why it could not be read: its `as_of` stays.
    """
    known, found = read(state), {}
    for spec in specs:
        before = known.get(spec.name)
        as_of = listed.get(spec.name) or (before.as_of if before else "")
        if as_of:
            entry = before or SourceFreshness(as_of, 0)
            found[spec.name] = replace(
                entry, as_of=max(as_of, entry.as_of), objective_seconds=seconds(spec.freshness),
                away=away.get(spec.name, ""),
            )  # fmt: skip
    write(state, found)


def searchable(
    state: Path,
    specs: Sequence[SourceSpec],
    seen: Mapping[str, SourceRecord],
    at: Mapping[str, float],
    began: Mapping[str, float],
) -> None:
    """A build serves: the sources whose probes were found are as of its listing, with the lag that was measured.

    Args:
        state: The product's state folder.
        specs: The product's sources.
        seen: What the serving build holds of each source, as it was listed.
        at: Source to when its probe was found and the one before was not, seconds since 1970.
        began: Source to when its oldest change happened, of those that changed, seconds since 1970.
    """
    known, found = read(state), {}
    for spec in specs:
        held, before = seen.get(spec.name), known.get(spec.name)
        if held is None or spec.name not in at:
            if before is not None:
                found[spec.name] = replace(before, objective_seconds=seconds(spec.freshness))
            continue
        lag = before.lag_seconds if before else None
        if spec.name in began:
            lag = round(max(0.0, at[spec.name] - began[spec.name]), 3)
        as_of = held.as_of if before is None or not held.away else max(before.as_of, held.as_of)
        found[spec.name] = SourceFreshness(as_of, seconds(spec.freshness), lag, held.probe, held.away)
    write(state, found)


def wait_until_searchable(
    find: Find, probes: Mapping[str, str], gone: Mapping[str, str], timeout: float, poll: float = POLL_SECONDS
) -> dict[str, float]:
    """Ask the running service until it finds each source's probe, and no longer the one before.

    Args:
        find: Asks the service.
        probes: Source to its token in the build that is to serve.
        gone: Source to the token before, where it was another one.
        timeout: Seconds to wait at most.
        poll: Seconds between two rounds.

    Returns:
        Source to when that was, seconds since 1970. A source whose probe was not found in time is left out.
    """
    until, found = time.monotonic() + timeout, dict[str, float]()
    waiting = dict(probes)
    while waiting:
        for name, token in list(waiting.items()):
            try:
                texts = find(token)
                old = gone.get(name, "")
                still = bool(old) and old != token and any(old in text for text in find(old))
            except PlinthError as error:
                log.info("the service does not answer the probe of %s: %s", name, error.what)
                continue
            if any(token in text for text in texts) and not still:
                found[name] = time.time()
                del waiting[name]
        if not waiting or time.monotonic() >= until:
            break
        time.sleep(poll)
    return found


def of_serving(
    known: Mapping[str, SourceFreshness], serving: BuildRecord | None, objectives: Mapping[str, int]
) -> dict[str, SourceFreshness]:
    """What is known, of the build that serves.

    Another build than was measured (after a rollback) is as old as it is, and so is one that no refresh looked at yet.

    Args:
        known: What was written.
        serving: The build that answers.
        objectives: Seconds by source, of those that nothing is known of; one without is left out.
    """
    found = dict(known)
    for name, held in serving.sources.items() if serving else ():
        entry = known.get(name)
        if entry is None:
            objective = seconds(held.given.freshness) if held.given else objectives.get(name)
        else:
            objective = entry.objective_seconds if entry.probe and entry.probe != held.probe else None
        if objective is not None and not (serving and held.tenant in serving.without):
            found[name] = SourceFreshness(held.as_of, objective, None, held.probe, held.away)
    return found


def objectives(specs: Iterable[SourceSpec]) -> dict[str, int]:
    """Source to its objective, in seconds."""
    return {spec.name: seconds(spec.freshness) for spec in specs}


def watch(
    ledger: Ledger,
    product: str,
    state: Path,
    specs: Sequence[SourceSpec],
    known: Mapping[str, SourceFreshness] | None = None,
) -> dict[str, str]:
    """Look whether sources are beyond their objectives: one event a breach, one a recovery, whoever looks how often.

    Args:
        ledger: Keeps the events.
        product: The product's name.
        state: Its state folder.
        specs: Its sources, with their objectives.
        known: What is known; default what was written.

    Returns:
        Source to why it is late.
    """
    known, now = read(state) if known is None else known, datetime.now(UTC)
    late = {}
    for spec in specs:
        entry = known.get(spec.name)
        reason = replace(entry, objective_seconds=seconds(spec.freshness)).late(now) if entry else ""
        if reason:
            late[spec.name] = reason
        if entry is not None:
            _tell(ledger, product, spec.name, entry, reason)
    return late


def _tell(ledger: Ledger, product: str, source: str, entry: SourceFreshness, reason: str) -> None:
    state = "breached" if reason else "recovered"

    def said(events: list[Event]) -> bool:
        own = [event.payload["state"] for event in events if event.payload.get("source") == source]
        return own[-1] == state if own else state == "recovered"

    payload: dict[str, Any] = {
        "source": source, "state": state, "reason": reason, "as_of": entry.as_of, "lag_seconds": entry.lag_seconds,
        "objective_seconds": entry.objective_seconds,
    }  # fmt: skip
    if said(ledger.events(product, EVENT)):
        return
    if ledger.record_event_once(product, EVENT, payload, unless=said):
        level = logging.WARNING if reason else logging.INFO
        log.log(level, "freshness of %s/%s: %s%s", product, source, state, f": {reason}" if reason else "")
