"""How a command is declared: one line a command, with an example and `--json` on every one."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plinth.cli.output import Output

Handler = Callable[[argparse.Namespace, "Output"], int | None]


class Commands:
    """A place that commands are added to: the root, or one group."""

    def __init__(self, subparsers: Any, prefix: str) -> None:
        self._subparsers = subparsers
        self._prefix = prefix

    def command(self, name: str, handler: Handler, *, help: str, example: str) -> argparse.ArgumentParser:
        """Declare a command; the caller adds its arguments to the parser that comes back.

        Args:
            name: The command's word.
            handler: Called with the parsed arguments and the output; returns the exit code (None is 0).
            help: One sentence.
            example: A command line that works, shown under `--help` and run by the docs tests.
        """
        parser: argparse.ArgumentParser = self._subparsers.add_parser(
            name,
            help=help,
            description=help,
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument("--json", action="store_true", help="print stable JSON on standard output")
        parser.set_defaults(handler=handler)
        return parser


class Groups(Commands):
    """The root of the command tree."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__(parser.add_subparsers(title="commands", metavar="COMMAND"), "plinth")

    def group(self, name: str, *, help: str) -> Commands:
        """A group of commands, such as `plinth product ...`."""
        parser = self._subparsers.add_parser(name, help=help, description=help)
        subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
        return Commands(subparsers, f"plinth {name}")
