"""Pipeline steps up to the training data: land the batches, build the features, join them, check for skew."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from flight_delays import data, dataset, feature_definitions, feature_tables, network, request, vector
from flight_delays.dataset import TrainingFrame
from plinth.contracts.check import enforce, load_contracts
from plinth.contracts.model import Contract
from plinth.core.releases import ContractRef
from plinth.errors import RefusedByPolicy
from plinth.features.readplan import ReadPlan
from plinth.features.skew import compare
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
            {"dataset": b.dataset, "batch": b.batch, "rows": b.rows, "contract": f"{b.contract.id} {b.contract.version}"}
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
def check_skew(context: Context, joined: Joined, tables: tuple[FileRef, ...], day: date) -> Skew:
    """Serve one day's flights from an online store of its own and compare with the offline join, bit by bit.

    The store is fed as production's is: materialized up to the day, then advanced hour by hour; the flights of each
    hour are read through the compiled read plan and assembled by the function that serves requests.

    Args:
        day: The UTC day of prediction times that is replayed.
    """
    frame = load_frame(joined)
    start = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())
    names = {flight: row for row, flight in enumerate(frame.flight_id.tolist())}
    flights = flights_of(context.state / "lake", day)
    online, offline, ids = [], [], []
    with tempfile.TemporaryDirectory(dir=context.state, prefix=".skew-") as folder:
        store = scratch_store(context, Path(folder))
        hour = datetime.fromtimestamp(start, UTC)
        store.materialize(hour - timedelta(days=9), hour)  # longer than any view's TTL
        reader = ReadPlan.from_dict(store.compile_plan()).open(store.database)
        for offset in range(24):
            now = hour + timedelta(hours=offset)
            store.advance(now)
            due = [f for f in flights if f.prediction_epoch // 3600 == int(now.timestamp()) // 3600]
            due = [flight for flight in due if flight.flight_id in names]
            if due:
                block = reader.read(
                    request.join_keys(due), np.array([f.prediction_epoch for f in due], dtype=np.int64)
                )
                online.append(vector.assemble(due, block.values))
                offline.append(frame.matrix[[names[flight.flight_id] for flight in due]])
                ids += [flight.flight_id for flight in due]
        reader.close()
    if not ids:
        return Skew(0, 0.0)
    report = compare(np.concatenate(online), np.concatenate(offline), vector.FEATURES, entity_ids=ids)
    artifact("skew", table=[vars(difference) for difference in report.differences] or [{"differences": "none"}])
    return Skew(report.rows, report.max_difference)


def scratch_store(context: Context, folder: Path) -> Any:
    """A feature store of its own over the product's feature tables, for checks that must not touch what serves."""
    from plinth.features.feast import FeastFeatures

    (folder / "features").symlink_to(context.state / "features", target_is_directory=True)
    store = FeastFeatures(
        folder, feature_definitions.PROJECT, feature_definitions.SERVICE, feature_definitions.definitions
    )
    store.apply()
    return store


def flights_of(lake: Path, day: date) -> list[request.Flight]:
    """The flights whose prediction is made on a UTC day, in order of it; cancelled ones too."""
    lead = request.LEAD_TIME
    rows = dataset.entity_rows(lake, day, day + timedelta(days=2))
    times = rows["event_timestamp"].dt.tz_convert("UTC")
    rows = rows[times.dt.date == day]
    return [
        request.Flight(
            carrier=row.carrier,
            flight=int(row.flight),
            origin=row.origin,
            dest=row.dest,
            tailnum=row.tailnum if isinstance(row.tailnum, str) else None,
            scheduled_departure=row.event_timestamp.to_pydatetime().astimezone(UTC) + lead,
        )
        for row in rows.itertuples()
    ]
