"""The story, on the real calendar: train, serve, replay June to December, watch, retrain, roll out, roll back, drill.

Nothing is injected but the last part's faulty release: what alarms, what is retrained, what is refused and what is
rolled back is what the data gives.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flight_delays.replay import Replay
from flight_delays.rolling import RolledOut, Rolling
from flight_delays.summary import build, render, replay_log, save
from flight_delays.switching import Switch, switch_under_load
from flight_delays.watching import Watch
from plinth.errors import InvalidInput, NotFound, RefusedByPolicy
from plinth.monitoring.report import write as write_report
from plinth.rollouts import release as rollouts
from plinth.runtime import pipelines
from plinth.runtime.drill import drill
from plinth.runtime.memory import PeakMemory
from plinth.runtime.profiles import profile
from plinth.runtime.story import left_as_found, waiting_for

if TYPE_CHECKING:
    from rich.console import Console

    from flight_delays.pipeline import Outcome
    from plinth.models.faulty import Fault
    from plinth.monitoring.assessment import Assessment
    from plinth.pipelines.port import StepRecord
    from plinth.wiring import LoadedProduct, Platform

START, END = date(2013, 6, 1), date(2014, 1, 1)
PIPELINE = "train"
FAULT: Fault = "bad-model"
"""What the last part's release has wrong: it answers at once, without an error, and wrong."""


@dataclass
class Retraining:
    """A retraining that an alarm started, and what its gates said."""

    day: date
    reason: str
    outcome: Outcome


@dataclass
class Story:
    """What happened, as it happens."""

    first: Outcome | None = None
    cached_steps: int = 0
    retrained: list[Retraining] = field(default_factory=list)
    rollouts: list[RolledOut] = field(default_factory=list)
    drill: dict[str, Any] = field(default_factory=dict)
    months: list[Assessment] = field(default_factory=list)
    switches: list[Switch] = field(default_factory=list)
    predictions: int = 0
    defaulted: int = 0
    labels: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    peak_rss_mb: float = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage; stages of one name add up."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - started, 1)


