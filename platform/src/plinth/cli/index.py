"""`plinth index`: index builds of an assistant; made, listed, compared, promoted, and how fresh they are."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from plinth.cli.command import Groups

if TYPE_CHECKING:
    from pathlib import Path

    from plinth.cli.output import Output
    from plinth.core.products import Product
    from plinth.pipelines.port import RunResult, StepRecord
    from plinth.wiring import Platform


def register(groups: Groups) -> None:
    """Declare the commands."""
    group = groups.group("index", help="Index builds of an assistant: build, list, status, promote, diff.")
    command = group.command(
        "build",
        build,
        help="Read the sources, make an index build of what changed, check it, evaluate it and make a release of it.",
        example="plinth index build docs-assistant --source handbook=../handbook",
    )
    command.add_argument("product")
    command.add_argument(
        "--source", action="append", default=[], metavar="NAME=PATH",
        help="read a folder, or a file with one URL a line, as this source: in place of product.yaml's, or beside them",
    )  # fmt: skip
    command.add_argument("--inline", action="store_true", help="run in this process, whether the server is up or not")
    command = group.command(
        "list", list_builds, help="A product's index builds, newest first.", example="plinth index list docs-assistant"
    )
    command.add_argument("product")
    command = group.command(
        "status",
        status,
        help="What serves of each source, how fresh it is, and which files are quarantined.",
        example="plinth index status docs-assistant",
    )
    command.add_argument("product")
    command.add_argument(
        "--check", action="store_true", help="exit with 3 where a source is beyond its freshness objective"
    )
    command = group.command(
        "promote",
        promote,
        help="Release an index build with everything else as it serves; by its gates and the product's policy.",
        example="plinth index promote docs-assistant 3f9c2a71b0de4455",
    )
    command.add_argument("product")
    command.add_argument("build", help="id of the build, or its first characters")
    command.add_argument("--reason", default="promoted by hand", help="why, for the history and the audit log")
    command.add_argument("--inline", action="store_true", help="run in this process, whether the server is up or not")
    command = group.command(
        "diff",
        diff,
        help="What changed between two index builds: documents, chunks, settings.",
        example="plinth index diff docs-assistant 3f9c2a71b0de4455 77aa01c2d3e4f566",
    )
    command.add_argument("product")
    command.add_argument("before", help="id of a build, or its first characters")
    command.add_argument("after", help="id of the other build")


def build(args: Namespace, out: Output) -> None:
    """Handler of `index build`."""
    from plinth.wiring import Platform

    platform = Platform.from_settings()
    product = _assistant(platform, args.product)
    params = {"sources": _sources(args.source)} if args.source else {}
    result = _run(platform, product, params, out, inline=args.inline)
    _say(platform, product, result, out)


def list_builds(args: Namespace, out: Output) -> None:
    """Handler of `index list`."""
    from plinth.assistants import records
    from plinth.core.corpus import PROBE_TENANT
    from plinth.wiring import Platform

    platform = Platform.from_settings()
    product = _assistant(platform, args.product)
    state = platform.settings.product_dir(product.name)
    serving, pinned = _pinned(platform, product.name)
    complete = platform.assistants.store(product.name).builds()
    rows: list[dict[str, Any]] = [
        {
            "build": record.index.build,
            "made_at": record.made_at,
            "documents": record.index.documents,
            "chunks": sum(count for tenant, count in record.index.chunks.items() if tenant != PROBE_TENANT),
            "embedded": record.embedded,
            "quarantined": len(record.refused),
            "complete": complete.get(record.index.build, False),
            "checks": _checked(state, record.index.build),
            "serving": record.index.build == serving,
            "releases": pinned.get(record.index.build, []),
            "without": list(record.without),
        }
        for record in records.described(state)
    ]
    unfinished = sorted({*records.unfinished(state), *(id for id, done in complete.items() if not done)})
    out.data({"product": product.name, "serving": serving, "builds": rows, "unfinished": unfinished})
    if not rows:
        out.text(f"{product.name} has no index build yet: `plinth index build {product.name}` makes one")
    else:
        out.table(
            ["build", "serving", "made (UTC)", "documents", "chunks", "embedded", "checks", "releases"],
            [
                [
                    row["build"], "yes" if row["serving"] else "", row["made_at"][:19].replace("T", " "),
                    f"{row['documents']:,}", f"{row['chunks']:,}", f"{row['embedded']:,}",
                    row["checks"] if row["complete"] else "not in the store",
                    ", ".join(digest[:12] for digest in row["releases"]),
                ]
                for row in rows
            ],
        )  # fmt: skip
    if unfinished:
        out.text(f"unfinished: {', '.join(unfinished)}; the next build goes on, `plinth gc` removes them")


def status(args: Namespace, out: Output) -> int:
    """Handler of `index status`; with --check, exits with 3 where a source is late."""
    from datetime import UTC, datetime

    from plinth.assistants import indexing
    from plinth.core.durations import seconds
    from plinth.wiring import Platform

    platform = Platform.from_settings()
    product = _assistant(platform, args.product)
    state = platform.settings.product_dir(product.name)
    record = indexing.serving_record(platform.ledger, product.name, state)
    sources = indexing.sources_of(product.answers(), record)
    known = indexing.known_freshness(product, state, record)
    late = indexing.watch(platform.ledger, product, state)
    now, rows = datetime.now(UTC), []
    for spec in sources:
        held, entry = record.sources.get(spec.name) if record else None, known.get(spec.name)
        rows.append(
            {
                "source": spec.name,
                "tenant": spec.tenant,
                "documents": held.documents if held else 0,
                "chunks": held.chunks if held else 0,
                "as_of": entry.as_of if entry else None,
                "age_seconds": round(entry.age(now), 1) if entry else None,
                "lag_seconds": entry.lag_seconds if entry else None,
                "objective_seconds": seconds(spec.freshness),
                "stale": late.get(spec.name, ""),
                "away": entry.away if entry else "",
            }
        )
    refused = [item.model_dump() for item in record.refused] if record else []
    build = record.index.build if record else None
    out.data({"product": product.name, "build": build, "sources": rows, "quarantined": refused})
    _show_status(out, product.name, build, rows, refused)
    return 3 if args.check and (late or record is None) else 0


def _show_status(
    out: Output, product: str, build: str | None, rows: list[dict[str, Any]], refused: list[dict[str, Any]]
) -> None:
    out.text(f"{product} serves index build {build}" if build else f"{product} serves nothing yet")
    out.table(
        ["source", "documents", "chunks", "as of (UTC)", "lag", "objective", ""],
        [
            [
                row["source"], f"{row['documents']:,}", f"{row['chunks']:,}",
                (row["as_of"] or "")[:19].replace("T", " "),
                "" if row["lag_seconds"] is None else f"{row['lag_seconds']:.1f} s",
                f"{row['objective_seconds']} s", f"STALE: {row['stale']}" if row["stale"] else row["away"],
            ]
            for row in rows
        ],
    )  # fmt: skip
    if refused:
        out.text(f"{len(refused)} files are quarantined:")
        out.table(
            ["source", "file", "kind", "reason"],
            [[item["source"], item["path"], item["kind"], item["reason"]] for item in refused],
        )


def promote(args: Namespace, out: Output) -> None:
    """Handler of `index promote`."""
    from plinth.assistants import checks, indexing, records, releases
    from plinth.errors import RefusedByPolicy
    from plinth.wiring import Platform

    platform = Platform.from_settings()
    product = _assistant(platform, args.product)
    state = platform.settings.product_dir(product.name)
    record = records.read_build(records.build_folder(state, _build(state, args.build, platform, product.name)))
    checks.require_complete(record, indexing.engine_of(platform.assistants, product.name, product.answers()))
    result = _run(platform, product, {"index": record.index.build}, out, inline=args.inline)
    outcome: Any = result.output
    if not outcome.accepted:
        _say(platform, product, result, out)
        raise RefusedByPolicy(
            f"index build {record.index.build} is not promoted: its gates said no: {', '.join(outcome.failed_gates)}",
            where=product.name, hint=f"`plinth release show {outcome.release[:12]}` has the evidence",
        )  # fmt: skip
    moved = releases.move(
        platform.ledger, platform.aliases_for(product.name), product, outcome.release, direct=True,
        actor=platform.actor, reason=args.reason,
    )  # fmt: skip
    out.data(
        {
            "product": product.name,
            "build": record.index.build,
            "release": outcome.release,
            "promoted": moved.promoted is not None,
            "generation": moved.promoted.serving.generation if moved.promoted else None,
            "rollout": moved.rollout.id if moved.rollout else None,
        }
    )
    if moved.promoted is not None:
        out.text(f"{product.name} serves release {outcome.release[:12]} with index build {record.index.build}")
    elif moved.rollout is not None:
        out.text(f"rollout {moved.rollout.id} began: `plinth rollout status {product.name}`")


def diff(args: Namespace, out: Output) -> None:
    """Handler of `index diff`."""
    from plinth.assistants.diff import compare
    from plinth.wiring import Platform

    platform = Platform.from_settings()
    product = _assistant(platform, args.product)
    state = platform.settings.product_dir(product.name)
    before, after = (_build(state, given, platform, product.name) for given in (args.before, args.after))
    found = compare(state, before, after)
    out.data({"product": product.name, "before": before, "after": after, **found.as_dict()})
    for sign, documents in (("+", found.added), ("-", found.removed), ("~", found.changed)):
        for document in documents:
            out.text(f"{sign} {document}")
    for name, (old, new) in found.settings.items():
        out.text(f"  {name}: {old} -> {new}")
    out.text(f"chunks: {found.chunks_added} added, {found.chunks_removed} removed, {found.chunks_kept} kept")


# Parts ----------------------------------------------------------------------------------------------------------------


def _assistant(platform: Platform, name: str) -> Product:
    product = platform.products.get(name).spec
    product.answers()
    return product


def _sources(given: list[str]) -> dict[str, str]:
    from pathlib import Path

    from plinth.errors import InvalidInput

    sources: dict[str, str] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or not name or not path or name in sources:
            raise InvalidInput(f"--source {text!r} is not NAME=PATH, or is given twice", hint="--source handbook=docs")
        sources[name] = str(Path(path).resolve())  # of where the command is typed, not of the workspace
    return sources


def _build(state: Path, given: str, platform: Platform, product: str) -> str:
    """The id of the one build that starts so. Builds that were begun only count, too: to be refused with the reason."""
    from plinth.assistants import records
    from plinth.errors import InvalidInput, NotFound, RefusedByPolicy

    finished = [record.index.build for record in records.described(state)]
    fitting = [id for id in finished if given and id.startswith(given)]
    if len(fitting) > 1:
        raise InvalidInput(f"several index builds start with {given}", hint="give more characters")
    if fitting:
        return fitting[0]
    begun = {*records.unfinished(state), *platform.assistants.store(product).builds()} - set(finished)
    if any(given and id.startswith(given) for id in begun):
        raise RefusedByPolicy(
            f"index build {given} is not complete",
            where=product,
            hint=f"`plinth index build {product}` goes on with it",
        )
    raise NotFound(f"no index build {given}", where=product, hint=f"`plinth index list {product}` names them")


def _pinned(platform: Platform, product: str) -> tuple[str | None, dict[str, list[str]]]:
    """The build that serves, and each build's releases."""
    current = platform.ledger.current(product)
    serving, pinned = None, dict[str, list[str]]()
    for record in platform.ledger.releases(product):
        if record.manifest.assistant is None:
            continue
        id = record.manifest.assistant.index.build
        pinned.setdefault(id, []).append(record.digest)
        if current is not None and current.digest == record.digest:
            serving = id
    return serving, pinned


