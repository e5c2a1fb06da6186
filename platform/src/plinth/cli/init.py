"""`plinth init compose`: writes `.env`, with random secrets, and makes the folder that containers share."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from plinth.cli.command import Groups

if TYPE_CHECKING:
    from plinth.cli.output import Output


def register(groups: Groups) -> None:
    """Declare the commands."""
    group = groups.group("init", help="Prepare a profile: `plinth init compose` writes .env, with random secrets.")
    command = group.command(
        "compose",
        compose,
        help="Write .env for `docker compose`: ports, random secrets, addresses. What is there is never changed.",
        example="plinth init compose --with observability",
    )
    command.add_argument(
        "--with", dest="profiles", action="append", metavar="NAME",
        help="start these beside the core: observability, llm, gpu; may be repeated",
    )  # fmt: skip
    command.add_argument(
        "--project",
        metavar="NAME",
        help="name of the compose project (default plinth- and six signs of this folder's path)",
    )
    command.add_argument(
        "--port-offset", type=int, metavar="N", help="add N to every port, for a second stack beside the first"
    )
    command.add_argument("--state", metavar="DIR", help="folder that containers share (default .plinth/compose)")


def compose(args: Namespace, out: Output) -> None:
    """Handler."""
    from pathlib import Path

    from plinth.runtime.compose_env import SECRETS, Wanted, init

    profiles = None
    if args.profiles is not None:
        profiles = tuple(dict.fromkeys(name.strip() for text in args.profiles for name in text.split(",")))
    state = Path(args.state).expanduser() if args.state is not None else None
    made = init(Wanted(args.project, profiles, args.port_offset, state))
    out.data(
        {
            "file": str(made.file),
            "project": made.project,
            "state": str(made.state),
            "created": made.created,
            "added": list(made.added),
            "kept": list(made.kept),
            "foreign": list(made.foreign),
        }
    )
    if made.created:
        out.text(f"wrote {made.file}: {len(made.added)} variables, {len(SECRETS)} of them random secrets")
    elif made.added:
        out.text(f"added to {made.file}: {', '.join(made.added)}")
    else:
        out.text(f"{made.file} is complete; nothing was changed")
    if made.tightened:
        out.note("others could read it: now its owner alone does")
    if made.foreign:
        out.note(f"it also holds {len(made.foreign)} variables that are not Plinth's: {', '.join(made.foreign)}")
    if made.added and any(name not in made.added for name in SECRETS) and made.kept:
        out.note("servers that made their volumes before keep the passwords they were made with")
    out.text(f"the containers of {made.project!r} share {made.state}")
    out.text("credentials stay in that file alone; `plinth --profile compose open NAME` says which are whose")
    out.text("start it with: plinth --profile compose up")
