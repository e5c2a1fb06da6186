"""`plinth release` and `plinth rollback`: what was released, what serves, what differs, promote and roll back."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from plinth.cli import card
from plinth.cli.command import Groups

if TYPE_CHECKING:
    import argparse

    from plinth.cli.output import Output
    from plinth.core.assistants import AssistantConfig
    from plinth.core.releases import ReleaseManifest
    from plinth.ledger.store import Serving
    from plinth.wiring import Platform

WAITING = "note: the aliases follow when the controller, or the next promote or rollback, sets them"


def register(groups: Groups) -> None:
    """Declare the commands."""
    group = groups.group("release", help="Immutable releases: list, show, diff, card, promote, roll back.")
    command = group.command(
        "list", list_releases, help="A product's releases, newest first.", example="plinth release list flight-delays"
    )
    command.add_argument("product")
    command = group.command(
        "show",
        show,
        help="One release: what it pins, its gates, and the way back to data, code and features.",
        example="plinth release show 3f9c2a71b0de",
    )
    command.add_argument("digest", help="digest of the release, or its first characters")
    command = group.command(
        "diff",
        diff,
        help="Which pinned parts differ between two releases of a product.",
        example="plinth release diff flight-delays 3f9c2a71b0de 81d0c7e4f2aa",
    )
    command.add_argument("product")
    command.add_argument("before", metavar="A", help="digest of a release, or its first characters")
    command.add_argument("after", metavar="B", help="digest of the other one")
    command = group.command(
        "card",
        card.write,
        help="The card of a release, as Markdown or one HTML page: of a model, or of a whole assistant.",
        example="plinth release card flight-delays --html --output card.html",
    )
    card.arguments(command)
    command = group.command(
        "promote",
        promote,
        help="Make a product serve a release.",
        example='plinth release promote flight-delays 3f9c2a71b0de --reason "better calibrated"',
    )
    command.add_argument("product")
    command.add_argument("digest", help="digest of the release, or its first characters")
    command.add_argument("--reason", default="promoted by hand", help="why, for the history and the audit log")
    command = group.command(
        "rollback",
        rollback,
        help="Make a product serve an earlier release again: the same as `plinth rollback`.",
        example='plinth release rollback flight-delays --reason "too many complaints"',
    )
    _rollback_arguments(command)
    command = groups.command(
        "rollback",
        rollback,
        help="Take a bad release away at once: abort the rollout that runs, else serve the release before again.",
        example='plinth rollback flight-delays --reason "too many complaints"',
    )
    _rollback_arguments(command)


def _rollback_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("product")
    command.add_argument("--to", metavar="DIGEST", help="release to go back to; default the one that served before")
    command.add_argument("--reason", default="rolled back by hand", help="why, for the history and the audit log")


def list_releases(args: Namespace, out: Output) -> None:
    """Handler of `release list`."""
    from plinth.cli.release_view import METRICS, brief, kind, metric
    from plinth.wiring import Platform

    platform = Platform.from_settings()
    product = platform.products.named(args.product)
    serving = platform.ledger.current(product)
    records = platform.ledger.releases(product)
    now = serving.digest if serving else ""
    out.data(
        {
            "product": product,
            "generation": serving.generation if serving else 0,
            "releases": [
                {
                    "digest": record.digest,
                    "status": record.status,
                    "serving": record.digest == now,
                    "created_at": record.created_at,
                    "created_by": record.created_by,
                    **kind(record.manifest),
                    "metrics": record.manifest.metrics,
                }
                for record in records
            ],
        }
    )
    if not records:
        out.text(f"{product} has no release yet: a pipeline makes one (`plinth product show {product}` names them)")
        return
    columns = ["auc"] if records[0].manifest.assistant is None else list(records[0].manifest.metrics)[:METRICS]
    out.table(
        ["release", "status", "serving", "created (UTC)", "what", *columns],
        [
            [
                record.digest[:12],
                record.status,
                "yes" if record.digest == now else "",
                record.created_at[:19].replace("T", " "),
                brief(record.manifest),
                *(metric(record.manifest, name) for name in columns),
            ]
            for record in records
        ],
    )


def show(args: Namespace, out: Output) -> None:
    """Handler of `release show`."""
    from plinth.cli.release_view import pinned
    from plinth.governance.lineage import walk
    from plinth.wiring import Platform

    platform = Platform.from_settings()
    record = platform.ledger.release(args.digest)
    manifest = record.manifest
    lineage = walk(platform.ledger, record)
    out.data(
        {
            "digest": record.digest,
            "product": record.product,
            "status": record.status,
            "created_at": record.created_at,
            "created_by": record.created_by,
            "manifest": manifest.model_dump(mode="json"),
            "lineage": lineage,
        }
    )
    out.text(f"release  {record.digest}")
    out.text(
        f"product  {record.product}   status  {record.status}   created  {record.created_at} by {record.created_by}"
    )
    for line in pinned(manifest, _config(platform, manifest)):
        out.text(line)
    for contract in manifest.contracts:
        out.text(f"contract {contract.id} {contract.version}, {contract.digest[:12]}")
    out.table(
        ["data", "role", "from", "to", "rows", "digest"],
        [[data.name, data.role, data.start, data.end, f"{data.rows:,}", data.digest[:12]] for data in manifest.data],
    )
    out.table(
        ["gate", "verdict", "observed", "bound", "reason"],
        [
            [
                verdict.gate,
                "passed" if verdict.passed else "FAILED",
                "" if verdict.observed is None else f"{verdict.observed:.5g}",
                "" if verdict.bound is None else f"{verdict.bound:.5g}",
                verdict.reason,
            ]
            for verdict in manifest.verdicts
        ],
    )
    out.table(["artefact", "sha256"], sorted(manifest.artifacts.items()))


def diff(args: Namespace, out: Output) -> None:
    """Handler of `release diff`: what was judged of a release is no part of it, and is not compared."""
    from plinth.errors import InvalidInput
    from plinth.governance.changes import changes
    from plinth.wiring import Platform

    platform = Platform.from_settings()
    product = platform.products.named(args.product)
    before, after = platform.ledger.release(args.before), platform.ledger.release(args.after)
    for record in (before, after):
        if record.product != product:
            raise InvalidInput(
                f"release {record.digest[:12]} is of {record.product}, not of {product}",
                where="A and B",
                hint=f"`plinth release list {product}`",
            )
    configs = _config(platform, before.manifest), _config(platform, after.manifest)
    found = changes(before.manifest, after.manifest, configs)
    out.data(
        {
            "product": product,
            "before": before.digest,
            "after": after.digest,
            "changes": [change.as_dict() for change in found],
        }
    )
    if not found:
        out.text(f"{before.digest[:12]} and {after.digest[:12]} pin the same")
        return
    out.table(
        ["part", before.digest[:12], after.digest[:12]],
        [[change.part, change.before or "none", change.after or "none"] for change in found],
    )


def _config(platform: Platform, manifest: ReleaseManifest) -> AssistantConfig | None:
    """An assistant's configuration; None of a model's release, and once it is collected."""
    from plinth.assistants.releases import config_of
    from plinth.errors import NotFound

    if manifest.assistant is None:
        return None
    try:
        return config_of(platform.artifacts, manifest)
    except NotFound:
        return None


def promote(args: Namespace, out: Output) -> None:
    """Handler of `release promote`: refused where the product's policy wants a rollout."""
    from plinth.rollouts import commands
    from plinth.wiring import Platform

    platform = Platform.from_settings()
    product = platform.products.get(args.product).spec
    change = commands.promote(
        platform.ledger,
        platform.aliases_for(product.name),
        product,
        args.digest,
        actor=platform.actor,
        reason=args.reason,
    )
    serving, before = change.serving, change.previous
    out.data(_document(serving, before.digest if before else None, change.projected))
    was = f" (was {before.digest[:12]})" if before else ""
    out.text(f"{serving.product}: promoted to {serving.digest[:12]}{was}, generation {serving.generation}")
    if not change.projected:
        out.note(WAITING)


def rollback(args: Namespace, out: Output) -> None:
    """Handler of `rollback` and `release rollback`."""
    from plinth.rollouts import commands
    from plinth.wiring import Platform

    platform = Platform.from_settings()
    product = platform.products.named(args.product)
    done = commands.rollback(
        platform.ledger, platform.aliases_for(product), product, args.to, actor=platform.actor, reason=args.reason
    )
    aborted = done.aborted
    out.data({**_document(done.serving, done.bad or None, done.projected), "rollout": aborted.id if aborted else None})
    ended = f", rollout {aborted.id} ended" if aborted else ""
    out.text(
        f"{product}: rolled back to {done.serving.digest[:12]} (was {done.bad[:12]}), "
        f"generation {done.serving.generation}{ended}"
    )
    if not done.projected and not aborted:
        out.note(WAITING)


def _document(serving: Serving, previous: str | None, projected: bool) -> dict[str, Any]:
    return {
        "product": serving.product,
        "digest": serving.digest,
        "generation": serving.generation,
        "previous": previous,
        "projected": projected,
    }
