"""`plinth tenant`: who may ask an assistant for more than what is everybody's."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from plinth.cli.command import Groups

if TYPE_CHECKING:
    from pathlib import Path

    from plinth.cli.output import Output
    from plinth.wiring import Platform


def register(groups: Groups) -> None:
    """Declare the commands."""
    group = groups.group("tenant", help="Tenants of an assistant: add, list.")
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


def add(args: Namespace, out: Output) -> None:
    """Handler."""
    from plinth.assistants import tenants
    from plinth.wiring import Platform

    platform = Platform.from_settings()
    key = tenants.add(_folder(platform, args.product), args.name, args.label)
    platform.ledger.append_audit(
        platform.actor, "tenant.add", args.product, {"tenant": args.name, "labels": args.label}
    )
    out.data({"product": args.product, "tenant": args.name, "labels": args.label, "key": key})
    out.text(key)
    out.note("this key is shown once; ask with `plinth ask --key KEY`, or `Authorization: Bearer KEY`")


def list_tenants(args: Namespace, out: Output) -> None:
    """Handler."""
    from plinth.assistants import tenants
    from plinth.wiring import Platform

    found = tenants.tenants(_folder(Platform.from_settings(), args.product))
    out.data([{"tenant": tenant.name, "labels": list(tenant.labels)} for tenant in found])
    out.table(["tenant", "labels"], [[tenant.name, ", ".join(tenant.labels)] for tenant in found])


def _folder(platform: Platform, product: str) -> Path:
    """The state folder of an assistant.

    Raises:
        NotFound: There is no such product.
        RefusedByPolicy: It is no assistant.
    """
    platform.products.get(product).spec.answers()
    return platform.settings.product_dir(product)
