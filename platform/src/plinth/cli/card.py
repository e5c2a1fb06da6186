"""The card of a release, for `plinth release card` and `plinth model card`."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from plinth.cli.output import Output


def arguments(command: argparse.ArgumentParser) -> None:
    """The arguments of a command that writes a card."""
    command.add_argument("product")
    command.add_argument("--release", metavar="DIGEST", help="release; default the serving one, else the newest")
    command.add_argument("--html", action="store_true", help="an HTML page with plots instead of Markdown")
    command.add_argument("--output", metavar="FILE", help="write to a file instead of standard output")


def write(args: Namespace, out: Output) -> None:
    """Handler."""
    from pathlib import Path

    from plinth.errors import Unavailable
    from plinth.governance import document
    from plinth.runtime import release_card
    from plinth.wiring import Platform

    platform = Platform.from_settings()
    sections, release = release_card.sections(platform, args.product, args.release)
    text = document.to_html(sections, sections[0].title) if args.html else document.to_markdown(sections)
    kind = "html" if args.html else "markdown"
    if args.output:
        try:
            Path(args.output).write_text(text, encoding="utf-8")
        except OSError as error:
            raise Unavailable(
                f"the card cannot be written: {error.strerror}", where=args.output, hint="give another --output"
            ) from error
        out.data({"release": release, "format": kind, "file": args.output})
        out.text(f"wrote {args.output}")
        return
    out.data({"release": release, "format": kind, "card": text})
    out.text(text)
