"""`plinth rollout` and `plinth approve`: moving a product to another release step by step, judged on the way."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from plinth.cli.command import Commands, Groups

if TYPE_CHECKING:
    import argparse

    from plinth.cli.output import Output
    from plinth.core.products import Product
    from plinth.ledger.rollouts import Rollout
    from plinth.wiring import LoadedProduct, Platform

FAULTS = ("latency", "errors", "bad-model", "skew", "missing-metrics")
ASSISTANT_FAULTS = ("latency", "errors", "bad-index", "missing-metrics")
ROLLED_BACK = 3
"""Exit code of `status --watch` when the gates said no."""


def register(groups: Groups) -> None:
    """Declare the commands."""
    group = groups.group("rollout", help="Rollouts that judge themselves: start, status, pause, resume, abort, drill.")
    command = group.command(
        "start",
        start,
        help="Move a product to a release step by step; gates judge each step and roll back by themselves.",
        example="plinth rollout start flight-delays --to 3f9c2a71b0de --steps 1,10,50,100 --bake 60s",
    )
    command.add_argument("product")
    command.add_argument("--to", required=True, metavar="DIGEST", help="digest of the release, or its first characters")
    command.add_argument(
        "--strategy",
        choices=("canary", "shadow", "blue-green"),
        help="canary: by steps; shadow: unseen, then all; blue-green: at once; default the product's",
    )
    _plan_arguments(command)
    command.add_argument("--reason", default="started by hand", help="why, for the history and the audit log")
    command = group.command(
        "status",
        status,
        help="Where a product's newest rollout is: step, traffic, gates and their evidence, what it waits for.",
        example="plinth rollout status flight-delays --watch",
    )
    _optional_product(command)
    command.add_argument(
        "--watch",
        action="store_true",
        help=f"show it live until it has ended; exit code 0: done, {ROLLED_BACK}: rolled back",
    )
    command = group.command(
        "list", list_rollouts, help="A product's rollouts, newest first.", example="plinth rollout list flight-delays"
    )
    command.add_argument("product")
    _wishes(group)
    command = group.command(
        "drill",
        drill,
        help="Roll out a release made to fail under generated traffic, and see it found and rolled back.",
        example="plinth rollout drill flight-delays --fault latency --json",
    )
    command.add_argument("product")
    command.add_argument(
        "--fault",
        required=True,
        choices=tuple(dict.fromkeys((*FAULTS, *ASSISTANT_FAULTS))),
        help="what is wrong with the release; bad-model and skew of models, bad-index of assistants",
    )
    command.add_argument(
        "--strategy", choices=("canary", "shadow"), default="canary", help="shadow: nobody is harmed; default canary"
    )
    _plan_arguments(command)
    command.add_argument(
        "--rate", type=float, default=20.0, metavar="N", help="requests a second that are generated (default 20)"
    )
    command = groups.command(
        "approve",
        approve,
        help="Approve a release of a product: on tier 1 its rollout waits for somebody else's consent.",
        example='plinth approve flight-delays 3f9c2a71b0de --reason "read the model card"',
    )
    command.add_argument("product")
    command.add_argument("digest", help="digest of the release, or its first characters")
    command.add_argument("--reason", default="", help="why, for the audit log")


def _plan_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--steps", metavar="N,N,100", help="percent of the entities, step by step; default the policy")
    command.add_argument("--bake", metavar="DURATION", help="time each step is watched at least, such as 60s")


def _optional_product(command: argparse.ArgumentParser) -> None:
    command.add_argument("product", nargs="?", help="default the one whose rollout runs, or the only one there is")


def _name_of(args: Namespace, platform: Platform) -> str:
    """The product that is meant.

    Raises:
        InvalidInput: None is named, and several could be meant.
        NotFound: There is none of that name.
    """
    from plinth.errors import InvalidInput

    if args.product is not None:
        return platform.products.named(args.product)
    running = sorted({rollout.product for rollout in platform.rollouts.unfinished()})
    names = running or platform.products.names()
    if len(names) == 1:
        return names[0]
    raise InvalidInput(
        f"{'rollouts of several products run' if running else 'no product is named'}", where="PRODUCT",
        hint=f"name one of: {', '.join(names)}" if names else "run plinth inside the workspace",
    )  # fmt: skip


def _wishes(group: Commands) -> None:
    for name, text, handler in (
        ("pause", "Hold a rollout at its split; what harms is still rolled back.", pause),
        ("resume", "Let a paused rollout go on.", resume),
        ("abort", "End a rollout: the release before answers everything again, at once.", abort),
    ):
        command = group.command(name, handler, help=text, example=f"plinth rollout {name} flight-delays")
        _optional_product(command)
        command.add_argument("--reason", default="", help="why, for the history and the audit log")


# Wishes -------------------------------------------------------------------------------------------------------------


def start(args: Namespace, out: Output) -> None:
    """Handler of `rollout start`."""
    from plinth.rollouts import commands
    from plinth.wiring import Platform

    steps = _steps(args.steps)
    platform = Platform.from_settings()
    product = platform.products.get(args.product).spec
    rollout = commands.start(
        platform.ledger, product, args.to, actor=platform.actor, reason=args.reason, strategy=args.strategy,
        steps=steps, bake=args.bake,
    )  # fmt: skip
    out.data(_brief(rollout))
    way = " -> ".join(_stop(stage.kind, stage.percent) for stage in rollout.plan.stages)
    out.text(f"{product.name}: rollout {rollout.id} of {rollout.candidate[:12]} over {rollout.serving[:12]}: {way}")
    if rollout.state.phase == "waiting":
        needed = rollout.plan.approvals
        out.text(f"it waits for {needed} approval{'s' * (needed > 1)}: plinth approve {product.name} {args.to}")
    _warn_where_nobody_acts(platform, product.name, out)
    out.text(f"watch it with: plinth rollout status {product.name} --watch")


def pause(args: Namespace, out: Output) -> None:
    """Handler of `rollout pause`."""
    rollout = _wish(args, out, "pause")
    out.text(f"go on with: plinth rollout resume {rollout.product}")


def resume(args: Namespace, out: Output) -> None:
    """Handler of `rollout resume`."""
    _wish(args, out, "resume")


def abort(args: Namespace, out: Output) -> None:
    """Handler of `rollout abort`."""
    rollout = _wish(args, out, "abort")
    out.text(f"{rollout.serving[:12]} answers everything again")


def _wish(args: Namespace, out: Output, wish: str) -> Rollout:
    from plinth.cli.rollout_view import printable
    from plinth.rollouts import commands
    from plinth.wiring import Platform

    carry_out = {"pause": commands.pause, "resume": commands.resume, "abort": commands.abort}[wish]
    platform = Platform.from_settings()
    product = _name_of(args, platform)
    rollout = carry_out(platform.ledger, product, actor=platform.actor, reason=args.reason)
    out.data(_brief(rollout))
    why = printable(rollout.reason)
    out.text(f"{product}: rollout {rollout.id} of {rollout.candidate[:12]} is {rollout.state.phase}: {why}")
    return rollout


def approve(args: Namespace, out: Output) -> None:
    """Handler of `approve`."""
    from dataclasses import asdict

    from plinth.rollouts import approvals
    from plinth.wiring import Platform

    platform = Platform.from_settings()
    product = platform.products.get(args.product).spec
    given = approvals.approve(platform.ledger, product, args.digest, actor=platform.actor, reason=args.reason)
    running = platform.rollouts.active(product.name)
    waiting = running if running is not None and running.candidate == given.digest else None
    count = len(approvals.counted(platform.rollouts, waiting, product)) if waiting is not None else None
    out.data({**asdict(given), "rollout": waiting.id if waiting else None, "counted": count})
    out.text(f"{product.name}: {given.actor} approves release {given.digest[:12]}")
    if waiting is not None and waiting.plan.approvals:
        out.text(f"rollout {waiting.id} has {count} of {waiting.plan.approvals} approvals")
        if not count:
            out.note("note: product.yaml changed since the rollout started: abort it and start it anew")


def _steps(text: str | None) -> tuple[int, ...] | None:
    from plinth.core.rollout_policy import parse_steps

    return None if text is None else parse_steps(text)


def _brief(rollout: Rollout) -> dict[str, Any]:
    return {
        "product": rollout.product,
        "rollout": rollout.id,
        "phase": rollout.state.phase,
        "step": rollout.state.stage + 1,
        "candidate": rollout.candidate,
        "replaces": rollout.serving,
        "generation": rollout.generation,
        "reason": rollout.reason,
        "plan": rollout.plan.model_dump(mode="json"),
    }


def _stop(kind: str, percent: int) -> str:
    return {"shadow": "shadow", "full": "all"}.get(kind, f"{percent}%")


def _warn_where_nobody_acts(platform: Platform, product: str, out: Output) -> None:
    """A lease that nobody holds is sure; one that is held may be a dead controller's, which `status` notices later."""
    from plinth.ledger.leases import sign_of_life
    from plinth.rollouts.projection import LEASE

    if sign_of_life(platform.ledger, LEASE) is None:
        out.note("note: no controller runs: the rollout moves when `plinth up` or `plinth controller` does")
    if all(seen.route is None for seen in platform.backend.observe(product)):
        out.note(f"note: the service of {product} does not answer: without traffic there is no evidence (`plinth up`)")


