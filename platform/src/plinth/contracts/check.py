"""The pipeline's boundary: a batch enters the lake only if it keeps its contract."""

from __future__ import annotations

import re
from pathlib import Path

from plinth.contracts import quarantine as shelves
from plinth.contracts.model import Contract
from plinth.contracts.odcs import load
from plinth.contracts.port import CheckResult, ContractEngine, Window
from plinth.contracts.report import summary
from plinth.core.products import Product
from plinth.errors import InvalidInput, NotFound, PlinthError, RefusedByPolicy

_BATCH_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")


def enforce(
    contract: Contract,
    batch: Path,
    lake: Path,
    quarantine: Path,
    *,
    window: Window | None = None,
    engine: ContractEngine | None = None,
) -> CheckResult:
    """Check a batch and move it: into the lake when it passes, into the quarantine when it breaks its contract.

    Run again after either end it gives the same answer: a batch that is no longer at `batch` because an earlier run
    moved it is checked where it lies.

    Args:
        contract: What the batch has to keep.
        batch: The file that arrived, e.g. `incoming/flights/2013-01.parquet`; its stem names the batch.
        lake: Root of the lake; the batch lands in `<lake>/<dataset>/<batch>.parquet`.
        quarantine: Root of the quarantine; a broken batch lands in `<quarantine>/<dataset>/<batch>/`.
        window: The time the batch covers; by default taken from its name (`Window.of_batch`).
        engine: What checks; DuckDB by default.

    Raises:
        RefusedByPolicy: The batch breaks the contract and is quarantined; `where` is the report.
        NotFound: The batch is neither at `batch` nor where an earlier run moved it.
        InvalidInput: The batch's name or the contract cannot be used.
        Unavailable: Not enough disk or memory; nothing was moved.
    """
    name = batch.name.split(".")[0]
    if not _BATCH_NAME.fullmatch(name):
        raise InvalidInput(f"{name!r} is no name of a batch", where=str(batch), hint="use letters, digits, - and _")
    target = lake / contract.dataset / batch.name
    folder = quarantine / contract.dataset / name
    place = next((path for path in (batch, folder / batch.name, target) if path.is_file()), None)
    if place is None:
        raise NotFound(f"the batch {name} is not there", where=str(batch), hint="deliver it again")
    result = (engine or _default_engine()).check(contract, place, window or Window.of_batch(name))
    if result.passed:
        if place != target:
            shelves.accept(place, target)
        shelves.resolve(folder)
        return result
    report = folder / "report.html"
    if place != folder / batch.name:
        report = shelves.isolate(place, folder, result)
    raise RefusedByPolicy(
        f"the batch {contract.dataset}/{name} breaks its contract {contract.id} {contract.version}: {summary(result)}",
        where=str(report),
        hint="read the report; correct the delivery and run again, or change the contract with its owner "
        f"({contract.owner})",
    )


def load_contracts(product: Product, folder: Path) -> list[Contract]:
    """The contracts a product names, in its order.

    Args:
        product: The product's manifest.
        folder: The folder it stands in.

    Raises:
        InvalidInput: One or more documents are missing or don't fit; each is named with its lines.
        RefusedByPolicy: A contract has no owner.
    """
    contracts: list[Contract] = []
    errors: list[PlinthError] = []
    for relative in product.contracts:
        try:
            contracts.append(load(folder / relative))
        except PlinthError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        kind = InvalidInput if any(error.exit_code == InvalidInput.exit_code for error in errors) else RefusedByPolicy
        raise kind("\n".join(error.what for error in errors), where=errors[0].where, hint=errors[0].hint)
    datasets = [contract.dataset for contract in contracts]
    if len(set(datasets)) < len(datasets):
        raise InvalidInput("two contracts describe the same dataset", where=str(folder), hint="keep one of them")
    return contracts


def _default_engine() -> ContractEngine:
    from plinth.contracts.duckdb import DuckDBEngine

    return DuckDBEngine()