class Demo:
    """One telling of the story."""

    def __init__(self, platform: Platform, product: LoadedProduct, console: Console, until: date) -> None:
        self.platform = platform
        self.loaded = product
        self.product = product.spec
        self.console = console
        self.until = until
        self.story = Story()
        self.state = platform.settings.product_dir(product.spec.name)
        self.rolling = Rolling(platform, product.spec, self.say)

    def tell(self) -> dict[str, Any]:
        """Run it; returns the summary."""
        with PeakMemory(self.platform.settings.state_dir) as memory:
            self._start()
            self._train()
            self._replay()
            # Read before the next parts add their own requests to the log.
            log = replay_log(self.platform, self.product, self.until)
            with self.story.stage("rollout"):
                self.rolling.settle(self.until)
            self.story.rollouts = self.rolling.told
            self._switch()
            self._drill()
        self.story.peak_rss_mb = round(memory.peak_mb)
        with self.story.stage("report"):
            page = self._report()
            summary = build(self.platform, self.product, self.story, log, self.until)
        path = save(self.platform, self.product.name, summary)
        render(self.console, self.platform, summary, path, page)
        return summary

    def say(self, line: str) -> None:
        """A line of the story."""
        self.console.print(line, markup=True)

    def _start(self) -> None:
        runs = profile(self.platform)
        where = "in containers" if runs.standing else "supervised on this machine"
        self.say(f"[bold]1. Services[/bold]  Prefect, MLflow and the product's service, {where}")
        with self.story.stage("services"), self.console.status("starting ...") as line:
            runs.ensure(lambda status: line.update(waiting_for(status)))
            self.rolling.forget_others()

    def _train(self) -> None:
        self.say(
            "[bold]2. Train[/bold]     on January to April, iterations chosen on May, back-tested on June to December"
        )
        with self.story.stage("train"):
            outcome = self._run_pipeline({})
        self.story.first = outcome
        self.say(
            f"   release {outcome.release[:12]}: AUC {outcome.metrics['auc']:.4f} against the baseline's "
            f"{outcome.metrics['baseline_auc']:.4f}, log loss {outcome.metrics['log_loss']:.4f}"
        )
        if not outcome.accepted:
            raise RefusedByPolicy(
                f"the first release failed its gates: {', '.join(outcome.failed_gates)}",
                where=outcome.release,
                hint=f"plinth release show {outcome.release[:12]}",
            )
        self._serve(outcome.release, "first release of the story")

    def _serve(self, digest: str, reason: str) -> None:
        """Promote a release, or go back to it where an earlier telling left a later one."""
        ledger, registry, actor = self.platform.ledger, self.platform.registry, self.platform.actor
        current = ledger.current(self.product.name)
        if current is not None and current.digest == digest:
            return
        served = any(entry.digest == digest for entry in ledger.history(self.product.name))
        move = rollouts.rollback if served else rollouts.promote
        move(ledger, registry, self.product.name, digest, actor=actor, reason=reason)

    def _run_pipeline(self, params: dict[str, object]) -> Outcome:
        def show(name: str, record: StepRecord | None) -> None:
            if record is None:
                line.update(f"   {name} ...")
            else:
                done = "unchanged, skipped" if record.cached else f"{record.seconds:.1f} s"
                self.say(f"   [dim]{name}: {done}[/dim]")

        with self.console.status("   pipeline ...") as line:
            result = pipelines.run(self.platform, self.product.name, PIPELINE, params, on_step=show)
        self.story.cached_steps += result.cached_steps
        outcome: Any = result.output
        return outcome  # type: ignore[no-any-return]

    def _replay(self) -> None:
        self.say(
            f"[bold]3. Replay[/bold]    {START:%d %B} to {self.until - timedelta(days=1):%d %B}, hour by hour, "
            "through the running service; outcomes arrive the next morning"
        )
        self._set_aside()
        watch = Watch(self.platform, self.product)
        store = self.platform.features(self.product.name)
        replay = Replay(
            self.state / "lake",
            store,
            self.state / "labels",
            self.platform.service_urls(self.product.name)[0],
            partial(self.platform.service_headers, self.product.name),
        )
        try:
            with self.story.stage("replay"):
                replay.prepare(START)
                replay.start_counting()
            self._days(replay, watch)
        finally:
            replay.close()
        totals = replay.totals
        self.story.predictions, self.story.defaulted = totals.predictions, totals.defaulted
        self.story.labels = totals.labels

    def _days(self, replay: Replay, watch: Watch) -> None:
        total = (self.until - START).days
        with _progress(self.console, total) as advance:
            predicted_by_yesterday = 0
            for offset in range(total):
                day, tomorrow = START + timedelta(days=offset), START + timedelta(days=offset + 1)
                with self.story.stage("replay"):
                    replay.shadowed = self.rolling.unseen
                    replay.day(day)
                    advance(f"{day:%d %b}  {replay.totals.predictions:,} predictions")
                self.rolling.look(tomorrow)
                with self.story.stage("watch"):
                    decision = None
                    # Of two changes nobody could say which one helped: an alarm waits for the end of a rollout.
                    if offset and self.rolling.current is None and not watch.cooling_down(tomorrow):
                        replay.wait_until_logged(predicted_by_yesterday)
                        decision = watch.daily(tomorrow)
                    predicted_by_yesterday = replay.totals.predictions
                if decision and decision.fire:
                    self._retrain(tomorrow, decision.reason)
                if tomorrow.day == 1:
                    self._month_end(replay, watch, day)
            replay.wait_until_logged(replay.totals.predictions)

    def _month_end(self, replay: Replay, watch: Watch, day: date) -> None:
        """The month's drift report; what is watched of it may trigger too."""
        tomorrow = day + timedelta(days=1)
        with self.story.stage("watch"):
            replay.wait_until_logged(replay.totals.predictions)
            seen, decision = watch.month(day.replace(day=1), tomorrow, quiet=self.rolling.current is not None)
        if seen is not None:
            self.story.months.append(seen)
        if decision is not None and decision.fire:
            self._retrain(tomorrow, decision.reason)

    def _retrain(self, day: date, reason: str) -> None:
        self.say(f"   [yellow]{day:%d %B}: {reason}[/yellow]")
        with self.story.stage("retrain"):
            outcome = self._run_pipeline({"as_of": day.isoformat()})
        self.story.retrained.append(Retraining(day, reason, outcome))
        manifest = self.platform.ledger.release(outcome.release).manifest
        difference = outcome.metrics.get("log_loss_difference")
        gain = "" if difference is None else f", log loss {difference:+.4f} against what serves on the same four weeks"
        if outcome.accepted:
            self.say(f"   [green]candidate {outcome.release[:12]} passed its gates{gain}[/green]")
            self.rolling.start(day, outcome.release, f"retrained on {day}: {reason}")
        else:
            reasons = "; ".join(f"{verdict.gate} ({verdict.reason})" for verdict in manifest.failed_gates())
            self.say(f"   [red]candidate {outcome.release[:12]} refused: {reasons}[/red]")

    def _switch(self) -> None:
        """One rollback and roll-forward under traffic."""
        self.say("[bold]4. Roll back[/bold] and forward again, under traffic")
        current = self.platform.ledger.current(self.product.name)
        with self.story.stage("rollback"):
            try:
                before = rollouts.previous_release(self.platform.ledger, self.product.name)
            except NotFound:
                self.say("   only one release ever passed its gates, so there is none to roll back to")
                return
            for kind, digest in (("rolled back", before), ("rolled forward", current.digest if current else before)):
                switch = switch_under_load(self.platform, self.product, digest, kind)
                self.story.switches.append(switch)
                self.say(
                    f"   {switch.kind} to {digest[:12]}: {switch.seconds:.2f} s until the last answer of the other "
                    f"release, {switch.requests} requests, {switch.failed} failed"
                )

    def _drill(self) -> None:
        """A release that is wrong, rolled out for real: the gates have to see it and take it back."""
        self.say(f"[bold]5. Drill[/bold]     a rollout of a release with the fault {FAULT!r}, under generated traffic")
        with self.story.stage("drill"):
            found = drill(self.platform, self.loaded, FAULT, on_progress=lambda line: self.say(f"   [dim]{line}[/dim]"))
        self.story.drill = found
        if found["detected"] and found["rolled_back"]:
            self.say(
                f"   [green]found {found['seconds_to_detect']:.1f} s after its first answer and rolled back: "
                f"{found['requests_harmed']} of {found['requests_total']} requests harmed[/green]"
            )
        else:
            self.say(f"   [red]not as it should be: {found['reason'] or 'nobody decided'}[/red]")

    def _report(self) -> Path:
        page = self.state / "reports" / "drift.html"
        if self.story.months:
            page.parent.mkdir(parents=True, exist_ok=True)
            write_report(self.story.months[-1], page)
        return page

    def _set_aside(self) -> None:
        """An earlier telling's log and labels are kept, out of the way of this one's."""
        present = [self.state / name for name in ("inference", "labels") if (self.state / name).is_dir()]
        if present:
            kept = self.state / "earlier" / datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
            kept.mkdir(parents=True, exist_ok=True)
            for folder in present:
                shutil.move(folder, kept / folder.name)


