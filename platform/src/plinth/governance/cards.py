"""Model cards, made from what was recorded: release, registry run, evaluation, contracts, owners, gates.

What a card has to say follows Mitchell et al. 2019, "Model Cards for Model Reporting". What only people can say
(intended use, limits) stands in the product's `model-card.yaml`; a card without it says that it is missing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from plinth.contracts.model import Contract
from plinth.core.documents import parse_document, read_text
from plinth.core.products import Product
from plinth.core.releases import ReleaseManifest
from plinth.errors import Corrupt, InvalidInput, NotFound
from plinth.governance.document import Block, Figure, Items, Paragraph, Section, Table
from plinth.ledger.store import ReleaseRecord
from plinth.models.port import Registry, Run

MODEL_CARD, SYSTEM_CARD = "model-card.yaml", "system-card.yaml"
EVALUATION = "evaluation.json"
PLOTS = {"calibration.png": "Calibration", "roc.png": "ROC curve", "months.png": "AUC by month"}
MINIMUM_ROWS = 500


class Statement(BaseModel):
    """`services/<name>/model-card.yaml` or `system-card.yaml`: what the owners say about the model or the assistant."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    intended_use: tuple[str, ...] = ()
    not_for: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()

    @classmethod
    def load(cls, product_folder: Path, name: str = MODEL_CARD) -> Statement:
        """The product's statement, in the file of that name; an empty one where there is no file.

        Raises:
            InvalidInput: The file does not fit.
        """
        path = product_folder / name
        if not path.is_file():
            return cls()
        document = parse_document(read_text(path), str(path))
        try:
            return cls.model_validate(document.value)
        except ValidationError as error:
            first = error.errors()[0]
            raise InvalidInput(
                f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}",
                where=f"{path}:{document.line(first['loc'])}",
                hint="it has the lists intended_use, not_for and limits",
            ) from error


@dataclass(frozen=True)
class Facts:
    """Everything a card is made of."""

    product: Product
    release: ReleaseRecord
    serving: bool
    statement: Statement
    run: Run | None = None
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    plots: Mapping[str, bytes] = field(default_factory=dict)
    contracts: Sequence[Contract] = ()


def gather(
    product: Product, release: ReleaseRecord, registry: Registry, *, serving: bool, statement: Statement,
    contracts: Sequence[Contract] = (),
) -> Facts:  # fmt: skip
    """The facts of a release's card, read from the registry.

    A run, evaluation or plot that the registry does not have is left out, and the card says so.

    Raises:
        Corrupt: The evaluation is not JSON.
        Unavailable: The registry cannot be read.
    """
    run_id = release.manifest.tabular().model.run_id
    try:
        run = registry.run(run_id)
    except NotFound:
        return Facts(product, release, serving, statement, contracts=contracts)
    files: dict[str, bytes] = {}
    for name in (EVALUATION, *PLOTS):
        try:
            files[name] = registry.document(run_id, name)
        except NotFound:
            continue
    try:
        evaluation = json.loads(files.pop(EVALUATION, b"{}"))
    except ValueError as error:
        raise Corrupt(f"{EVALUATION} of run {run_id} is not JSON", where="registry", hint="train again") from error
    return Facts(product, release, serving, statement, run, evaluation, files, contracts)


def model_card(facts: Facts) -> list[Section]:
    """The card's sections, for `plinth.governance.document` to render."""
    return [
        _identity(facts),
        statement("Intended use", facts.statement.intended_use, facts.statement.not_for),
        statement("Limits", facts.statement.limits),
        _performance(facts),
        _by_month(facts),
        _by_slice(facts),
        gates(facts.release.manifest),
        _data(facts),
        _training(facts),
        ownership(facts.product),
    ]


def _identity(facts: Facts) -> Section:
    model = facts.release.manifest.tabular().model
    what = ("Model", f"{model.name} version {model.version} ({model.format})")
    return identity("Model card", facts.product, facts.release, serving=facts.serving, what=what)


def identity(
    card: str, product: Product, release: ReleaseRecord, *, serving: bool, what: tuple[str, str]
) -> Section:  # fmt: skip
    """The first section of a card: which release it is about, and `what` it is."""
    rows = [
        ("Release", release.digest),
        ("State", "serving now" if serving else release.status),
        what,
        ("Created (UTC)", f"{release.manifest.created_at} by {release.created_by}"),
        ("Owner", f"{product.owner.team} ({product.owner.contact})"),
    ]
    return Section(f"{card}: {product.title}", [Paragraph(product.description), Table(("", ""), rows)], level=1)


def statement(title: str, stated: Sequence[str], not_for: Sequence[str] = (), file: str = MODEL_CARD) -> Section:
    """What the owners say, or that they say nothing."""
    blocks: list[Block] = [Items(stated)] if stated else [Paragraph(f"Not stated by the owners ({file}).")]
    if not_for:
        blocks += [Paragraph("Not for:"), Items(not_for)]
    return Section(title, blocks)


