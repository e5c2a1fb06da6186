"""`plinth up`, `status`, `logs`, `down`, `doctor`: the platform's processes on this machine, or its containers."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from plinth.cli.command import Groups

if TYPE_CHECKING:
    from plinth.cli.output import Output
    from plinth.runtime.port import Status
    from plinth.runtime.profiles import Profile


def register(groups: Groups) -> None:
    """Declare the commands."""
    command = groups.command(
        "up",
        up,
        help="Start the platform: the Prefect and MLflow servers and the products' services, watched and restarted.",
        example="plinth up --detach",
    )
    command.add_argument(
        "--detach",
        action="store_true",
        help="return when all is healthy, and leave it running; containers always do",
    )
    command.add_argument(
        "--timeout", type=float, metavar="SECONDS", help="how long to wait for health (default 120; containers 300)"
    )
    groups.command("status", status, help="How each service is.", example="plinth status --json")
    command = groups.command(
        "logs", logs, help="What a service said, newest last.", example="plinth logs prefect --lines 50"
    )
    command.add_argument("name", help="name of the service, as `plinth status` shows it (or supervisord)")
    command.add_argument("--follow", "-f", action="store_true", help="go on with what is added, until Ctrl-C")
    command.add_argument("--lines", "-n", type=int, default=100, help="how many lines (default 100)")
    groups.command("down", down, help="Stop the platform; nothing keeps running.", example="plinth down")
    groups.command(
        "doctor",
        doctor,
        help="Check the machine, versions, ports, disk and services, and say what to do about each finding.",
        example="plinth doctor",
    )


def up(args: Namespace, out: Output) -> None:
    """Handler of `up`. Containers go on by themselves; processes of this machine end with the command."""
    from plinth.runtime.profiles import profile
    from plinth.wiring import Platform

    runs = profile(Platform.from_settings())
    ran_before = runs.running()
    if ran_before:
        out.note("the platform is already running")
    with out.progress() as progress:
        task = progress.add_task("starting", total=None, visible=not runs.standing)  # compose shows its own

        def show(now: Status) -> None:
            healthy = sum(service.health == "healthy" for service in now.services)
            waiting = ", ".join(service.name for service in now.services if service.health != "healthy")
            progress.update(
                task, total=len(now.services), completed=healthy, description=f"waiting for {waiting or 'none'}"
            )

        try:
            found = runs.up(on_progress=show, timeout=args.timeout)
        except KeyboardInterrupt:
            if not ran_before and not runs.standing:
                runs.down()
            raise
    out.data(found.as_dict())
    _table(out, found)
    if args.detach or ran_before or runs.standing:
        out.text(f"stop it with: {_command(runs, 'down')}")
        return
    _stay(runs, out)


def status(_args: Namespace, out: Output) -> None:
    """Handler of `status`."""
    from plinth.runtime.profiles import profile
    from plinth.wiring import Platform

    runs = profile(Platform.from_settings())
    found = runs.status()
    out.data(found.as_dict())
    _table(out, found)
    if all(service.health == "stopped" for service in found.services):
        out.note(f"nothing is running; start it with: {_command(runs, 'up')}")


def logs(args: Namespace, out: Output) -> None:
    """Handler of `logs`."""
    from plinth.errors import InvalidInput
    from plinth.runtime.profiles import profile
    from plinth.wiring import Platform

    if args.lines < 0:
        raise InvalidInput(f"--lines is {args.lines}", hint="a number from 0 up")
    if args.follow and args.json:
        raise InvalidInput("--follow never ends, --json is one document", hint="give one of them")
    runs = profile(Platform.from_settings())
    lines, path = runs.last_lines(args.name, args.lines)
    out.data({"name": args.name, "file": str(path) if path else None, "lines": lines})
    for line in lines:
        out.text(line)
    if args.follow:
        import sys

        sys.stdout.flush()
        for line in runs.follow(args.name):
            out.text(line)
            sys.stdout.flush()


def down(_args: Namespace, out: Output) -> None:
    """Handler of `down`."""
    from plinth.runtime.profiles import profile
    from plinth.wiring import Platform

    runs = profile(Platform.from_settings())
    ended = runs.down()
    out.data({"ended": ended})
    what = "containers" if runs.standing else "processes"
    out.text(f"stopped, {ended} {what} ended" if ended else "nothing was running")


def doctor(_args: Namespace, out: Output) -> int:
    """Handler of `doctor`."""
    from dataclasses import asdict

    from plinth.runtime.doctor import findings as look

    findings = look()
    errors = sum(finding.level == "error" for finding in findings)
    out.data({"errors": errors, "findings": [asdict(finding) for finding in findings]})
    out.table(
        ["check", "level", "found", "what to do"],
        [[finding.check, finding.level, finding.what, finding.next] for finding in findings],
    )
    out.text(f"{errors} errors" if errors else "nothing is in the way")
    return 1 if errors else 0


def _table(out: Output, found: Status) -> None:
    out.table(
        ["service", "health", "address", "pid", "restarts"],
        [[item.name, item.health, item.url, item.pid, item.restarts] for item in found.services],
    )


def _command(runs: Profile, word: str) -> str:
    return f"plinth --profile compose {word}" if runs.standing else f"plinth {word}"


def _stay(runs: Profile, out: Output) -> None:
    """Say what changes until Ctrl-C (or SIGTERM, or the terminal's end), then stop everything."""
    import signal
    import sys
    import threading

    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: over.set())
    out.text("running; Ctrl-C stops it")
    sys.stdout.flush()  # whoever reads a pipe waits for this line
    before = {item.name: (item.health, item.pid) for item in runs.status().services}
    while not over.wait(2.0):
        if not runs.running():
            out.note("the platform was stopped")
            return
        for item in runs.status().services:
            if before.get(item.name) != (item.health, item.pid):
                out.note(f"{item.name}: {item.health}, process {item.pid}, {item.restarts} restarts")
                before[item.name] = (item.health, item.pid)
    out.note("stopping")
    runs.down()