@contextmanager
def _progress(console: Console, total: int) -> Iterator[Callable[[str], None]]:
    """A bar on a terminal; elsewhere a line for each tenth of the way."""
    if console.is_terminal:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (
            TextColumn("   {task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:.0f}%"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("replay", total=total)
            yield lambda text: bar.update(task, advance=1, description=text)
        return
    done = 0

    def advance(text: str) -> None:
        nonlocal done
        done += 1
        if done * 10 // total > (done - 1) * 10 // total:
            console.print(f"   {done * 100 // total:3d}%  {text}", markup=False)

    yield advance


def run(
    platform: Platform, product: LoadedProduct, console: Console, *, keep_up: bool = False, until: str | None = None
) -> dict[str, Any]:
    """Tell the story; returns the summary that is also written to `.plinth/demo/flight-delays/summary.json`.

    Args:
        platform: Where it runs.
        product: flight-delays.
        console: Where it is told.
        keep_up: Leave the services running.
        until: Stop the replay before this day (ISO 8601); default the end of the year.

    Raises:
        InvalidInput: `until` is no day of the story.
    """
    last = _day(until) if until else END
    with left_as_found(platform, console, keep_up=keep_up):
        return Demo(platform, product, console, last).tell()


def _day(text: str) -> date:
    try:
        day = date.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(f"{text!r} is no day", where="--until", hint="write it as 2013-07-01") from error
    if not START < day <= END:
        raise InvalidInput(f"{text} is outside the story", where="--until", hint=f"after {START}, up to {END}")
    return day
