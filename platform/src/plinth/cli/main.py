"""The `plinth` command: builds the parser, calls one handler, renders errors once.

argparse and not a richer framework: `plinth --help` is held to three times `python -c pass`, and importing
click or typer alone takes more (docs/adr/0004-argparse.md has the numbers).
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from plinth import __version__
from plinth.cli.command import Groups

# One module a group of commands. Each has `register(groups)` and imports nothing but argparse's vocabulary at the
# top; what a handler needs it imports inside.
MODULES = (
    "platform", "product", "contract", "pipeline", "model", "predict", "drift", "release", "demo",
)  # fmt: skip


def build_parser() -> argparse.ArgumentParser:
    """The whole command tree. Imports no tool."""
    parser = argparse.ArgumentParser(
        prog="plinth",
        description="One reference platform for AI products: contracts, features, models, releases, serving, monitoring.",
        epilog="Start with: plinth demo flight-delays",
    )
    parser.add_argument("--version", action="version", version=f"plinth {__version__}")
    groups = Groups(parser)
    for name in MODULES:
        importlib.import_module(f"plinth.cli.{name}").register(groups)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns the exit code: 0 done, 1 failed, 2 bad use, 3 refused by policy."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if not hasattr(args, "handler"):
        parser.print_help()
        return 0
    from plinth.cli.output import Output
    from plinth.errors import PlinthError

    out = Output(json_mode=args.json)
    try:
        return int(args.handler(args, out) or 0)
    except PlinthError as error:
        out.error(error)
        return error.exit_code
    except KeyboardInterrupt:
        out.note("interrupted")
        return 130
    except BrokenPipeError:
        # The reader of our output went away (`plinth ... | head`): not our failure.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def run() -> None:
    """Console script."""
    sys.exit(main())


if __name__ == "__main__":
    run()
