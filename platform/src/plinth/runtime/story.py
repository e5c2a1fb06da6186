"""What the products' stories (`plinth demo`) share: the profile around them, ended as it was found."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from plinth.runtime.port import Status
from plinth.runtime.profiles import profile

if TYPE_CHECKING:
    from rich.console import Console

    from plinth.wiring import Platform


@contextmanager
def left_as_found(platform: Platform, console: Console, *, keep_up: bool) -> Iterator[None]:
    """The block may start the profile; afterwards it runs only if it ran before, is to be kept up, or stands by itself.

    A closed terminal or a `timeout` ends the story as Ctrl-C does: the services must not stay behind.
    """

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    runs = profile(platform)
    ran_before = runs.standing or runs.running()
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if runs.standing:
            pass
        elif keep_up or ran_before:
            console.print("The services are still running: `plinth status`, `plinth down`.")
        else:
            runs.down()


def waiting_for(status: Status) -> str:
    """A line of who is not healthy yet."""
    late = [service.name for service in status.services if service.health != "healthy"]
    return f"   waiting for {', '.join(late)} ..." if late else "   all healthy"
