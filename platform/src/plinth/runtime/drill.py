"""A rollout drill: a release that really misbehaves, rolled out for real under generated traffic, watched from outside.

What is proven is the whole chain: the service's routing, the signals, the gates, the controller and the rollback. The
only thing made up is the release, and its status in the ledger keeps it from ever being promoted.
"""

from __future__ import annotations

import itertools
import os
import platform as machine_of
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plinth.core.durations import seconds
from plinth.core.gates import Verdict
from plinth.core.releases import ReleaseManifest
from plinth.core.rollouts import Phase, Plan, make_plan
from plinth.errors import Conflict, InvalidInput, NotFound, PlinthError, Unavailable
from plinth.governance.code import code_ref
from plinth.ledger.leases import sign_of_life
from plinth.ledger.rollouts import Rollout, Rollouts
from plinth.models.faulty import make_faulty
from plinth.pipelines.entry import load_entry
from plinth.rollouts import commands
from plinth.rollouts.approvals import policy_digest
from plinth.rollouts.projection import LEASE
from plinth.runtime.slow_endpoint import SlowEndpoint
from plinth.runtime.traffic import Answer, Traffic, get_json

if TYPE_CHECKING:
    from plinth.core.rollout_policy import Strategy
    from plinth.wiring import LoadedProduct, Platform

STEPS = (25, 50, 100)
BAKE = "10s"
PATIENCE = 20.0
"""Seconds beyond the bake after which missing metrics roll back: a drill cannot wait as long as a rollout."""

DEADLINE = 120.0
"""Seconds after which a drill that nobody stopped aborts its rollout itself."""

SETTLE = 15.0
"""Seconds that an abort has to reach every service."""

CLEAN = 2.0
"""Seconds of traffic after the rollback, to see that nothing bad answers any more."""

LEASE_SECONDS = 8.0
"""Seconds in which a controller at work gives a sign of life, or one that just started takes the lease."""

Progress = Callable[[str], None]
"""Called with a line each time something happens."""


