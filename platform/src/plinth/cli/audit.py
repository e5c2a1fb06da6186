"""`plinth audit`: who decided what and when, whether the record is whole, and a copy of it."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plinth.cli.command import Groups

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plinth.cli.output import Output
    from plinth.ledger.audit import AuditEntry
    from plinth.ledger.store import Ledger

EVERY = 1.0
"""Seconds between two looks of `tail --follow`."""
MOST = 10**9
"""Entries that `tail` asks for at most: databases count no further than they can."""
LONGEST = 160
"""Characters of one value in `tail`; `export` has all of it."""


def register(groups: Groups) -> None:
    """Declare the commands."""
    group = groups.group(
        "audit", help="The audit log, a hash chain over every decision and effect: tail, verify, export."
    )
    command = group.command(
        "tail",
        tail,
        help="The newest entries of the audit log, newest last.",
        example="plinth audit tail -n 50 --subject flight-delays",
    )
    command.add_argument("--lines", "-n", type=int, default=20, metavar="N", help="how many entries (default 20)")
    command.add_argument("--subject", help="only what concerns this product or release digest")
    command.add_argument("--follow", "-f", action="store_true", help="go on with what is added, until Ctrl-C")
    group.command(
        "verify",
        verify,
        help="Check the hash chain: exit code 1 where an entry was edited, removed or cut off, and which is the first.",
        example="plinth audit verify",
    )
    command = group.command(
        "export",
        export,
        help="The whole audit log as JSON lines.",
        example="plinth audit export --output audit.jsonl",
    )
    command.add_argument("--output", metavar="FILE", help="write to this file instead of standard output")


def tail(args: Namespace, out: Output) -> None:
    """Handler of `audit tail`."""
    import sys
    import time

    from plinth.errors import InvalidInput
    from plinth.wiring import Platform

    if args.lines < 0:
        raise InvalidInput(f"--lines is {args.lines}", hint="a number from 0 up")
    if args.follow and args.json:
        raise InvalidInput("--follow never ends, --json is one document", hint="give one of them")
    ledger, most = Platform.from_settings().ledger, min(args.lines, MOST)
    newest = ledger.audit(1)  # before the entries, so that none falls between the two
    entries = ledger.audit(most, args.subject)
    out.data({"entries": [_document(entry) for entry in entries]})
    for entry in entries:
        out.text(_line(entry))
    if not entries and not args.follow:
        out.note("no entries" + (f" of {args.subject}" if args.subject else " yet"))
    last = max((entry.seq for entry in [*newest, *entries]), default=0)
    while args.follow:
        sys.stdout.flush()
        time.sleep(EVERY)
        for entry in _after(ledger, last, args.subject):
            out.text(_line(entry))
            last = entry.seq


def _after(ledger: Ledger, last: int, subject: str | None) -> Sequence[AuditEntry]:
    """The entries above a number, oldest first."""
    limit = 64
    while True:
        entries = ledger.audit(limit, subject)
        if len(entries) < limit or entries[0].seq <= last:
            return [entry for entry in entries if entry.seq > last]
        limit *= 4


def verify(_args: Namespace, out: Output) -> int:
    """Handler of `audit verify`: 0 when the chain is whole, 1 otherwise."""
    from plinth.wiring import Platform

    ledger = Platform.from_settings().ledger
    broken = ledger.broken_entry()
    entries = ledger.audit()
    entry = next((entry for entry in entries if entry.seq == broken), None)
    problem = "" if broken is None else _problem(entries, broken)
    out.data(
        {
            "whole": broken is None,
            "entries": len(entries),
            "first_broken": broken,
            "problem": problem,
            "entry": _document(entry) if entry is not None else None,
        }
    )
    if broken is None:
        out.text(f"the audit chain is whole: {len(entries):,} entries")
        return 0
    out.text(f"the audit chain is broken at entry {broken}: {problem}")
    if entry is not None:
        out.text(_line(entry))
    out.note("next: keep a copy of the database, compare with an export or a backup, and find out who had access to it")
    return 1


def _problem(entries: Sequence[AuditEntry], broken: int) -> str:
    known = {entry.seq for entry in entries}
    if broken not in known:
        return "it was removed from the end, or the end was never sealed"
    if broken > 1 and broken - 1 not in known:
        return "an entry before it was removed"
    return "it was edited, or its link to the entry before was"


def export(args: Namespace, out: Output) -> None:
    """Handler of `audit export`: JSON lines; with --json and no file, one document."""
    import json

    from plinth.wiring import Platform

    ledger = Platform.from_settings().ledger
    broken = ledger.broken_entry()
    documents = [_document(entry) for entry in ledger.audit()]
    lines = [json.dumps(document, ensure_ascii=False) for document in documents]
    if args.output is None:
        out.data({"whole": broken is None, "entries": documents})
        for line in lines:
            out.text(line)
    else:
        _write(Path(args.output), "".join(f"{line}\n" for line in lines))
        out.data({"whole": broken is None, "entries": len(lines), "file": args.output})
        out.text(f"wrote {len(lines):,} entries to {args.output}")
    if broken is not None:
        out.note(f"note: the chain is broken at entry {broken}: plinth audit verify")


def _write(path: Path, text: str) -> None:
    """The whole file or none."""
    import os

    from plinth.errors import Unavailable

    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        try:
            partial.write_text(text, encoding="utf-8")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise Unavailable(
            f"the export cannot be written: {error.strerror or error}",
            where=str(path),
            hint="free space, correct the rights, or choose another --output",
        ) from error


def _document(entry: AuditEntry) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(entry)


def _line(entry: AuditEntry) -> str:
    from plinth.cli.rollout_view import printable

    told = " ".join(f"{key}={_value(value)}" for key, value in entry.payload.items())
    subject = _value(entry.subject)
    return printable(
        f"{entry.seq:>6} {entry.at[:19].replace('T', ' ')} {entry.actor:<12} {entry.action:<22} {subject}  {told}"
    )


def _value(value: Any) -> str:
    """A value of a payload in short; of a digest, its first 12 characters."""
    import json

    if isinstance(value, str):
        digest = len(value) == 64 and set(value) <= set("0123456789abcdef")
        text = value[:12] if digest else value if value and " " not in value else json.dumps(value, ensure_ascii=False)
    else:
        text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
