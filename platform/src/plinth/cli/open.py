"""`plinth open`: where a tool's or product's page is, and where its credentials are."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from plinth.cli.command import Groups

if TYPE_CHECKING:
    from plinth.cli.output import Output


def register(groups: Groups) -> None:
    """Declare the command."""
    command = groups.command(
        "open",
        open_page,
        help="Open a tool's or product's page, or print its address, and where its credentials are.",
        example="plinth open mlflow --print",
    )
    command.add_argument("name", help="grafana, mlflow, prefect, prometheus, qdrant, or a product's name")
    command.add_argument("--print", action="store_true", help="print the address and open nothing")


def open_page(args: Namespace, out: Output) -> None:
    """Handler. What the credentials are is never printed."""
    import sys

    from plinth.runtime.pages import answers, page
    from plinth.wiring import Platform

    found = page(Platform.from_settings(), args.name)
    up = answers(found.url)
    out.data({"name": found.name, "url": found.url, "answers": up, "credentials": found.credentials})
    out.text(found.url)
    out.text(f"credentials: {found.credentials}")
    if not up:
        out.note(f"nothing answers there now; next: {found.start}")
    elif not args.print and not args.json and sys.stdout.isatty() and _display():
        import webbrowser

        webbrowser.open(found.url)


def _display() -> bool:
    """Whether there is a screen to open a browser on."""
    import os
    import sys

    return sys.platform in {"darwin", "win32"} or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
