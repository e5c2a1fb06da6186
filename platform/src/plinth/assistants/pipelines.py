"""The pipelines that every assistant has: build a release from the sources, and keep the index fresh."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from plinth.assistants import freshness, indexing, probing, releases, steps, tenants
from plinth.assistants.records import BuildRecord, SourceRecord, read_build
from plinth.assistants.steps import Context, Index, Outcome
from plinth.core.assistants import SourceSpec
from plinth.errors import Conflict, NotFound, PlinthError
from plinth.governance.code import code_ref
from plinth.pipelines.files import FileRef
from plinth.pipelines.step import artifact

log = logging.getLogger(__name__)

SEARCHABLE_WITHIN = 60.0
"""Seconds that a running service is given to answer from a build that was promoted."""


def build(
    context: Context, sources: Mapping[str, str] | None = None, prompts: Mapping[str, str] | None = None
) -> Outcome:
    """Ingest, index, check, evaluate, release. Nothing is promoted.

    Args:
        context: The run.
        sources: Name of a source to a folder or a file of URLs, in place of those of product.yaml or beside them.
        prompts: Name of a prompt to a file, in place of the product's: to see what its gates say of it.
    """
    spec = context.ports.products.get(context.product).spec.answers()
    chosen = indexing.chosen_sources(spec, sources or {}, context.ports.settings.home)
    made = steps.index(context, chosen)
    return release_index(context, made, prompts=prompts or {}, keep=True)


def release_build(context: Context, build: str) -> Outcome:
    """A release of an index build that was made before, with everything else as the serving release has it."""
    return release_index(context, steps.existing(context, build), like_serving=True)


def release_index(
    context: Context,
    made: Index,
    *,
    like_serving: bool = False,
    prompts: Mapping[str, str] | None = None,
    keep: bool = False,
) -> Outcome:
    """Check, evaluate and release an index build.

    Args:
        context: The run.
        made: The build.
        like_serving: Take everything but the index from the serving release, not from product.yaml.
        prompts: Name of a prompt to a file, in place of the product's.
        keep: Keep the evaluation in MLflow, too.
    """
    ports = context.ports
    loaded = ports.products.get(context.product)
    spec = loaded.spec.answers()
    serving = releases.serving_config(ports.ledger, ports.artifacts, context.product)
    kept = steps.contract(context, made.chunks, steps.files(loaded.folder, loaded.spec.contracts))
    if like_serving and serving is not None:
        config = steps.keep(context, releases.candidate(serving[1], index=_record(made).index))
    else:
        config = steps.configure(context, made, steps.templates(loaded, prompts or {}))
    questions = FileRef.of(loaded.folder / spec.golden)
    checked = steps.check(context, made, questions)
    rival = steps.keep(context, serving[1]) if serving is not None else None
    judged = steps.evaluate(context, config, questions, rival)
    evidence = (checked, steps.Judged(judged.evidence))
    arguments = (config, kept, evidence, questions, loaded.spec.gates, code_ref(ports.settings.home))
    digest = steps.release(context, *arguments)
    try:
        record = ports.ledger.release(digest)
    except NotFound:
        # The step was skipped as unchanged, but this ledger is a new one: the effect has to happen again.
        digest = steps.release.function(context, *arguments)
        record = ports.ledger.release(digest)
    artifact("gates", table=[verdict.model_dump() for verdict in record.manifest.verdicts])
    if keep:
        try:
            steps.log_evaluation(context, digest, judged.report, serving[0] if serving is not None else "")
        except PlinthError as error:
            log.warning("the evaluation of release %s is not in MLflow: %s", digest[:12], error)
    return Outcome(
        release=digest, build=made.build, accepted=record.status == "accepted",
        failed_gates=tuple(verdict.gate for verdict in record.manifest.failed_gates()),
        metrics=record.manifest.metrics, quarantined=_refused(made), away=made.away,
    )  # fmt: skip


def refresh(context: Context) -> Outcome:
    """Look for changed and deleted documents; build, release and send on its way what changed.

    Where nothing changed, only the time moves on that what is searchable is known to be fresh as of. A change of
    documents alone is promoted at once where the product's policy lets anybody; any other goes by a rollout.
    """
    ports, state = context.ports, context.state
    product = ports.products.get(context.product).spec
    serving = indexing.serving_record(ports.ledger, product.name, state)
    if serving is None:
        # What is served first is somebody's decision, and not a schedule's.
        return Outcome("", "", False, (), {}, held=f"nothing serves yet: `plinth index build {product.name}`")
    sources = indexing.sources_of(product.answers(), serving)
    try:
        _settle(context, sources, serving)
        listed = indexing.nothing_changed(ports.assistants, ports.ledger, product, state, serving)
        if listed is not None:
            freshness.nothing_changed(state, sources, listed, {})
            return Outcome("", serving.index.build, True, (), {})
        made = steps.index(context, sources)
        _move_on(state, sources, made, serving)
        if made.build == serving.index.build:
            return Outcome("", made.build, True, (), {}, _refused(made), made.away)
        sent = _send(context, release_index(context, made), made, serving)
    finally:
        late = indexing.watch(ports.ledger, product, state)
    return replace(sent, late=late)


def _move_on(state: Path, sources: Sequence[SourceSpec], made: Index, serving: BuildRecord | None) -> None:
    """Sources that hold what the serving build holds of them are as of now, whatever becomes of the others."""
    same = {
        name: held
        for name, held in made.sources.items()
        if serving is not None and name in serving.sources and serving.sources[name].probe == held.probe
    }
    freshness.nothing_changed(
        state, sources, {name: held.as_of for name, held in same.items() if not held.away},
        {name: held.away for name, held in made.sources.items() if held.away},
    )  # fmt: skip


def _send(context: Context, outcome: Outcome, made: Index, serving: BuildRecord | None) -> Outcome:
    """An accepted release on its way, and once it serves, how long the change took."""
    ports = context.ports
    product = ports.products.get(context.product).spec
    if not outcome.accepted:
        return replace(outcome, held=f"its gates rejected it: {', '.join(outcome.failed_gates)}")
    held = releases.taken_back(ports.ledger, product.name, made.build)
    if held:
        return replace(outcome, held=held)
    before = releases.serving_config(ports.ledger, ports.artifacts, product.name)
    config = releases.config_of(ports.artifacts, ports.ledger.release(outcome.release).manifest)
    direct = before is None or releases.content_only(config, before[1])
    try:
        moved = releases.move(
            ports.ledger, ports.aliases_for(product.name), product, outcome.release, direct=direct, actor=ports.actor,
            reason=f"documents changed, index build {made.build}",
        )  # fmt: skip
    except Conflict as error:
        return replace(outcome, held=error.what)
    if moved.promoted is None:
        return replace(outcome, rollout=moved.rollout.id if moved.rollout else None)
    lag = _measure(context, indexing.sources_of(product.answers(), _record(made)), made.sources, serving)
    return replace(outcome, promoted=True, lag=lag)


def _measure(
    context: Context, sources: Sequence[SourceSpec], seen: Mapping[str, SourceRecord], serving: BuildRecord | None
) -> dict[str, float]:
    """Wait until the running service answers from what was promoted; returns source to lag of what changed."""
    state = context.state
    former = {name: held.probe for name, held in serving.sources.items()} if serving else {}
    changed = {name: held for name, held in seen.items() if former.get(name) != held.probe}
    probes = {name: held.probe for name, held in seen.items()}
    began = {name: datetime.fromisoformat(held.changed_at or held.as_of).timestamp() for name, held in changed.items()}
    found = _ask(context, probes, former, SEARCHABLE_WITHIN)
    if found is None:  # nobody answers from anything older either
        freshness.searchable(state, sources, seen, dict.fromkeys(probes, time.time()), {})
        return {}
    if serving is None:
        began = {}  # a first build has no change to measure
    freshness.searchable(state, sources, seen, found, began)
    missing = sorted(set(probes) - set(found))
    if missing:
        log.warning("the service of %s does not answer from the new documents of %s yet", context.product, missing)
    known = freshness.read(state)
    lags = {name: known[name].lag_seconds for name in began if name in found and name in known}
    return {name: lag for name, lag in lags.items() if lag is not None}


def _settle(context: Context, sources: Sequence[SourceSpec], serving: BuildRecord) -> None:
    """What a rollout or a rollback put into service since: find its probes, and go on from there."""
    known = freshness.read(context.state)
    probes = {
        name: held.probe
        for name, held in serving.sources.items()
        if held.probe and (name not in known or known[name].probe != held.probe)
    }
    if not probes:
        return
    found = _ask(context, probes, {name: known[name].probe for name in probes if name in known}, timeout=2.0)
    current = context.ports.ledger.current(context.product)
    since = datetime.fromisoformat(current.since).timestamp() if current else time.time()
    at = dict.fromkeys(probes if found is None else found, since)
    forward = {name: held for name, held in serving.sources.items() if name in known and held.as_of > known[name].as_of}
    began = {
        name: datetime.fromisoformat(held.changed_at or held.as_of).timestamp()
        for name, held in forward.items()
        if found is not None and name in found
    }
    freshness.searchable(context.state, sources, serving.sources, at, began)


def _ask(
    context: Context, probes: Mapping[str, str], former: Mapping[str, str], timeout: float
) -> dict[str, float] | None:
    """Source to when the service found its probe and not the former one; None where no service runs."""
    urls = context.ports.service_urls(context.product)
    headers = context.ports.service_headers(context.product)
    service = probing.Service(urls[0], tenants.probe_key(context.state), headers)
    if not service.answers():
        return None
    return freshness.wait_until_searchable(service.find, probes, former, timeout)


def _record(made: Index) -> BuildRecord:
    return read_build(made.record.path.parent)


def _refused(made: Index) -> int:
    return len(_record(made).refused)
