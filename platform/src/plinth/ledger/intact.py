"""Whether the artefact store holds what releases need, and what lies about beside it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from plinth.core.findings import Finding, Progress, silent, without
from plinth.errors import NotFound, PlinthError, Unavailable
from plinth.ledger.port import Artifacts, Leftover
from plinth.ledger.retention import Bundle, bundles
from plinth.ledger.store import Ledger

LEFTOVER_SECONDS = 60.0
"""A file that is being written is renamed within seconds; one older than this belongs to a killed writer."""

HOLDS = {
    "artifact.present": "Every file of a release that may serve is in the artefact store.",
    "artifact.intact": "Every file's content has the sha256 that its release names.",
    "artifact.leftover": "No killed process left half a file in the artefact store.",
}


@dataclass(frozen=True)
class Fault:
    """A file of a release that may serve, and is not there or not what it should be."""

    bundle: Bundle
    name: str
    digest: str
    kind: Literal["missing", "corrupt"]


def check_artifacts(
    ledger: Ledger, store: Artifacts, *, thorough: bool = True, on_progress: Progress | None = None
) -> list[Finding]:
    """Whether every release that may serve has its files, and what lies about beside them.

    Args:
        ledger: Says which releases may serve: what serves, what is rolled out, and what is accepted.
        store: The artefacts.
        thorough: Hash each file; otherwise only see that it is there.
        on_progress: Told how many files were looked at.
    """
    try:
        faults = artifact_faults(ledger, store, thorough=thorough, on_progress=on_progress)
        spare = _unreferenced(ledger, store)
        left_behind = list(old_leftovers(store))
    except PlinthError as error:
        return [Finding("artifact.present", "violation", error.where, error.what, error.hint)]
    found = [_finding(fault) for fault in faults] + [
        Finding("artifact.leftover", "warning", left.where, "a killed process left it", "plinth fsck --repair")
        for left in left_behind
    ]
    looked = {name: text for name, text in HOLDS.items() if thorough or name != "artifact.intact"}
    found += without(looked, found)
    if spare:
        found.append(Finding("artifact.present", "ok", "", f"{spare} more that no release needs", "plinth gc"))
    return found


def artifact_faults(
    ledger: Ledger, store: Artifacts, *, thorough: bool = True, on_progress: Progress | None = None
) -> list[Fault]:
    """The files of releases that may serve which are missing or corrupt, each with every release that needs it.

    Raises:
        Corrupt: A manifest cannot be read.
        Unavailable: The ledger or the store cannot be used.
    """
    tell = on_progress or silent
    needed: dict[str, list[tuple[Bundle, str]]] = {}
    for bundle in bundles(ledger):
        if bundle.role:
            for name, digest in bundle.artifacts.items():
                needed.setdefault(digest, []).append((bundle, name))
    faults = []
    for done, (digest, users) in enumerate(sorted(needed.items())):
        tell("artefacts", done, len(needed))
        kind = _look_at(store, digest, thorough)
        if kind:
            faults += [Fault(bundle, name, digest, kind) for bundle, name in users]
    tell("artefacts", len(needed), len(needed))
    if faults:  # a release may have been retired, and its files collected, while we looked
        still = {bundle.digest for bundle in bundles(ledger) if bundle.role}
        faults = [fault for fault in faults if fault.bundle.digest in still]
    return faults


def _look_at(store: Artifacts, digest: str, thorough: bool) -> Literal["missing", "corrupt", ""]:
    try:
        if not store.exists(digest):
            return "missing"
        if thorough:
            store.verify(digest)
    except Unavailable:  # nobody knows
        raise
    except NotFound:
        return "missing"
    except (PlinthError, OSError):
        return "corrupt"
    return ""


def _finding(fault: Fault) -> Finding:
    bundle = fault.bundle
    what = {"serving": "which serves", "candidate": "which is rolled out"}.get(bundle.role, "which may be promoted")
    name = "artifact.present" if fault.kind == "missing" else "artifact.intact"
    return Finding(
        name, "violation", f"{bundle.product}, release {bundle.digest[:12]}",
        f"{fault.name} ({fault.digest[:12]}) of a release {what} is {fault.kind}", "plinth fsck --repair",
    )  # fmt: skip


def _unreferenced(ledger: Ledger, store: Artifacts) -> int:
    needed = {digest for bundle in bundles(ledger) for digest in bundle.artifacts.values()}
    return sum(stored.digest not in needed for stored in store.stored())


def old_leftovers(store: Artifacts) -> Iterator[Leftover]:
    """What killed writers and collectors left. What was put aside as corrupt is kept on purpose."""
    for left in store.leftovers():
        young = abs(time.time() - left.at) < LEFTOVER_SECONDS
        # A folder's collector renames: its file's time is old while it works, and it works for a moment.
        if left.kind != "corrupt" and (left.kind == "collecting" or not young):
            yield left
