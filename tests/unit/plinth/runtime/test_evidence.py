"""The collector over folders and a signal source of this test."""

import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from plinth.core.evidence import Cell, Outcomes
from plinth.core.manifests import parse_product
from plinth.core.rollout_gates import judge
from plinth.core.rollout_policy import Burn, Compare, Contract, Drift, Quality
from plinth.core.rollouts import Plan, Stage, State
from plinth.errors import Unavailable
from plinth.ledger.artifacts import ArtifactStore
from plinth.ledger.rollouts import Rollout
from plinth.monitoring.reference import Reference
from plinth.runtime.evidence import Collector, violations

MANIFEST = Path(__file__).parents[4] / "services" / "flight-delays" / "product.yaml"
STARTED = datetime(2026, 3, 1, 12, tzinfo=UTC)
CELL = Cell(1, "candidate", "b" * 64, requests=7)
WATCHED = ("carrier_code", "origin_code", "dest_code")


class Signals:
    def __init__(self):
        self.asked, self.away, self.held = [], False, (CELL,)

    def cells(self, product, generation, *, window=None):
        self.asked.append(window)
        if self.away:
            raise Unavailable("the source is away")
        return self.held

    def outcomes(self, product, generation):
        return {"candidate": Outcomes((0.5,), (1,))}


def rollout_with(*gates):
    plan = Plan(
        strategy="canary", stages=(Stage(kind="full", percent=100, bake=1),), patience=1, approvals=0,
        own_approval=True, gates=gates,
    )  # fmt: skip
    return Rollout(
        1, "flight-delays", 2, "b" * 64, "a" * 64, plan, "p", State("full"), 1, (), "", "ada", STARTED.isoformat(),
        STARTED.isoformat(), None,
    )  # fmt: skip


@pytest.fixture
def signals():
    return Signals()


@pytest.fixture
def clock():
    return SimpleNamespace(now=0.0)


@pytest.fixture
def collect(tmp_path, signals, clock):
    dice = np.random.default_rng(7)
    matrix = dice.integers(0, 5, size=(4000, 3)).astype(np.float32)
    store = ArtifactStore(tmp_path / "artifacts")
    digest = store.put_bytes(Reference.build(matrix, WATCHED).to_json())
    manifest = SimpleNamespace(artifacts={"reference.json": digest})
    ledger = SimpleNamespace(release=lambda digest: SimpleNamespace(manifest=manifest))
    product = parse_product(MANIFEST.read_text(), str(MANIFEST))
    return Collector(
        lambda: signals, ledger=ledger, artifacts=store, folder_of=lambda name: tmp_path / name,
        product=lambda name: product, clock=lambda: clock.now,
    )  # fmt: skip


def write_log(folder, low, high, *, written=STARTED, release="b" * 64, rows=1000, name="part-1"):
    """Rows of the inference log with codes drawn from [low, high), in a file of that time."""
    dice = np.random.default_rng(11)
    path = folder / "inference" / "date=2013-06-01" / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    ids = [f"{name}-{number}" for number in range(rows)]
    at = pa.array([datetime(2013, 6, 1, 9, tzinfo=UTC)] * rows, pa.timestamp("us", "UTC"))
    columns = {name: dice.integers(low, high, rows).astype(np.float32) for name in WATCHED}
    table = pa.table({
        "request_id": ids, "entity_id": ids, "release": [release] * rows, "event_time": at, "score": [0.5] * rows,
        "at": at, **columns,
    })  # fmt: skip
    pq.write_table(table, path)
    os.utime(path, (written.timestamp(), written.timestamp()))


def test_only_what_the_plans_gates_look_at_is_read(collect, signals):
    compare = Compare(kind="compare", metric="errors", tolerance=0.0, effect=0.1)
    evidence = collect(rollout_with(compare))
    assert evidence.cells == (CELL,)
    assert (dict(evidence.windows), evidence.outcomes, evidence.drift, evidence.contract_violations) == (
        {}, None, None, None,
    )  # fmt: skip
    assert signals.asked == [None]


def test_the_windows_of_the_burn_gates_are_read_as_well_as_outcomes_and_contracts(collect, signals):
    evidence = collect(rollout_with(Burn(kind="burn"), Quality(kind="quality"), Contract(kind="contract")))
    assert set(evidence.windows) == {300, 1800, 3600, 21600, 259200}
    assert signals.asked == [None, *map(float, sorted(evidence.windows))]
    assert evidence.outcomes["candidate"].label == (1,)
    assert evidence.contract_violations == 0


