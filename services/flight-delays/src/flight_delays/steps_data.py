"""Pipeline steps up to the training data: land the batches, build the features, join them, check for skew."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np

from flight_delays import data, dataset, feature_definitions, feature_tables, network, request, vector
from flight_delays.dataset import TrainingFrame
from flight_delays.training import Window
from plinth.contracts.check import enforce, load_contracts
from plinth.contracts.model import Contract
from plinth.core.releases import ContractRef
from plinth.errors import RefusedByPolicy
from plinth.features.skew import compare, sample
from plinth.pipelines.files import FileRef
from plinth.pipelines.port import PipelineContext
from plinth.pipelines.step import artifact, step
from plinth.wiring import Platform

Context = PipelineContext[Platform]

FIRST, LAST = date(2013, 1, 1), date(2014, 1, 2)
"""The days of scheduled departures that the data covers, half-open, UTC (its last evening runs into 2014)."""


@dataclass(frozen=True)
class LandedBatch:
    """A batch in the lake, and the contract it passed."""

    dataset: str
    batch: str
    rows: int
    file: FileRef
    contract: ContractRef


@dataclass(frozen=True)
class Landed:
    """Everything that is in the lake."""

    batches: tuple[LandedBatch, ...]

    def of(self, name: str) -> tuple[LandedBatch, ...]:
        """The batches of one dataset."""
        return tuple(batch for batch in self.batches if batch.dataset == name)

    @property
    def contracts(self) -> tuple[ContractRef, ...]:
        """Each contract once, sorted by id."""
        return tuple(sorted({batch.contract for batch in self.batches}, key=lambda contract: contract.id))


@dataclass(frozen=True)
class Joined:
    """The training data (an npz of TrainingFrame) and the compiled read plan (JSON)."""

    frame: FileRef
    plan: FileRef
    rows: int


@dataclass(frozen=True)
class Skew:
    """Online against offline on sampled flights: rows compared and the largest difference of any feature."""

    rows: int
    max_difference: float


def sources() -> dict[str, FileRef]:
    """The installed data files by dataset, each with its digest."""
    return {name: FileRef.of(path) for name, path in data.find_sources().items()}


def contract_files(context: Context) -> tuple[FileRef, ...]:
    """The product's contract documents."""
    product = context.ports.products.get(context.product)
    return tuple(FileRef.of(product.folder / path) for path in product.spec.contracts)


@step(version="1", retries=1, uses=(data,))
def land(context: Context, sources: dict[str, FileRef], contracts: tuple[FileRef, ...]) -> Landed:
    """Cut the sources into monthly batches and let those that keep their contract into the lake.

    Raises:
        RefusedByPolicy: A batch breaks its contract. Each such batch is in quarantine with a report; nothing
            downstream runs.
    """
    product = context.ports.products.get(context.product)
    by_dataset = {contract.dataset: contract for contract in load_contracts(product.spec, product.folder)}
    landed, refusals = [], []
    with tempfile.TemporaryDirectory(dir=_made(context.state), prefix=".incoming-") as folder:
        for batch in data.prepare_raw(Path(folder), {name: ref.checked() for name, ref in sources.items()}):
            contract = by_dataset.get(batch.dataset)
            if contract is None:
                continue  # airports and planes are only read to cut the batches
            try:
                landed.append(_enforce(context, contract, batch))
            except RefusedByPolicy as refusal:
                refusals.append(refusal)
    artifact(
        "contracts",
        table=[
            {
                "dataset": b.dataset,
                "batch": b.batch,
                "rows": b.rows,
                "contract": f"{b.contract.id} {b.contract.version}",
            }
            for b in landed
        ],
    )
    if refusals:
        raise RefusedByPolicy(
            f"{len(refusals)} of {len(refusals) + len(landed)} batches break their contract: {refusals[0].what}",
            where=refusals[0].where,
            hint=refusals[0].hint,
        )
    return Landed(tuple(landed))


def _enforce(context: Context, contract: Contract, batch: data.Batch) -> LandedBatch:
    lake = context.state / "lake"
    result = enforce(contract, batch.path, lake, context.state / "quarantine")
    return LandedBatch(
        dataset=batch.dataset,
        batch=batch.batch,
        rows=result.rows,
        file=FileRef.of(lake / batch.dataset / batch.path.name),
        contract=ContractRef(id=contract.id, version=contract.version, digest=contract.digest),
    )


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@step(version="1", retries=1, uses=(feature_tables,))
def make_features(context: Context, landed: Landed) -> tuple[FileRef, ...]:
    """Build the feature tables over the lake."""
    tables = feature_tables.build_feature_tables(context.state / "lake", context.state / "features")
    artifact("feature-tables", table=[{"view": table.view, "rows": table.rows} for table in tables])
    return tuple(FileRef.of(table.path) for table in tables)


@step(version="1", uses=(dataset, vector, feature_definitions, network, request))
def join(context: Context, landed: Landed, tables: tuple[FileRef, ...]) -> Joined:
    """Register the features with Feast, compile the read plan, join every flight to what was known in time."""
    store = context.ports.features(context.product)
    store.apply()
    frame = dataset.training_frame(store, context.state / "lake", FIRST, LAST)
    folder = _made(context.state / "datasets")
    plan = folder / "read_plan.json"
    plan.write_text(json.dumps(store.compile_plan(), indent=1), encoding="utf-8")
    target = folder / "frame.npz"
    np.savez(target, **{name: value for name, value in vars(frame).items() if name != "names"})
    return Joined(FileRef.of(target), FileRef.of(plan), len(frame))


def load_frame(joined: Joined) -> TrainingFrame:
    """The training data of a join.

    Raises:
        Corrupt: The file is gone or changed.
    """
    with np.load(joined.frame.checked(), allow_pickle=False) as arrays:
        return TrainingFrame(**{name: arrays[name] for name in arrays.files})


@step(version="1", uses=(dataset, vector, feature_definitions))
def check_skew(context: Context, joined: Joined, tables: tuple[FileRef, ...], window: Window) -> Skew:
    """Serve flights of a window from an online store and compare the model's inputs with the training data's.

    Sampled stretches of hours are fed as production is: materialized up to their start, then advanced hour by hour.
    Each flight is read through the compiled read plan at its own time and assembled by the function that serves
    requests.
    """
    frame = load_frame(joined)
    rows = dataset.entity_rows(context.state / "lake", window.start, window.end)
    rows = rows[rows["arr_delay"].notna()].reset_index(drop=True)
    keys = ["carrier", "origin", "dest", "line", "tailnum", "event_timestamp"]
    taken = sample(context.ports.features(context.product), rows[keys], stretches=2, hours=8)
    flights = dataset.flights_of(rows.iloc[taken.positions])
    place = {flight_id: row for row, flight_id in enumerate(frame.flight_id.tolist())}
    trained_on = frame.matrix[[place[flight.flight_id] for flight in flights]]
    served = vector.assemble(flights, taken.online.values)
    report = compare(served, trained_on, vector.FEATURES, entities=[flight.flight_id for flight in flights])
    artifact("skew", table=report.as_evidence()["differences"] or [{"rows": report.rows, "differences": "none"}])
    return Skew(report.rows, report.max_difference)