def _checked(state: Path, id: str) -> str:
    """What the last checks of a build said."""
    from plinth.assistants.records import read_checks

    rows = read_checks(state, id)
    if rows is None:
        return "not checked"
    failed = [row["check"] for row in rows if not row["passed"]]
    return f"failed: {', '.join(failed)}" if failed else "passed"


def _run(platform: Platform, product: Product, params: dict[str, Any], out: Output, *, inline: bool) -> RunResult:
    """Run the product's pipeline `build`, showing how far it is."""
    from plinth.assistants.indexing import PROGRESS
    from plinth.runtime import pipelines

    if not inline and pipelines.without_server(platform):
        out.note(f"no Prefect server at {platform.settings.prefect_api_url} (`plinth up`): running in this process")
        inline = True
    with out.progress() as progress:
        task = progress.add_task("starting", total=None)

        def show(name: str, record: StepRecord | None) -> None:
            if record is None:
                progress.update(task, description=name, total=None, completed=0)
            else:
                how = "unchanged, skipped" if record.cached else f"{record.seconds:.1f} s"
                out.note(f"  {'ok' if record.status == 'completed' else 'failed':6} {record.name} ({how})")

        def tell(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total)

        token = PROGRESS.set(tell)
        try:
            return pipelines.run(platform, product.name, "build", params, inline=inline, on_step=show)
        finally:
            PROGRESS.reset(token)


def _say(platform: Platform, product: Product, result: RunResult, out: Output) -> None:
    from dataclasses import asdict

    from plinth.assistants import records

    outcome: Any = result.output
    folder = records.build_folder(platform.settings.product_dir(product.name), outcome.build)
    record = records.read_build(folder)
    counts = {
        "documents": record.index.documents, "chunks": sum(source.chunks for source in record.sources.values()),
        "embedded": record.embedded,
    }  # fmt: skip
    out.data({"product": product.name, "run_id": result.run_id, "seconds": result.seconds, **counts, **asdict(outcome)})
    out.text(
        f"index build {outcome.build}: {counts['documents']:,} documents, {counts['chunks']:,} chunks, "
        f"{counts['embedded']:,} embedded, {outcome.quarantined} files quarantined"
    )
    for problem in outcome.away:
        out.note(f"note: {problem}; what it had before stays")
    verdict = "accepted" if outcome.accepted else f"rejected: {', '.join(outcome.failed_gates)}"
    out.text(f"release {outcome.release[:12]}: {verdict}")
    if outcome.accepted:
        name, short = product.name, outcome.release[:12]
        out.text(f"next: plinth release promote {name} {short}, or plinth rollout start {name} --to {short}")
