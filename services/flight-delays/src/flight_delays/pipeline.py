"""The product's pipeline: contract -> features -> join -> fit -> evaluate -> skew -> register -> release.

Windows are UTC dates of scheduled departures, half-open. What a step reads and writes is named by digest, so a second
run skips what has not changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

from flight_delays import steps_data, steps_model
from flight_delays.steps_data import Context
from flight_delays.training import Window, Windows
from plinth.errors import InvalidInput, NotFound
from plinth.governance.code import code_ref
from plinth.monitoring import latest
from plinth.monitoring.assessment import assess_release, log_span

LABEL_DELAY = timedelta(days=2)
"""Outcomes of a day are complete this long after it began: the day itself, and one for late reports."""

JUDGE, TUNE = timedelta(days=28), timedelta(days=28)
"""How much of the newest data judges a retrained candidate, and how much before it chooses its iterations."""


@dataclass(frozen=True)
class Outcome:
    """What a run ended with."""

    release: str
    accepted: bool
    failed_gates: tuple[str, ...]
    metrics: dict[str, float]


def windows_as_of(as_of: date) -> Windows:
    """The windows of a training on `as_of`: everything since January, judged on the newest four weeks.

    Raises:
        InvalidInput: Less than two months of data come before.
    """
    judged = as_of - LABEL_DELAY + timedelta(days=1)
    tuned = judged - JUDGE
    trained = tuned - TUNE
    if trained < date(2013, 3, 1):
        raise InvalidInput(
            f"too little data before {as_of}", where="parameter as_of", hint="give a day from 2013-04-27 on"
        )
    return Windows(
        train=Window(steps_data.FIRST, trained), validate=Window(trained, tuned), evaluate=Window(tuned, judged)
    )


def train(context: Context, *, as_of: date | None = None) -> Outcome:
    """Train, judge and release a model; the release is rejected when a gate fails, and is never promoted by itself.

    Args:
        context: The run.
        as_of: The day the training happens on: only what was known by then is used. None is the back-test of the
            year: trained on January to April, iterations chosen on May, judged on June to December.
    """
    windows = Windows() if as_of is None else windows_as_of(as_of)
    landed = steps_data.land(context, steps_data.sources(), steps_data.contract_files(context))
    tables = steps_data.make_features(context, landed)
    joined = steps_data.join(context, landed, tables)
    fitted = steps_model.fit(context, joined, windows.train, windows.validate, windows.evaluate, steps_model.TOOLS)
    # The back-test looks at months that a release which serves today may have been trained on: compared with nothing.
    current = context.ports.ledger.current(context.product) if as_of else None
    serving = steps_model.rival(context, current.digest) if current else None
    judged = steps_model.evaluate(context, joined, fitted, windows.evaluate, serving)
    skew = steps_data.check_skew(context, joined, tables, windows.evaluate)
    code = code_ref(context.ports.settings.home)
    gates = context.ports.products.get(context.product).spec.gates  # an argument, so that another bound judges anew
    spans = (windows.train, windows.validate, windows.evaluate)
    registered = steps_model.register(context, landed, joined, fitted, judged, skew, *spans, code, gates)
    digest = steps_model.release(context, landed, joined, fitted, judged, skew, registered, *spans, code, gates)
    try:
        record = context.ports.ledger.release(digest)
    except NotFound:
        # The step was skipped as unchanged, but this ledger is a new one: the effect has to happen again.
        again = steps_model.release.function
        digest = again(context, landed, joined, fitted, judged, skew, registered, *spans, code, gates)
        record = context.ports.ledger.release(digest)
    failed = tuple(verdict.gate for verdict in record.manifest.failed_gates())
    return Outcome(digest, record.status == "accepted", failed, record.manifest.metrics)


@dataclass(frozen=True)
class Watched:
    """What a look at the serving release found."""

    release: str
    predictions: int
    beyond: bool


def watch(context: Context) -> Watched | None:
    """Assess the serving release over the newest thirty days of its log, for the dashboards and their alerts.

    It retrains nothing: `plinth drift report --trigger` does. None where nothing has served yet.
    """
    ports = context.ports
    product = ports.products.get(context.product).spec
    folder = ports.settings.product_dir(product.name)
    serving = ports.ledger.current(product.name)
    if serving is None or log_span(folder) is None:
        return None
    record = ports.ledger.release(serving.digest)
    found = assess_release(product, folder, record, ports.artifacts)
    latest.keep(found, folder)
    return Watched(record.digest, found.drift.rows, found.beyond)