def _performance(facts: Facts) -> Section:
    result = facts.evaluation
    if not result:
        return Section("Performance", [Paragraph("No evaluation is recorded for this release.")])
    window = result["window"]
    told = (
        f"Judged on {result['rows']:,} rows from {window['start']} to {window['end']} (end excluded), none of which "
        "it was trained on. The baseline is the smoothed historical rate by key."
    )
    rows = [
        ("AUC", number(result["auc"]), number(result["baseline_auc"])),
        ("Log loss", number(result["log_loss"]), number(result["baseline_log_loss"])),
        ("Expected calibration error", number(result["calibration_error"]), ""),
        ("Mean prediction", number(result["mean_prediction"]), ""),
        ("Outcome rate", number(result["outcome_rate"]), ""),
    ]
    blocks: list[Block] = [Paragraph(told), Table(("", "Model", "Baseline"), rows)]
    if serving := result.get("serving"):
        bound = serving["upper_bound"]
        bound = "unknown" if serving["upper_bound"] is None else f"{serving['upper_bound']:+.5f}"
        compared = (
            "Against the release that served then, on the same rows: log loss "
            f"{serving['log_loss_difference']:+.5f} (95% upper bound {bound}, paired over {serving['days']} days)."
        )
        blocks.append(Paragraph(compared))
    blocks += [Figure(title, facts.plots[name]) for name, title in PLOTS.items() if name in facts.plots]
    return Section("Performance", blocks)


_COLUMNS = {
    "rows": "Rows", "outcome_rate": "Outcome rate", "mean_prediction": "Mean prediction", "auc": "AUC",
    "log_loss": "Log loss", "calibration_error": "Calibration error",
}  # fmt: skip


def _measures(row: Mapping[str, Any]) -> list[str]:
    return [f"{row[name]:,}" if name == "rows" else number(row[name]) for name in _COLUMNS]


def _by_month(facts: Facts) -> Section:
    rows = [
        (month["month"], *_measures(month), number(month.get("baseline_auc")))
        for month in facts.evaluation.get("months", [])
    ]
    return (
        Section("By month", [Table(("Month", *_COLUMNS.values(), "Baseline AUC"), rows)])
        if rows
        else Section("By month", [Paragraph("Not recorded.")])
    )


def _by_slice(facts: Facts) -> Section:
    slices = facts.evaluation.get("slices", [])
    if not slices:
        return Section("By slice", [Paragraph("Not recorded.")])
    small = sum(row["rows"] < MINIMUM_ROWS for row in slices)
    rows = [(row["slice"], row["value"], *_measures(row)) for row in slices if row["rows"] >= MINIMUM_ROWS]
    told = f"Slices of at least {MINIMUM_ROWS} rows; {small} smaller ones are left out."
    return Section("By slice", [Paragraph(told), Table(("Slice", "Value", *_COLUMNS.values()), rows)])


def gates(manifest: ReleaseManifest) -> Section:
    """The verdicts of a release's gates."""
    verdicts = manifest.verdicts
    if not verdicts:
        return Section("Gates", [Paragraph("No gate was judged: this release cannot be promoted.")])
    rows = [
        (
            verdict.gate,
            "passed" if verdict.passed else "FAILED",
            "" if verdict.observed is None else number(verdict.observed),
            "" if verdict.bound is None else number(verdict.bound),
            verdict.reason,
        )
        for verdict in verdicts
    ]
    return Section("Gates", [Table(("Gate", "Verdict", "Observed", "Bound", "Reason"), rows)])


def _data(facts: Facts) -> Section:
    features = facts.release.manifest.tabular().feature_service
    told = Paragraph(f"Features: {features.name}, read plan {features.digest[:12]}.")
    return data(facts.release.manifest, facts.contracts, told)


def data(manifest: ReleaseManifest, known_contracts: Sequence[Contract], *more: Block) -> Section:
    """The data that a release was made from and judged on, and the contracts it kept."""
    datasets = [(ref.name, ref.role, ref.start, ref.end, f"{ref.rows:,}", ref.digest[:12]) for ref in manifest.data]
    known = {(contract.id, contract.version): contract for contract in known_contracts}
    contracts = []
    for ref in manifest.contracts:
        contract = known.get((ref.id, ref.version))
        said = (contract.owner, contract.description) if contract else ("", "not in the product any more")
        contracts.append((ref.id, ref.version, ref.digest[:12], *said))
    return Section(
        "Data",
        [
            Table(("Dataset", "Role", "From", "To", "Rows", "sha256"), datasets),
            Table(("Contract", "Version", "sha256", "Owner", "What it covers"), contracts),
            *more,
        ],
    )


def _training(facts: Facts) -> Section:
    told = made_by(facts.release.manifest)
    if facts.run is None:
        return Section("Training", [Paragraph(told), Paragraph("The registry does not hold this run.")])
    rows = sorted(facts.run.params.items())
    return Section("Training", [Paragraph(told), Table(("Parameter", "Value"), rows)])


def made_by(manifest: ReleaseManifest) -> str:
    """The code and the run that made a release."""
    state = ", with uncommitted changes" if manifest.code.dirty else ""
    return f"Code at commit {manifest.code.commit}{state}; pipeline run {manifest.pipeline_run}."


def ownership(product: Product) -> Section:
    """Who answers for the product, and what it promises."""
    levels = [
        (level.name, level.indicator, f"{level.objective:.3%}".rstrip("0%").rstrip(".") + "%", level.window)
        for level in product.service_levels
    ]
    owner = [
        ("Team", product.owner.team),
        ("Contact", product.owner.contact),
        ("On call", product.owner.on_call),
        ("Tier", str(product.tier)),
        ("Budget a month", f"{product.budget.monthly:g} {product.budget.currency}"),
    ]
    return Section(
        "Ownership and service levels",
        [Table(("", ""), owner), Table(("Service level", "Indicator", "Objective", "Window"), levels)],
    )


def number(value: float | None) -> str:
    """A number for people, or that there is none."""
    if value is None:
        return "undefined"
    return f"{value:.4f}" if value == 0 or abs(value) >= 1e-3 else f"{value:.1e}"
