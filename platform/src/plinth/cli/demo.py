"""`plinth demo`: a product's story, from raw data to a watched prediction."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from plinth.cli.command import Groups

if TYPE_CHECKING:
    from plinth.cli.output import Output


def register(groups: Groups) -> None:
    """Declare the command."""
    command = groups.command(
        "demo",
        demo,
        help="Run a product's story: train, serve, watch, retrain, release, roll back.",
        example="plinth demo flight-delays --keep-up",
    )
    command.add_argument("product", nargs="?", default="flight-delays")
    command.add_argument("--keep-up", action="store_true", help="leave the services running for looking around")
    command.add_argument(
        "--until", metavar="YYYY-MM-DD", help="flight-delays: stop the replay before this day (default: whole story)"
    )
    command.add_argument(
        "--source", action="append", metavar="NAME=PATH",
        help="docs-assistant: read a folder, or a file with a URL a line, beside this repository's documents",
    )  # fmt: skip


def demo(args: Namespace, out: Output) -> None:
    """Handler of `demo`."""
    import inspect

    from plinth.errors import InvalidInput, NotFound
    from plinth.pipelines.entry import load_entry
    from plinth.wiring import Platform

    platform = Platform.from_settings()
    product = platform.products.get(args.product)
    if product.spec.demo is None:
        raise NotFound(
            f"{args.product} has no demo",
            where=str(product.folder / "product.yaml"),
            hint="add `demo: package.module:function`",
        )
    story = load_entry(product.spec.demo)
    chosen = {name: value for name in ("until", "source") if (value := getattr(args, name)) is not None}
    unknown = [name for name in chosen if name not in inspect.signature(story).parameters]
    if unknown:
        raise InvalidInput(
            f"the demo of {args.product} has no --{unknown[0]}", where=f"--{unknown[0]}", hint="leave it out"
        )
    out.data(story(platform, product, out.console, keep_up=args.keep_up, **chosen))
