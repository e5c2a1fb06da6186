"""The `plinth` command: builds the parser, calls one handler, renders errors once.

argparse and not a richer framework: `plinth --help` is held to three times `python -c pass`, and importing
click or typer alone takes more (docs/adr/0004-argparse.md has the numbers).
"""

from __future__ import annotations

import sys

from plinth import __version__
from plinth.cli.overview import COMMANDS, DESCRIPTION, EPILOG, MODULES, PROFILE_HELP, PROFILES, help_text

TYPE_CHECKING = False  # `typing` is not imported for the sake of one constant
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence


def build_parser(word: str = "") -> argparse.ArgumentParser:
    """The command tree: the part that the first word of a command line needs, or all of it. Imports no tool."""
    import argparse
    import importlib

    from plinth.cli.command import Groups

    parser = argparse.ArgumentParser(
        prog="plinth",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    parser.add_argument("--profile", choices=PROFILES, metavar="NAME", help=PROFILE_HELP)
    parser.add_argument("--version", action="version", version=f"plinth {__version__}")
    groups = Groups(parser)
    # One module a group of commands. Each has `register(groups)` and imports what a handler needs inside of it.
    for name in (COMMANDS[word][0],) if word in COMMANDS else MODULES:
        importlib.import_module(f"plinth.cli.{name}").register(groups)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns the exit code: 0 done, 1 failed, 2 bad use, 3 refused by policy."""
    words = list(sys.argv[1:] if argv is None else argv)
    word = first_word(words)
    if word in {"", "-h", "--help"}:
        sys.stdout.write(help_text())
        return 0
    parser = build_parser(word)
    args = parser.parse_args(words)
    if not hasattr(args, "handler"):
        parser.print_help()
        return 0
    from plinth.cli.profile import in_profile

    with in_profile(args.profile):
        return _handle(args)


def first_word(words: Sequence[str]) -> str:
    """The word of the command line behind `--profile`; empty where there is none."""
    rest = iter(words)
    for word in rest:
        if word == "--profile":
            if next(rest, None) not in PROFILES:
                return word  # for argparse to refuse
        elif not (word.startswith("--profile=") and word[10:] in PROFILES):
            return word
    return ""


def _handle(args: argparse.Namespace) -> int:
    from plinth.cli.output import Output
    from plinth.errors import PlinthError

    out = Output(json_mode=args.json, profile=args.profile)
    try:
        code = int(args.handler(args, out) or 0)
        sys.stdout.flush()  # here, where a reader that went away is no failure
        return code
    except PlinthError as error:
        out.error(error)
        return error.exit_code
    except KeyboardInterrupt:
        out.note("interrupted")
        return 130
    except BrokenPipeError:
        import os

        # The reader of our output went away (`plinth ... | head`): not our failure.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def run() -> None:
    """Console script."""
    sys.exit(main())


if __name__ == "__main__":
    run()