def test_a_source_that_is_away_is_a_problem_and_no_cells(collect, signals):
    signals.away = True
    evidence = collect(rollout_with(Contract(kind="contract")))
    assert evidence.cells == ()
    assert evidence.problem == "the source is away"


def test_what_other_releases_left_under_the_same_generation_is_no_evidence(collect, signals):
    left = [replace(CELL, release="c" * 64), replace(CELL, arm="serving", release="b" * 64)]
    ours = (replace(CELL, arm="serving", release="a" * 64), CELL, replace(CELL, arm="shadow"))
    signals.held = (*left, *ours)
    evidence = collect(rollout_with(Burn(kind="burn")))
    assert evidence.cells == ours
    assert set(evidence.windows.values()) == {ours}


@pytest.mark.parametrize(
    ("name", "age", "counts"),
    [("2013-01", 60, 1), ("2013-01", -60, 0), ("2013-01.resolved", 60, 0), (".2013-01.7.partial", 60, 0)],
)
def test_a_batch_counts_if_it_was_quarantined_since_and_still_stands(tmp_path, name, age, counts):
    report = tmp_path / "quarantine" / "flights" / name / "report.json"
    report.parent.mkdir(parents=True)
    report.write_text("{}")
    os.utime(report, (STARTED.timestamp() + age,) * 2)
    assert violations(tmp_path, STARTED.isoformat()) == counts


DRIFT = Drift(kind="drift")


def test_the_candidates_inputs_are_compared_with_its_reference(collect, tmp_path):
    write_log(tmp_path / "flight-delays", 0, 5)
    alike = collect(rollout_with(DRIFT)).drift
    assert set(alike) == set(WATCHED)
    assert max(alike.values()) < 0.1


def test_inputs_that_moved_show(collect, tmp_path):
    write_log(tmp_path / "flight-delays", 3, 5)
    assert min(collect(rollout_with(DRIFT)).drift.values()) > 0.25


@pytest.mark.parametrize(
    "changed", [{"rows": 100}, {"release": "a" * 64}, {"written": datetime(2026, 2, 28, tzinfo=UTC)}],
    ids=["too few", "of another release", "of an earlier rollout"],
)  # fmt: skip
def test_rows_that_prove_nothing_are_no_drift_and_no_all_clear(collect, tmp_path, changed):
    write_log(tmp_path / "flight-delays", 3, 5, **changed)
    assert collect(rollout_with(DRIFT)).drift is None


def test_without_an_inference_log_there_is_no_drift(collect):
    evidence = collect(rollout_with(DRIFT))
    assert (evidence.drift, evidence.problem) == (None, "")


def test_drift_is_measured_every_ten_seconds_and_anew_for_another_rollout(collect, tmp_path, clock):
    rollout = rollout_with(DRIFT)
    write_log(tmp_path / "flight-delays", 0, 5)
    before = collect(rollout).drift
    write_log(tmp_path / "flight-delays", 3, 5, rows=5000, name="part-2")
    assert collect(rollout).drift == before
    assert collect(replace(rollout, id=2)).drift != before
    clock.now += 11
    assert collect(rollout).drift != before


def test_of_an_assistant_only_what_its_gates_look_at_is_gathered(tmp_path, signals):
    """Neither labels nor training data: the manifest refuses the gates that would ask for them."""
    path = MANIFEST.parents[1] / "docs-assistant" / "product.yaml"
    product = parse_product(path.read_text(), str(path))
    gates = product.rollout_policy.gates
    collect = Collector(
        lambda: signals, ledger=None, artifacts=None, folder_of=lambda name: tmp_path, product=lambda name: product
    )
    seen = collect(rollout_with(*gates))
    assert (seen.cells, seen.contract_violations, seen.problem) == ((CELL,), 0, "")
    assert (seen.drift, seen.outcomes) == (None, None)
    assert set(seen.windows) == {int(length) for length in signals.asked if length}
    verdicts = judge(rollout_with(*gates).plan, State("full"), seen, product)
    assert "pass" not in {verdict.outcome for verdict in verdicts if verdict.gate != "contract"}
