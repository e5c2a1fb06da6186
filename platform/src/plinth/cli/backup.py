"""`plinth backup` and `plinth restore`: everything that the servers of the compose profile hold."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from plinth.cli.command import Groups

if TYPE_CHECKING:
    from plinth.cli.output import Output
    from plinth.runtime.backup.stack import Stack
    from plinth.wiring import Platform


def register(groups: Groups) -> None:
    """Declare the commands."""
    command = groups.command(
        "backup",
        backup,
        help="Write what the servers of the compose profile hold into a folder, with digests.",
        example="plinth --profile compose backup /mnt/backups/monday",
    )
    command.add_argument(
        "folder", nargs="?", help="a folder that does not exist yet (default: by the time, in .plinth/backups)"
    )
    command.add_argument("--verify", action="store_true", help="take none: check the digests of the one that is there")
    command = groups.command(
        "restore",
        restore,
        help="Put a backup back, in place of what the servers hold now.",
        example="plinth --profile compose restore /mnt/backups/monday",
    )
    command.add_argument("folder", help="a folder that `plinth backup` has written")
    command.add_argument("--yes", action="store_true", help="do not ask")


def backup(args: Namespace, out: Output) -> None:
    """Handler of `backup`."""
    from datetime import UTC, datetime
    from pathlib import Path

    from plinth.errors import InvalidInput
    from plinth.runtime.backup import manifest, run
    from plinth.wiring import Platform

    if args.verify:
        if not args.folder:
            raise InvalidInput("no folder to verify", hint="plinth backup FOLDER --verify")
        folder = Path(args.folder).absolute()
        found = manifest.check(folder)
        out.data(manifest.as_dict(folder, found))
        out.text(f"whole: {len(found.parts)} parts, {found.size:,} bytes, made at {found.made_at}")
        return
    platform = Platform.from_settings()
    stack = _stack(platform)
    parts = run.parts_of(platform, stack)
    stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    folder = Path(args.folder).absolute() if args.folder else platform.settings.home / ".plinth" / "backups" / stamp
    with out.progress() as progress:
        task = progress.add_task("backing up", total=len(parts))
        made = run.back_up(
            platform,
            folder,
            parts,
            project=stack.project.name,
            on_progress=lambda name: progress.update(task, description=f"backing up {name}", advance=1),
        )
    out.data(manifest.as_dict(folder, made))
    out.table(
        ["part", "entries", "bytes", "seconds"],
        [[part.name, part.entries, part.size, part.seconds] for part in made.parts],
    )
    out.text(f"{folder}: {made.size:,} bytes. It holds secrets: keep it as you keep the servers")


def restore(args: Namespace, out: Output) -> None:
    """Handler of `restore`."""
    import sys
    from pathlib import Path

    from plinth.errors import InvalidInput
    from plinth.runtime.backup import manifest, run
    from plinth.wiring import Platform

    folder = Path(args.folder).absolute()
    platform = Platform.from_settings()
    stack = _stack(platform)
    parts = run.parts_of(platform, stack)
    found = manifest.read(folder)
    if not args.yes:
        if args.json or not sys.stdin.isatty():
            raise InvalidInput("a restore replaces everything, and nobody can be asked here", hint="give --yes")
        out.note(f"everything that project {stack.project.name} holds is replaced by what it held at {found.made_at}")
        if input("type the project's name to go on: ").strip() != stack.project.name:
            raise InvalidInput("that is not the project's name", hint="nothing was changed")
    with out.progress() as progress:
        task = progress.add_task("restoring", total=len(parts) + 4)
        run.restore(
            platform,
            folder,
            parts,
            stack,
            on_progress=lambda what: progress.update(task, description=f"restoring: {what}", advance=1),
        )
    out.data(manifest.as_dict(folder, found))
    out.text(f"restored what {found.project} held at {found.made_at}; check it with: plinth --profile compose fsck")


def _stack(platform: Platform) -> Stack:
    from plinth.runtime.backup.stack import Stack
    from plinth.runtime.compose import Project

    return Stack(Project(platform.settings.home))
