"""`plinth fsck` and `plinth gc`: whether everything that must hold holds, and deleting what nobody needs."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer
from typing import TYPE_CHECKING

from plinth.cli.command import Groups

if TYPE_CHECKING:
    from plinth.cli.output import Output
    from plinth.core.findings import Progress

PATIENCE_SECONDS = 2.0
"""What takes longer says what it does."""


def register(groups: Groups) -> None:
    """Declare the commands."""
    command = groups.command(
        "fsck",
        fsck,
        help="Check every invariant across ledger, artefacts, registry, features, services and logs.",
        example="plinth fsck",
    )
    command.add_argument("--repair", action="store_true", help="mend what can be mended without loss, and say what")
    command.add_argument("--quick", action="store_true", help="hash no artefact and open no log file")
    command.add_argument("--all", action="store_true", help="show the invariants that hold, too")
    command = groups.command(
        "gc",
        gc,
        help="Retire old releases, delete what none needs; says what it would do, until --apply.",
        example="plinth gc --grace 30d",
    )
    command.add_argument("--apply", action="store_true", help="do it")
    command.add_argument("--grace", default="7d", metavar="TIME", help="touch nothing younger than this (default 7d)")
    command.add_argument(
        "--keep", type=int, default=3, metavar="N", help="releases a product keeps at least, 3 or more (default 3)"
    )


def fsck(args: Namespace, out: Output) -> int:
    """Handler of `fsck`: exit code 1 when something is wrong."""
    from dataclasses import asdict

    from plinth.runtime.fsck import check
    from plinth.wiring import Platform

    with _progress(out) as tell:
        found = check(Platform.from_settings(), repair=args.repair, thorough=not args.quick, on_progress=tell)
    count = {level: sum(finding.level == level for finding in found) for level in ("violation", "warning", "repaired")}
    out.data(
        {
            "violations": count["violation"],
            "warnings": count["warning"],
            "repaired": count["repaired"],
            "findings": [asdict(finding) for finding in found],
        }
    )
    shown = [finding for finding in found if args.all or finding.level != "ok" or finding.subject]
    if shown:
        out.table(
            ["invariant", "level", "subject", "found", "what to do"],
            [[item.invariant, item.level, item.subject, item.what, item.next] for item in shown],
        )
    looked = len({finding.invariant for finding in found})
    out.text(
        f"{looked} invariants looked at: {count['violation']} violations, {count['warning']} warnings, "
        f"{count['repaired']} repaired"
    )
    return 1 if count["violation"] else 0


def gc(args: Namespace, out: Output) -> None:
    """Handler of `gc`."""
    from plinth.runtime.index_retention import has_builds
    from plinth.runtime.retention import collect
    from plinth.wiring import Platform
    from plinth.wiring.mlflow import mlflow_cache

    platform = Platform.from_settings()
    ledger, settings = platform.ledger, platform.settings
    folders = {path.name: path for path in (settings.state_dir / "products").glob("*") if path.is_dir()}
    indexes = {name: platform.assistants.store(name) for name, folder in folders.items() if has_builds(folder)}
    with _progress(out) as tell:
        done = collect(
            ledger, platform.artifacts, folders, actor=platform.actor, apply=args.apply,
            grace=_grace(args.grace), keep=args.keep, indexes=indexes, cache=mlflow_cache(settings), on_progress=tell,
        )  # fmt: skip
    out.data(
        {
            "applied": done.applied,
            "kept": done.kept,
            "retired": [{"digest": b.digest, "product": b.product, "status": b.status} for b in done.retired],
            "artifacts": done.artifacts,
            "others": done.others,
            "builds": [{"product": p, "build": build, "bytes": size} for (p, build), size in done.builds.items()],
            "bytes": done.freed,
        }
    )
    rows = [["release", bundle.digest[:12], f"{bundle.product}, {bundle.status}", ""] for bundle in done.retired]
    rows += [["artefact", digest[:12], "", _size(size)] for digest, size in done.artifacts.items()]
    rows += [["index", build, product, _size(size)] for (product, build), size in done.builds.items()]
    rows += [["file", path, "", _size(size)] for path, size in done.others.items()]
    if rows:
        out.table(["what", "name", "of", "size"], rows)
    done_or_not = ("retired", "freed") if done.applied else ("would be retired", "would be freed")
    out.text(
        f"{len(done.retired)} releases {done_or_not[0]}, {_size(done.freed)} {done_or_not[1]}; "
        f"{len(done.kept)} releases keep their artefacts"
    )
    if rows and not done.applied:
        out.note("nothing was changed; do it with: plinth gc --apply")


def _grace(text: str) -> int:
    from plinth.core.durations import SECONDS, seconds
    from plinth.errors import InvalidInput

    if not text[:-1].isdecimal() or text[-1:] not in SECONDS:
        raise InvalidInput(f"--grace {text!r} is no time", hint="write it as 12h or 7d")
    return seconds(text)


@contextmanager
def _progress(out: Output) -> Iterator[Progress]:
    """Silent for `PATIENCE_SECONDS`, then a bar on standard error, whether or not anything is told by then."""
    with out.progress() as progress:
        task = progress.add_task("checking", total=None, visible=False)

        def tell(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total)

        late = Timer(PATIENCE_SECONDS, lambda: progress.update(task, visible=True))
        late.daemon = True
        late.start()
        try:
            yield tell
        finally:
            late.cancel()


def _size(count: int) -> str:
    size = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