# Looking ------------------------------------------------------------------------------------------------------------


def status(args: Namespace, out: Output) -> int:
    """Handler of `rollout status`: 0; with --watch 3 when the rollout was rolled back."""
    from plinth.cli import rollout_view
    from plinth.wiring import Platform

    platform = Platform.from_settings()
    product = platform.products.get(_name_of(args, platform))
    if not args.watch:
        document = look(platform, product)
        out.data(document)
        for line in rollout_view.lines(document):
            out.text(line)
        rows = rollout_view.gate_rows(document)
        if rows:
            out.table(rollout_view.GATE_COLUMNS, rows)
        return 0
    document = rollout_view.watch(lambda: look(platform, product), out)
    out.data(document)
    return ROLLED_BACK if document["phase"] == "rolled-back" else 0


def look(platform: Platform, product: LoadedProduct) -> dict[str, Any]:
    """The product's newest rollout, with what its services say and what is left of its error budget."""
    from plinth.rollouts.status import describe

    spec = product.spec
    newest = platform.rollouts.newest(spec.name)
    budget, problem = None, ""
    if newest is not None and newest.state.phase != "waiting":
        budget, problem = _budget(platform, spec, newest)
    return describe(
        platform.rollouts, spec, observations=platform.backend.observe(spec.name), budget=budget, problem=problem
    )


