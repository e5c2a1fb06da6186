"""`plinth reset compose`: removes the containers, volumes and shared folder of this workspace's project, for good."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from plinth.cli.command import Groups

if TYPE_CHECKING:
    from plinth.cli.output import Output


def register(groups: Groups) -> None:
    """Declare the commands."""
    group = groups.group("reset", help="Remove a profile's data for good: `plinth reset compose`.")
    command = group.command(
        "compose",
        compose,
        help="Remove the containers, volumes and shared folder of this workspace's compose project, for good.",
        example="plinth reset compose",
    )
    command.add_argument("--yes", action="store_true", help="do not ask for the project's name")
    command.add_argument("--env", action="store_true", help="remove .env too: the next stack has other passwords")


def compose(args: Namespace, out: Output) -> None:
    """Handler."""
    import sys

    from plinth.core.environment import home
    from plinth.errors import InvalidInput, RefusedByPolicy
    from plinth.runtime.compose import Project
    from plinth.runtime.compose_reset import plan, reset

    planned = plan(Project(home()))
    if not args.yes:
        if args.json or not sys.stdin.isatty():
            raise InvalidInput(
                f"this removes all data of the project {planned.project!r}, and nobody can be asked",
                where="plinth reset compose",
                hint="add --yes if it is meant",
            )
        out.note(f"This removes for good: {planned.in_words()}.")
        sys.stderr.write(f"Type the project's name, {planned.project}, to go on: ")
        sys.stderr.flush()
        if sys.stdin.readline().strip() != planned.project:
            raise RefusedByPolicy("that is not its name: nothing was removed", where=planned.project)
    done = reset(Project(home()), remove_env=args.env)
    out.data({"project": done.project, "containers": done.containers, "volumes": list(done.volumes),
              "state": str(done.state) if done.state else None, "env_removed": args.env})  # fmt: skip
    out.text(f"removed {done.in_words()}" + (", and .env" if args.env else "; .env stays"))
