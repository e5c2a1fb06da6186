"""`plinth controller`: the process that moves rollouts, in the foreground."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from plinth.cli.command import Groups

if TYPE_CHECKING:
    from plinth.cli.output import Output


def register(groups: Groups) -> None:
    """Declare the command."""
    command = groups.command(
        "controller",
        controller,
        help="Move rollouts on, in the foreground: judge them, carry decisions out. `plinth up` runs one already.",
        example="plinth controller --once",
    )
    command.add_argument("--once", action="store_true", help="look once at every rollout, and end")


def controller(args: Namespace, out: Output) -> None:
    """Handler of `controller`. Of several that run, one acts."""
    from plinth.runtime.controller import run
    from plinth.telemetry import logs
    from plinth.wiring import Platform

    platform = Platform.from_settings()
    if not args.once:
        out.note("moving rollouts; Ctrl-C ends it")
    settings = platform.settings
    handler = logs.configure("controller", settings.log_level, otlp_url=settings.otlp_url)
    try:
        led = run(platform, once=args.once, interval=1.0)
    finally:
        handler.close()
    out.data({"led": led})
    if args.once:
        out.text("looked at every rollout" if led else "another controller acts: nothing was done")