def drill(
    platform: Platform,
    product: LoadedProduct,
    fault: str,
    *,
    strategy: Strategy = "canary",
    steps: tuple[int, ...] | None = None,
    bake: str | None = None,
    rate: float = 20.0,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Roll a faulty release out and see what becomes of it.

    Args:
        platform: Where the product's service and a controller run.
        product: What is drilled; its manifest names `serving.traffic`.
        fault: What is wrong with the release (plinth.models.faulty, plinth.assistants.faulty).
        strategy: canary, or shadow: then nobody is harmed.
        steps: Percent of the entities by step; default 25, 50, 100. A drill never takes the last step.
        bake: Time each step is watched at least; default 10s.
        rate: Requests a second.
        on_progress: Told what happens.

    Returns:
        JSON: `detected` (a gate or missing evidence ended it), `rolled_back` (every service was seen to serve the good
        release again), `seconds_to_detect` (from the first bad request, in shadow from the start, to the decision),
        `seconds_to_recover` (from the first bad request to the last), `decision_to_last_bad_answer_seconds`,
        `requests_total`, `requests_harmed` (failed, or answered by the faulty release), `verdicts` at the decision,
        and what was drilled: `product`, `fault`, `strategy`, `release`, `rollout`, `rate`, `steps`, `reason`, `at`,
        `commit`, `machine`. A time that never came is None.

    Raises:
        InvalidInput: The product names no traffic, cannot have the fault, or the steps leave the drill none to take.
        NotFound: The product serves nothing yet.
        Unavailable: The service or the controller does not run, or the traffic has nothing to ask about.
        Conflict: A rollout of the product is running.
    """
    say = on_progress or (lambda _line: None)
    plan = _plan(product, strategy, steps, bake)
    say("looking for the service and the controller, and making the release")
    url = _check(platform, product)
    endless: Any = load_entry(str(product.spec.serving.traffic))(platform)
    bodies = list(itertools.islice(endless, max(1, int(rate * DEADLINE))))
    with ExitStack() as stack:
        slow = stack.enter_context(SlowEndpoint())
        release = _register(platform, product.spec.name, fault, slow.url)
        say(f"release {release[:12]} with the fault {fault!r}; {rate:g} requests a second")
        if fault == "bad-index":
            stack.callback(_discard, platform, release)
        headers = partial(platform.service_headers, product.spec.name)
        traffic = stack.enter_context(Traffic(url, bodies, rate, product.spec.request_path, headers))
        time.sleep(1.0)
        _check_answers(traffic.answers(), url)
        rollout = stack.enter_context(_rolled_out(platform, product, release, plan, fault))
        ended = _follow(platform, rollout, traffic, say)
        time.sleep(CLEAN)
    answers = traffic.answers()
    found = _measure(platform, rollout, ended.state.phase == "rolled-back", answers)
    return {
        **found,
        "product": product.spec.name,
        "fault": fault,
        "strategy": strategy,
        "release": release,
        "rollout": rollout.id,
        "rate": rate,
        "steps": [stage.percent for stage in plan.stages],
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": describe_code(platform),
        "machine": machine(),
    }


def describe_code(platform: Platform) -> str:
    """The workspace's commit, and whether it was changed since."""
    code = code_ref(platform.settings.home)
    return code.commit + (" with changes" if code.dirty else "")


def machine() -> str:
    """What the numbers were measured on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores, {memory:.0f} GiB, {machine_of.system()} {machine_of.machine()}, "
        f"Python {machine_of.python_version()}"
    )


def _plan(product: LoadedProduct, strategy: Strategy, steps: tuple[int, ...] | None, bake: str | None) -> Plan:
    if bake is not None:
        commands.check_bake(bake)
    chosen = (steps or STEPS) if strategy == "canary" else steps
    plan = make_plan(product.spec, strategy=strategy, steps=chosen, bake=bake or BAKE, drill=True)
    # The policy's unseen stage may take minutes, and would find the fault before anybody is harmed.
    stages = tuple(
        stage.model_copy(update={"bake": float(seconds(bake or BAKE))})
        for stage in plan.stages
        if stage.kind == strategy
    )
    if not stages:
        raise InvalidInput(
            "a drill never takes the last step, and there is no other", where="--steps", hint="such as 25,50,100"
        )
    return plan.model_copy(update={"stages": stages, "patience": PATIENCE})


def _check(platform: Platform, product: LoadedProduct) -> str:
    """What a drill needs; returns the service's address."""
    spec = product.spec
    if spec.serving.traffic is None:
        raise InvalidInput(
            f"{spec.name} names no traffic to drill with",
            where=str(product.folder / "product.yaml"),
            hint="add `traffic: package.module:function` under `serving`: platform to JSON bodies of requests",
        )
    if platform.ledger.current(spec.name) is None:
        raise NotFound(
            f"{spec.name} serves nothing yet, so there is nothing to fall back to",
            where=spec.name,
            hint=f"`plinth release promote {spec.name} DIGEST` begins",
        )
    running = [rollout for rollout in Rollouts(platform.ledger).unfinished() if rollout.product == spec.name]
    if running:
        raise Conflict(
            f"a rollout of {spec.name} is running: {running[0].candidate[:12]}, {running[0].state.phase}",
            where=spec.name,
            hint=f"`plinth rollout status {spec.name}`; drill when it has ended",
        )
    url = platform.service_urls(spec.name)[0]
    code, said = get_json(url, "/readyz", headers=platform.service_headers(spec.name))
    if code != 200:
        why = "does not answer" if code == 0 else f"is not ready: {said}"
        raise Unavailable(f"the service of {spec.name} {why}", where=url, hint="`plinth up`, then `plinth status`")
    _check_controller(platform)
    return url


def _check_answers(answers: list[Answer], url: str) -> None:
    failed = [answer for answer in answers if answer.code != 200]
    if failed or not answers:
        what = f"{len(failed)} of {len(answers)} requests failed (status {failed[0].code})" if failed else "no answer"
        raise Unavailable(
            f"the good release does not answer the drill's traffic: {what}",
            where=url,
            hint="`plinth status`; `plinth logs`",
        )


def _register(platform: Platform, product: str, fault: str, slow: str) -> str:
    """A release with the fault, made of the one that serves; returns its digest."""
    serving = platform.ledger.current(product)
    assert serving is not None  # noqa: S101 - checked before
    good = platform.ledger.release(serving.digest).manifest
    at = datetime.now(UTC).isoformat(timespec="microseconds")
    verdict = Verdict(gate="drill", passed=False, observed=None, bound=None, reason=f"made with the fault {fault}")
    manifest = good.model_copy(
        update={
            **_with_fault(platform, product, good, fault, slow),
            "metrics": {},
            "verdicts": (verdict,),
            "created_at": at,
            "pipeline_run": f"drill-{fault}-{at}",
        }
    )
    return platform.ledger.register_release(manifest, platform.actor, drill=True)


def _with_fault(platform: Platform, product: str, good: ReleaseManifest, fault: str, slow: str) -> dict[str, Any]:
    """What the manifest of the faulty release has otherwise; its files are stored."""
    if good.assistant is not None:
        from plinth.assistants.faulty import make_faulty_assistant
        from plinth.assistants.releases import CONFIG, config_of, reference, write_config

        config = make_faulty_assistant(
            fault, config_of(platform.artifacts, good), platform.assistants.store(product),
            platform.settings.product_dir(product), slow=slow,
        )  # fmt: skip
        pinned = reference(config).model_copy(update={"adapters": good.assistant.adapters})
        return {"assistant": pinned, "artifacts": {**good.artifacts, CONFIG: write_config(platform.artifacts, config)}}
    bundle = {name: platform.artifacts.path(digest).read_bytes() for name, digest in good.artifacts.items()}
    artifacts = {name: platform.artifacts.put_bytes(data) for name, data in make_faulty(fault, bundle).items()}
    features = good.tabular().feature_service
    plan = artifacts.get("read_plan.json", features.digest)
    return {"artifacts": artifacts, "feature_service": features.model_copy(update={"digest": plan})}


def _discard(platform: Platform, release: str) -> None:
    """Drop the index build that a drill made for its release; what a drill that was killed left, gc drops."""
    manifest = platform.ledger.release(release).manifest
    if manifest.assistant is not None:
        with suppress(PlinthError):
            platform.assistants.store(manifest.product).drop(manifest.assistant.index.build)


@contextmanager
def _rolled_out(platform: Platform, product: LoadedProduct, release: str, plan: Plan, fault: str) -> Iterator[Rollout]:
    """The rollout, which does not outlive the block."""
    name = product.spec.name
    serving = platform.ledger.current(name)
    generation = serving.generation if serving is not None else 0
    requests = platform.settings.product_dir(name) / "requests"
    with ExitStack() as stack:
        _remove_leftovers(requests)
        if fault == "missing-metrics":
            stack.enter_context(_unwritable(requests, generation + 1))
        rollout = Rollouts(platform.ledger).start(
            name, release, plan, policy=policy_digest(product.spec), expected_generation=generation,
            actor=platform.actor, reason=f"drill: {fault}",
        )  # fmt: skip
        try:
            yield rollout
        finally:
            if Rollouts(platform.ledger).get(rollout.id).active:
                _abort(platform, name, "the drill ended")


_NOTE = "A drill keeps the requests of this generation from being logged. Delete this file when none is running.\n"


@contextmanager
def _unwritable(requests: Path, generation: int) -> Iterator[None]:
    """A plain file where the request log of a generation wants a folder: root cannot write there either."""
    place = requests / f"generation={generation}"
    try:
        requests.mkdir(parents=True, exist_ok=True)
        with place.open("x", encoding="utf-8") as file:
            file.write(_NOTE)
    except FileExistsError:
        raise Conflict(
            "requests of the next generation are logged already", where=str(place), hint="run the drill again"
        ) from None
    try:
        yield
    finally:
        place.unlink(missing_ok=True)


def _remove_leftovers(requests: Path) -> None:
    """What a drill that was killed left behind."""
    for place in requests.glob("generation=*"):
        if place.is_file():
            place.unlink()


def _follow(platform: Platform, rollout: Rollout, traffic: Traffic, say: Progress) -> Rollout:
    """Until it is rolled back; aborted by us when nobody else does in time. Returns how it stood at last."""
    rollouts, release = Rollouts(platform.ledger), rollout.candidate
    deadline = time.monotonic() + DEADLINE
    shown: tuple[Phase, int] | None = None
    aborted = False
    while True:
        now = rollouts.get(rollout.id)
        if (now.state.phase, now.state.stage) != shown:
            shown = now.state.phase, now.state.stage
            answers = traffic.answers()
            harmed = sum(answer.bad(release) for answer in answers)
            share = f" {now.plan.stages[now.state.stage].percent}%" if now.state.phase == "canary" else ""
            say(f"{now.state.phase}{share}: {now.reason}; {len(answers)} requests, {harmed} harmed")
        if now.state.phase == "rolled-back":
            return now
        if time.monotonic() > deadline and aborted:
            return now
        # Paused is inconclusive: the gates gave up, and nobody would come to look.
        if now.active and (now.state.phase == "paused" or time.monotonic() > deadline):
            _abort(platform, now.product, "the drill waited long enough")
            aborted, deadline = True, time.monotonic() + SETTLE
        elif time.monotonic() > deadline:  # decided, and not yet seen everywhere
            aborted, deadline = True, time.monotonic() + SETTLE
        time.sleep(0.1)


def _abort(platform: Platform, product: str, reason: str) -> None:
    with suppress(Conflict, NotFound):  # the controller, or somebody, decided at this very moment
        commands.abort(platform.ledger, product, actor=platform.actor, reason=reason)


def _measure(platform: Platform, rollout: Rollout, rolled_back: bool, answers: list[Answer]) -> dict[str, Any]:
    """The drill's numbers, from what the client saw and what the ledger says was decided when."""
    bad = [answer.at for answer in answers if answer.bad(rollout.candidate)]
    history = platform.ledger.history(rollout.product)
    decision = next((entry for entry in history if entry.generation == rollout.generation + 1), None)
    decided = datetime.fromisoformat(decision.at).timestamp() if decision is not None else None
    recorded = Rollouts(platform.ledger).verdicts(rollout.id)
    verdicts = [item.verdict for item in recorded if item.phase == "aborting"]
    reason = decision.reason if decision is not None else ""
    detected = any(verdict.outcome == "fail" for verdict in verdicts) or reason.startswith("no metrics")
    began = bad[0] if bad else datetime.fromisoformat(rollout.started_at).timestamp()
    return {
        "detected": detected,
        "rolled_back": rolled_back,
        "seconds_to_detect": _rounded(decided - began) if detected and decided is not None else None,
        "seconds_to_recover": _rounded(bad[-1] - bad[0] if bad else 0.0) if rolled_back else None,
        "decision_to_last_bad_answer_seconds": (
            _rounded(max(0.0, bad[-1] - decided) if bad else 0.0) if decided is not None else None
        ),
        "requests_total": len(answers),
        "requests_harmed": len(bad),
        "requests_failed": sum(answer.code != 200 for answer in answers),
        "verdicts": [
            {"gate": verdict.gate, "outcome": verdict.outcome, "reason": verdict.reason} for verdict in verdicts
        ],
        "reason": reason,
    }


def _rounded(value: float) -> float:
    return round(value, 3)


def _check_controller(platform: Platform) -> None:
    """Raises Unavailable unless a controller is at work: it gives a sign of life every second or so."""
    before = sign_of_life(platform.ledger, LEASE)
    deadline = time.monotonic() + LEASE_SECONDS
    while before is None or sign_of_life(platform.ledger, LEASE) == before:
        if time.monotonic() > deadline:
            raise Unavailable(
                "no controller is at work, so nobody would judge the rollout",
                where=LEASE,
                hint="`plinth up` runs one; `plinth status` and `plinth logs controller` say how it is",
            )
        time.sleep(0.1)
        before = before or sign_of_life(platform.ledger, LEASE)
