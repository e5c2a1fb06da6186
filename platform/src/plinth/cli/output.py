"""How a command speaks: data on standard output (text or stable JSON), progress and notes on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from plinth.errors import PlinthError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


class Output:
    """Renders for people or, with `--json`, for machines.

    Args:
        json_mode: For machines.
        profile: The profile that the command line named: next steps are meant for it as well.
    """

    def __init__(self, *, json_mode: bool = False, profile: str | None = None) -> None:
        self.json_mode = json_mode
        self.profile = profile

    @property
    def console(self) -> Console:
        """A rich console on standard error, made when first asked for."""
        if not hasattr(self, "_console"):
            from rich.console import Console

            # Without a terminal there is no width to go by: wide enough for a table, narrow enough for a log.
            self._console = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else 120)
        return self._console

    def data(self, value: Any) -> None:
        """In JSON mode, print `value` as the command's one JSON document; otherwise nothing."""
        if self.json_mode:
            sys.stdout.write(json.dumps(value, indent=2, default=str, ensure_ascii=False) + "\n")

    def text(self, line: str = "") -> None:
        """A line of the answer, for people."""
        if not self.json_mode:
            sys.stdout.write(line + "\n")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A table of the answer, for people. What somebody wrote into a cell cannot steer the reader's terminal."""
        if self.json_mode:
            return
        from rich import box
        from rich.console import Console
        from rich.table import Table

        table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
        for row in rows:
            table.add_row(*("" if cell is None else harmless(str(cell)) for cell in row))
        console = Console(highlight=False, width=None if sys.stdout.isatty() else 160, markup=False)
        with console.capture() as shown:  # written by us: rich exits with 1 where the reader went away
            console.print(table)
        sys.stdout.write(shown.get())

    def note(self, line: str) -> None:
        """A remark beside the answer, on standard error."""
        sys.stderr.write(self._meant(line) + "\n")

    def error(self, error: PlinthError) -> None:
        """An error, once: as JSON on standard output in JSON mode, as text on standard error otherwise."""
        if self.json_mode:
            self.data({"error": {**error.as_dict(), "next": self._meant(error.hint)}})
            return
        sys.stderr.write(f"error: {error.what}\n")
        if error.where:
            sys.stderr.write(f"  where: {error.where}\n")
        if error.hint:
            sys.stderr.write(f"  next:  {self._meant(error.hint)}\n")

    def _meant(self, text: str) -> str:
        """The commands in a next step, for the profile that this command was for: `plinth up` is another one's."""
        if self.profile != "compose":
            return text
        import re

        from plinth.cli.overview import COMMANDS

        words = "|".join(word for word in COMMANDS if word not in {"init", "reset"})
        return re.sub(rf"\bplinth (?=(?:{words})\b)", "plinth --profile compose ", text)

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """A progress display on standard error; silent when standard error is no terminal."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        with Progress(
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            console=self.console, transient=True, disable=not self.console.is_terminal,
        ) as progress:  # fmt: skip
            yield progress


def harmless(text: str) -> str:
    """Text from elsewhere without signs that would steer the terminal."""
    return "".join(sign if sign.isprintable() or sign == "\n" else "\N{REPLACEMENT CHARACTER}" for sign in text)
