"""`plinth contract`: check data against its contract, compare two versions of a contract."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plinth.cli.command import Groups

if TYPE_CHECKING:
    from plinth.cli.output import Output
    from plinth.contracts.model import Contract
    from plinth.contracts.port import CheckResult, Window

REFUSED = 3


def register(groups: Groups) -> None:
    """Declare the commands."""
    group = groups.group("contract", help="Data contracts (ODCS v3): check data, compare versions.")
    command = group.command(
        "check",
        check,
        help="Check contracts, and the data they speak of: one file, or every batch in the product's lake.",
        example="plinth contract check flight-delays",
    )
    command.add_argument("target", nargs="?", help="a product, or an ODCS file; default every product")
    command.add_argument("--data", type=Path, metavar="FILE", help="check this Parquet or CSV file instead of the lake")
    command.add_argument("--dataset", help="which of the product's contracts; default by the name of FILE's folder")
    command.add_argument(
        "--window", metavar="WHEN", help="year, month or day FILE covers, e.g. 2013-01; default its name"
    )
    command.add_argument("--report", type=Path, metavar="HTML", help="write the report of FILE here")
    command = group.command(
        "diff",
        diff,
        help="What changed between two versions of a contract, and whom it breaks. Exits with 3 on a breaking change.",
        example="plinth contract diff old/flights.odcs.yaml new/flights.odcs.yaml",
    )
    command.add_argument("old", type=Path, help="the contract as it was")
    command.add_argument("new", type=Path, help="the contract as it is to be")
    command.add_argument(
        "--allow-major", action="store_true", help="exit with 0 on a breaking change whose version steps up accordingly"
    )


def check(args: Namespace, out: Output) -> int:
    """Handler of `contract check`: 0 when all hold, 3 when a batch breaks its contract."""
    from plinth.contracts.duckdb import DuckDBEngine

    contracts, lakes = _contracts(args.target)
    if args.data is not None:
        contract = _one(contracts, args)
        result = DuckDBEngine().check(contract, args.data, _window(args.window, args.data))
        results = [result]
        if args.report is not None:
            _write_report(result, args.report)
            out.note(f"report: {args.report}")
    else:
        results = []
        batches = [
            (contract, path) for contract in contracts for path in _batches(lakes.get(contract.source), contract)
        ]
        with out.progress() as progress:
            for contract, path in progress.track(batches, description="checking batches"):
                results.append(DuckDBEngine().check(contract, path, _window(args.window, path)))
    passed = all(result.passed for result in results)
    out.data(
        {
            "passed": passed,
            "contracts": [_identity(contract) for contract in contracts],
            "results": [result.as_dict() for result in results],
        }
    )
    _show(contracts, results, out)
    return 0 if passed else REFUSED


def _contracts(target: str | None) -> tuple[list[Contract], dict[str, Path]]:
    """The contracts of a file, a product or all products; and the lake each one's batches lie in, by its source."""
    from plinth.contracts.check import load_contracts
    from plinth.contracts.odcs import load
    from plinth.wiring import Platform

    if target is not None and target.endswith((".yaml", ".yml")):
        return [load(Path(target))], {}
    platform = Platform.from_settings()
    contracts: list[Contract] = []
    lakes: dict[str, Path] = {}
    for product in [platform.products.get(target)] if target else platform.products.all():
        for contract in load_contracts(product.spec, product.folder):
            contracts.append(contract)
            lakes[contract.source] = platform.settings.product_dir(product.spec.name) / "lake"
    return contracts, lakes


def _batches(lake: Path | None, contract: Contract) -> list[Path]:
    folder = lake / contract.dataset if lake else None
    return sorted(path for path in folder.iterdir() if path.is_file()) if folder and folder.is_dir() else []


def _one(contracts: list[Contract], args: Namespace) -> Contract:
    """The contract that the file is to be checked against."""
    from plinth.errors import InvalidInput

    wanted = args.dataset or (args.data.resolve().parent.name if len(contracts) > 1 else contracts[0].dataset)
    found = [contract for contract in contracts if contract.dataset == wanted]
    if len(found) != 1:
        known = ", ".join(contract.dataset for contract in contracts)
        raise InvalidInput(
            f"{len(found)} contracts describe the dataset {wanted!r}",
            where="--dataset",
            hint=f"name one of: {known}, or give the contract's file",
        )
    return found[0]


def _window(written: str | None, path: Path) -> Window | None:
    from plinth.contracts.port import Window
    from plinth.errors import InvalidInput

    if written is None:
        return Window.of_batch(path.name.split(".")[0])
    window = Window.of_batch(written)
    if window is None:
        raise InvalidInput(
            f"{written!r} is no year, month or day", where="--window", hint="write 2013, 2013-01 or 2013-01-31"
        )
    return window


def _write_report(result: CheckResult, path: Path) -> None:
    from plinth.contracts.report import to_html
    from plinth.errors import Unavailable

    try:
        path.write_text(to_html(result), encoding="utf-8")
    except OSError as error:
        what = f"the report cannot be written: {error.strerror}"
        raise Unavailable(what, where=str(path), hint="choose another place") from error


def _identity(contract: Contract) -> dict[str, Any]:
    return {
        "id": contract.id,
        "version": contract.version,
        "dataset": contract.dataset,
        "owner": contract.owner,
        "consumers": list(contract.consumers),
        "digest": contract.digest,
        "source": contract.source,
    }


def _show(contracts: list[Contract], results: list[CheckResult], out: Output) -> None:
    for contract in contracts:
        rules = f"{len(contract.columns)} columns, owned by {contract.owner}"
        out.text(f"{contract.id} {contract.version}: a valid contract on {contract.dataset}, {rules}")
    if not results:
        out.text("no batch was checked: the lake is empty; give one with --data FILE")
        return
    out.table(
        ["dataset", "batch", "rows", "rules", "seconds", "contract"],
        [
            [
                item.dataset,
                item.batch,
                f"{item.rows:,}",
                item.rules,
                f"{item.seconds:.2f}",
                "kept" if item.passed else "broken",
            ]
            for item in results
        ],
    )
    for result in results:
        for violation in result.violations:
            column = f" {violation.column}" if violation.column else ""
            out.text(
                f"{result.dataset}/{result.batch}: {violation.severity}: {violation.rule}{column}: {violation.message} "
                f"({violation.count:,} row{'s' * (violation.count != 1)})"
            )
        for item in result.skipped:
            out.text(f"{result.dataset}/{result.batch}: not checked: {item}")


def diff(args: Namespace, out: Output) -> int:
    """Handler of `contract diff`: 0 compatible, 3 breaking."""
    from plinth.contracts.diff import bump, version_problem
    from plinth.contracts.diff import diff as changes_between
    from plinth.contracts.odcs import load

    old, new = load(args.old), load(args.new)
    changes = changes_between(old, new)
    breaking = any(change.breaking for change in changes)
    problem = version_problem(old.version, new.version, changes)
    out.data(
        {
            "old": _identity(old),
            "new": _identity(new),
            "breaking": breaking,
            "bump": bump(changes),
            "version_problem": problem,
            "changes": [change.as_dict() for change in changes],
        }
    )
    if not changes:
        out.text("no change")
    else:
        out.table(
            ["", "change", "where", "breaks", "why"],
            [
                [
                    "breaking" if item.breaking else "compatible",
                    item.kind,
                    item.path,
                    ", ".join(item.breaks),
                    item.reason,
                ]
                for item in changes
            ],
        )
        out.text(f"{old.version} to {new.version}: {problem or 'the version fits the changes'}")
    return 0 if not breaking or (args.allow_major and problem is None) else REFUSED
