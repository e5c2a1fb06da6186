"""`plinth tenant`: who may ask an assistant for more than what is everybody's."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from plinth.cli.command import Groups

if TYPE_CHECKING:
    from pathlib import Path

    from plinth.cli.output import Output
    from plinth.wiring import Platform


def register(groups: Groups) -> None:
    """Declare the commands."""
    group = groups.group("tenant", help="Tenants of an assistant: add, list, delete.")
    command = group.command(
        "add",
        add,
        help="Add a tenant and print its key, once: only its sha256 is kept.",
        example="plinth tenant add docs-assistant acme --label finance",
    )
    command.add_argument("product")
    command.add_argument("name", help="small letters, digits and hyphens")
    command.add_argument(
        "--label", action="append", default=[], metavar="L", help="documents with this label are read; may be repeated"
    )
    command = group.command(
        "list", list_tenants, help="The tenants of an assistant.", example="plinth tenant list docs-assistant"
    )
    command.add_argument("product")
    command = group.command(
        "delete",
        delete,
        help="Delete everything of a tenant: keys, documents in every index build, answers; and prove that it is gone.",
        example="plinth tenant delete docs-assistant acme --yes",
    )
    command.add_argument("product")
    command.add_argument("name", help="the tenant")
    command.add_argument("--yes", action="store_true", help="it cannot be undone: say that this is meant")


def add(args: Namespace, out: Output) -> None:
    """Handler."""
    from plinth.assistants import tenants
    from plinth.assistants.tombstones import refuse_deleted
    from plinth.wiring import Platform

    platform = Platform.from_settings()
    refuse_deleted(platform.ledger, args.product, args.name)
    key = tenants.add(_folder(platform, args.product), args.name, args.label)
    platform.ledger.append_audit(
        platform.actor, "tenant.add", args.product, {"tenant": args.name, "labels": args.label}
    )
    out.data({"product": args.product, "tenant": args.name, "labels": args.label, "key": key})
    out.text(key)
    out.note("this key is shown once; ask with `plinth ask --key KEY`, or the header `X-Plinth-Key: KEY`")


def list_tenants(args: Namespace, out: Output) -> None:
    """Handler."""
    from plinth.assistants import tenants
    from plinth.wiring import Platform

    found = tenants.tenants(_folder(Platform.from_settings(), args.product))
    out.data([{"tenant": tenant.name, "labels": list(tenant.labels)} for tenant in found])
    out.table(["tenant", "labels"], [[tenant.name, ", ".join(tenant.labels)] for tenant in found])


def delete(args: Namespace, out: Output) -> None:
    """Handler."""
    from plinth.assistants.removal import remove_tenant
    from plinth.errors import InvalidInput
    from plinth.runtime.log_archive import drop_answers
    from plinth.wiring import Platform

    platform = Platform.from_settings()
    folder = _folder(platform, args.product)
    if not args.yes:
        raise InvalidInput(
            f"deleting {args.name} cannot be undone", where="plinth tenant delete", hint="add --yes if it is meant"
        )
    removed = remove_tenant(
        platform.ledger,
        platform.assistants.store(args.product),
        args.product,
        folder,
        args.name,
        replace=lambda: _serve_without(platform, args.product, args.name),
        flush=lambda: _flush(platform, args.product),
        archived=lambda: drop_answers(platform, args.product, args.name),
        caches=(platform.settings.state_dir / "cache" / "steps", platform.settings.state_dir / "logs"),
        actor=platform.actor,
    )
    out.data({"product": args.product, **removed.as_dict()})
    chunks = sum(removed.builds.values())
    out.text(f"{removed.tenant}: {chunks} chunks left {len(removed.builds)} index builds, {removed.answers} answers")
    out.text(
        f"proof: {removed.files:,} files ({removed.size >> 20} MiB) searched for {removed.windows:,} pieces of its "
        f"texts: {len(removed.findings)} found"
    )


def _serve_without(platform: Platform, product: str, tenant: str) -> None:
    """Release and promote the serving index without the tenants that were deleted."""
    from plinth.assistants import indexing, releases
    from plinth.errors import RefusedByPolicy
    from plinth.runtime import pipelines

    spec = platform.products.get(product).spec
    state = platform.settings.product_dir(product)
    serving = indexing.serving_record(platform.ledger, product, state)
    if serving is None:
        raise RefusedByPolicy("what the serving index is made of cannot be read", where=product, hint="plinth fsck")
    made = indexing.index_without_deleted(platform.assistants, platform.ledger, spec, state, serving)
    outcome: Any = pipelines.run(platform, product, "build", {"index": made.index.build}, inline=True).output
    if not outcome.accepted:
        raise RefusedByPolicy(
            f"the release without {tenant} was rejected by its gates: {', '.join(outcome.failed_gates)}",
            where=product,
            hint=f"`plinth release show {outcome.release[:12]}` has the evidence",
        )
    releases.move(
        platform.ledger, platform.aliases_for(product), spec, outcome.release, direct=True, actor=platform.actor,
        reason=f"tenant {tenant} was deleted",
    )  # fmt: skip


def _flush(platform: Platform, product: str) -> None:
    """Have the running service write its answers."""
    from plinth.assistants.probing import Service

    for url in platform.service_urls(product):
        Service(url, key="", headers=platform.service_headers(product)).flush()


def _folder(platform: Platform, product: str) -> Path:
    """The state folder of an assistant.

    Raises:
        NotFound: There is no such product.
        RefusedByPolicy: It is no assistant.
    """
    platform.products.get(product).spec.answers()
    return platform.settings.product_dir(product)