def _budget(platform: Platform, product: Product, rollout: Rollout) -> tuple[list[dict[str, Any]] | None, str]:
    """What is left of the error budget, or why that is not known."""
    from plinth.core.rollout_gates import error_budget
    from plinth.errors import PlinthError

    try:
        return error_budget(product, platform.signals.cells(product.name, rollout.generation)), ""
    except PlinthError as error:
        return None, error.what


def list_rollouts(args: Namespace, out: Output) -> None:
    """Handler of `rollout list`."""
    from plinth.wiring import Platform

    platform = Platform.from_settings()
    product = platform.products.named(args.product)
    rollouts = platform.rollouts.of(product)
    out.data(
        {
            "product": product,
            "rollouts": [
                {
                    **{key: value for key, value in _brief(item).items() if key not in {"product", "plan"}},
                    "strategy": item.plan.strategy,
                    "drill": item.plan.drill,
                    "started_by": item.started_by,
                    "started_at": item.started_at,
                    "ended_at": item.ended_at,
                }
                for item in rollouts
            ],
        }
    )
    if not rollouts:
        out.text(f"{product} has had no rollout yet: `plinth rollout start {product} --to DIGEST` begins one")
        return
    out.table(
        ["rollout", "release", "over", "strategy", "phase", "started (UTC)", "by", "ended", "why"],
        [
            [
                item.id,
                item.candidate[:12],
                item.serving[:12],
                f"drill, {item.plan.strategy}" if item.plan.drill else item.plan.strategy,
                item.state.phase,
                item.started_at[:19].replace("T", " "),
                item.started_by,
                (item.ended_at or "")[11:19],
                item.reason,
            ]
            for item in rollouts
        ],
    )


def drill(args: Namespace, out: Output) -> int:
    """Handler of `rollout drill`: 0 when the fault was detected and rolled back, 1 otherwise."""
    from math import isfinite

    from plinth.errors import InvalidInput
    from plinth.wiring import Platform

    steps = _steps(args.steps)
    if not (isfinite(args.rate) and 0 < args.rate <= 1000):
        raise InvalidInput(f"--rate is {args.rate:g}", where="--rate", hint="requests a second, above 0 up to 1000")
    platform = Platform.from_settings()
    product = platform.products.get(args.product)
    from plinth.runtime.drill import drill as run

    found = run(
        platform, product, args.fault, strategy=args.strategy, steps=steps, bake=args.bake, rate=args.rate,
        on_progress=out.note,
    )  # fmt: skip
    out.data(found)
    _drilled(found, args.fault, out)
    return 0 if found["detected"] and found["rolled_back"] else 1


def _drilled(found: dict[str, Any], fault: str, out: Output) -> None:
    def after(seconds: float | None) -> str:
        return "never" if seconds is None else f"after {seconds:.1f} s"

    out.text(f"fault        {fault}")
    out.text(f"detected     {after(found['seconds_to_detect']) if found['detected'] else 'no'}")
    out.text(f"rolled back  {after(found['seconds_to_recover']) if found['rolled_back'] else 'no'}")
    out.text(f"requests     {found['requests_total']:,}, {found['requests_harmed']:,} of them harmed")
    out.table(
        ["gate", "verdict", "reason"],
        [[item["gate"], item["outcome"], item["reason"]] for item in found["verdicts"]],
    )
