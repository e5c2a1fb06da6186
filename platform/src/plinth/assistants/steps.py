"""Steps of an assistant's pipelines: index, contract, checks, configuration, evaluation, release, promotion.

A product's pipeline file calls them in order. What reads the world outside (folders, stores, registries) runs each
time; what follows from files by digest is skipped when they have not changed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from plinth.assistants import checks, evaluation, golden, indexing, judging, releases
from plinth.assistants.indexing import BuildTools
from plinth.assistants.loading import Loader
from plinth.assistants.records import BUILD, CHUNKS, BuildRecord, SourceRecord, build_folder, read_build
from plinth.contracts.check import load_contracts
from plinth.contracts.report import summary, to_html
from plinth.core import gates as gate_rules
from plinth.core.assistants import AssistantConfig, SourceSpec
from plinth.core.corpus import SHARED_TENANT
from plinth.core.gates import Gate
from plinth.core.products import Product
from plinth.core.releases import CodeRef, ContractRef, DataRef
from plinth.errors import InvalidInput, NotFound, RefusedByPolicy
from plinth.ledger.port import Artifacts
from plinth.ledger.store import Ledger
from plinth.pipelines.files import FileRef
from plinth.pipelines.port import PipelineContext
from plinth.pipelines.step import artifact, step
from plinth.rollouts.release import Aliases
from plinth.settings import Settings


class Loaded(Protocol):
    """A product, and the folder it stands in."""

    @property
    def spec(self) -> Product:
        """Its manifest."""

    @property
    def folder(self) -> Path:
        """Where its files stand."""


class Catalogue(Protocol):
    """The products of the workspace."""

    def get(self, name: str) -> Loaded:
        """One product."""


class Evaluations(Protocol):
    """Where evaluations are kept (plinth.models.mlflow_evaluation)."""

    def log_evaluation(
        self, product: str, release: str, rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any],
        digests: Mapping[str, str],
    ) -> str:  # fmt: skip
        """Write an evaluation down; returns the run's id. Raises Unavailable, MissingExtra."""


class Ports(Protocol):
    """What the wiring gives."""

    @property
    def settings(self) -> Settings:
        """Of the profile."""

    @property
    def actor(self) -> str:
        """Who acts."""

    @property
    def products(self) -> Catalogue:
        """The products."""

    @property
    def ledger(self) -> Ledger:
        """The ledger."""

    @property
    def artifacts(self) -> Artifacts:
        """The artefact store."""

    @property
    def assistants(self) -> BuildTools:
        """The adapters of assistants."""

    @property
    def evaluations(self) -> Evaluations:
        """Where evaluations are kept."""

    def service_urls(self, product: str) -> list[str]:
        """Base addresses of the product's service."""

    def service_headers(self, product: str) -> dict[str, str]:
        """What a request to the product's service has to carry."""

    def aliases_for(self, product: str) -> Aliases:
        """What follows the ledger."""


Context = PipelineContext[Ports]


@dataclass(frozen=True)
class Index:
    """An index build on its way to a release.

    Attributes:
        build: Its id.
        made: Whether it was made now.
        record: `build.json`.
        chunks: `chunks.parquet`.
        sources: What was found of each source now; none where nothing was read.
        read: Files that were parsed.
        removed: Files that are gone.
    """

    build: str
    made: bool
    record: FileRef
    chunks: FileRef
    sources: dict[str, SourceRecord] = field(default_factory=dict)
    read: int = 0
    removed: int = 0

    @property
    def away(self) -> tuple[str, ...]:
        """Sources that could not be read, and why."""
        return tuple(f"{name}: {held.away}" for name, held in self.sources.items() if held.away)


@dataclass(frozen=True)
class Kept:
    """The contracts that the chunks kept."""

    contracts: tuple[ContractRef, ...]
    rows: int


@dataclass(frozen=True)
class Judged:
    """Evidence as a JSON artefact."""

    evidence: FileRef


@dataclass(frozen=True)
class Evaluated(Judged):
    """The golden questions' evidence; `report` is JSON: a row a question, their summary, and what they were."""

    report: FileRef


@dataclass(frozen=True)
class Outcome:
    """What a run ended with.

    Attributes:
        release: Digest of the release; "" where nothing had changed.
        build: The index build.
        accepted: Whether every gate passed.
        failed_gates: Those that did not.
        metrics: What the evaluation measured.
        quarantined: Files that are not in the index.
        away: Sources that could not be read: their documents are as they were.
        promoted: Whether it serves now.
        rollout: Number of the rollout that it began, or None.
        held: Why an accepted release was not sent on its way; "" when it was.
        lag: Source to seconds from a change to searchable, where that was measured.
        late: Source to why it is beyond its freshness objective.
    """

    release: str
    build: str
    accepted: bool
    failed_gates: tuple[str, ...]
    metrics: dict[str, float]
    quarantined: int = 0
    away: tuple[str, ...] = ()
    promoted: bool = False
    rollout: int | None = None
    held: str = ""
    lag: dict[str, float] | None = None
    late: dict[str, str] | None = None


def _product(context: Context) -> tuple[Product, Path]:
    loaded = context.ports.products.get(context.product)
    return loaded.spec, loaded.folder


def _stored(context: Context, value: Any) -> FileRef:
    digest = context.ports.artifacts.put_bytes(json.dumps(value, sort_keys=True).encode())
    return FileRef(path=context.ports.artifacts.path(digest), sha256=digest)


def _everybodys(record: BuildRecord) -> list[dict[str, Any]]:
    """Quarantined files of what is everybody's. A run's documents stay, in Prefect too: names of a tenant's files must
    not stand where its deletion does not reach. `build.json` has them."""
    return [
        refused.model_dump()
        for refused in record.refused
        if refused.source in record.sources and record.sources[refused.source].tenant == SHARED_TENANT
    ]


@step(version="1", cache=False)  # folders and pages are outside of what a cache key sees
def index(context: Context, sources: tuple[SourceSpec, ...]) -> Index:
    """Read the sources and make the build of what they hold; nothing is embedded twice."""
    ports = context.ports
    product, _ = _product(context)
    serving = indexing.serving_record(ports.ledger, product.name, context.state)
    made = indexing.index_sources(
        ports.assistants, ports.ledger, product, context.state, sources, serving=serving, run=context.run_id
    )
    record = made.record
    artifact("sources", table=[{"source": name, **held.model_dump()} for name, held in record.sources.items()])
    if table := _everybodys(record):
        artifact("quarantine", table=table)
    found = dict(made.read.contents.sources)
    folder = build_folder(context.state, record.index.build)
    return Index(
        record.index.build, made.made, FileRef.of(folder / BUILD), FileRef.of(folder / CHUNKS), found,
        made.read.read, made.read.removed,
    )  # fmt: skip


@step(version="1", cache=False)
def existing(context: Context, build: str) -> Index:
    """A build that was made before. Raises as `read_build`."""
    folder = build_folder(context.state, build)
    read_build(folder)
    return Index(build, False, FileRef.of(folder / BUILD), FileRef.of(folder / CHUNKS))


@step(version="1")
def contract(context: Context, chunks: FileRef, documents: tuple[FileRef, ...]) -> Kept:
    """Check the build's chunks against the product's contract.

    Raises:
        RefusedByPolicy: They break it: the build goes no further. The run's folder has the report.
    """
    from plinth.contracts.duckdb import DuckDBEngine

    product, folder = _product(context)
    kept, rows = [], 0
    for promised in load_contracts(product, folder):
        if promised.dataset != "chunks":
            continue
        result = DuckDBEngine().check(promised, chunks.checked())
        rows = result.rows
        if not result.passed:
            report = context.folder / "contract.html"
            report.write_text(to_html(result), encoding="utf-8")
            raise RefusedByPolicy(
                f"the chunks break their contract {promised.id} {promised.version}: {summary(result)}",
                where=str(report), hint=f"change the sources, or the contract with its owner ({promised.owner})",
            )  # fmt: skip
        kept.append(ContractRef(id=promised.id, version=promised.version, digest=promised.digest))
    return Kept(tuple(kept), rows)


@step(version="1", cache=False)  # the store and the model on disk are outside of what a cache key sees
def check(context: Context, index: Index, questions: FileRef) -> Judged:
    """Read the build back from the store and check it; a check that fails is evidence, and its gate says no."""
    product, _ = _product(context)
    record = read_build(index.record.path.parent)
    asked = golden.load_golden(questions.checked())
    needed = [path for question in asked for path in question.documents]
    found = indexing.check(context.ports.assistants, product, context.state, record, needed)
    artifact("checks", table=[{"check": c.check, "passed": c.passed, "reason": c.reason} for c in found])
    return Judged(_stored(context, checks.evidence(found)))


@step(version="1", cache=False)  # the prompt registry is outside of what a cache key sees
def configure(context: Context, index: Index, prompts: dict[str, FileRef]) -> FileRef:
    """Everything that decides an answer, as product.yaml says, over this index: the artefact `assistant.json`.

    `prompts` is the name of each prompt to its template.
    """
    ports = context.ports
    product, folder = _product(context)
    record = read_build(index.record.path.parent)
    texts = {name: file.checked().read_text(encoding="utf-8") for name, file in prompts.items()}
    versions = releases.registered_prompts(product, folder, ports.assistants.prompts, actor=ports.actor, texts=texts)
    return keep(context, releases.configure(product.answers(), versions, record.index))


def keep(context: Context, config: AssistantConfig) -> FileRef:
    """A configuration as an artefact."""
    digest = releases.write_config(context.ports.artifacts, config)
    return FileRef(path=context.ports.artifacts.path(digest), sha256=digest)


@step(version="1", cache=False)  # models, stores and endpoints, and half of the code, are outside of a cache key
def evaluate(context: Context, config: FileRef, questions: FileRef, serving: FileRef | None) -> Evaluated:
    """Ask the golden questions, of the candidate and of what serves."""
    product, _ = _product(context)
    asked = golden.load_golden(questions.checked())
    loader = Loader(
        product.name,
        context.ports.assistants,
        without=lambda build: read_build(build_folder(context.state, build)).without,
    )
    ours = _evaluated(loader, config, asked)
    theirs = _evaluated(loader, serving, asked) if serving is not None else None
    artifact("golden", table=ours.rows())
    report = {"rows": ours.rows(), "summary": ours.summary(), "golden": golden.golden_digest(asked)}
    return Evaluated(_stored(context, ours.evidence(against=theirs)), _stored(context, report))


def _evaluated(loader: Loader, config: FileRef, asked: Sequence[golden.GoldenQuestion]) -> evaluation.Evaluation:
    """The golden questions as anybody would ask them."""
    assistant = loader.assemble(config.sha256, AssistantConfig.model_validate_json(config.checked().read_bytes()))
    try:
        return judging.evaluate_assistant(assistant, asked)
    finally:
        assistant.index.close()


@step(version="1", timeout=180)
def log_evaluation(context: Context, release: str, report: FileRef, against: str) -> str:
    """Keep a release's evaluation where people look at experiments; returns the run's id.

    Raises:
        Unavailable, MissingExtra: It cannot be kept. The release does not need it.
    """
    found = json.loads(report.checked().read_bytes())
    digests = {"golden": found["golden"], "against": against, "pipeline_run": context.run_id}
    return context.ports.evaluations.log_evaluation(
        context.product, release, found["rows"], found["summary"], digests
    )  # fmt: skip


@step(version="1", uses=(releases, gate_rules))
def release(
    context: Context, config: FileRef, kept: Kept, evidence: tuple[Judged, ...], questions: FileRef,
    gates: tuple[Gate, ...], code: CodeRef,
) -> str:  # fmt: skip
    """Write the release into the ledger, with its verdicts and its lineage; returns its digest."""
    ports = context.ports
    product, _ = _product(context)
    found: dict[str, Any] = {"contracts": [{"batch": f"chunks/{ref.id}", "passed": True} for ref in kept.contracts]}
    for judged in evidence:
        found |= json.loads(judged.evidence.checked().read_bytes())
    asked = golden.load_golden(questions.checked())
    today = datetime.now(UTC).date().isoformat()
    data = DataRef(
        name="golden", role="evaluate", start=today, end=today, rows=len(asked), digest=golden.golden_digest(asked)
    )
    return releases.make_release(
        ports.ledger, ports.artifacts, product.model_copy(update={"gates": gates}),
        AssistantConfig.model_validate_json(config.checked().read_bytes()), found, contracts=kept.contracts,
        data=[data], code=code, actor=ports.actor, run=context.run_id,
    )  # fmt: skip


def templates(loaded: Loaded, given: Mapping[str, str]) -> dict[str, FileRef]:
    """The product's prompt templates by name, with those that somebody gives in their place.

    Raises:
        InvalidInput: A given name is none of the product's prompts.
        NotFound: A file is not there.
    """
    known = {prompt.name: loaded.folder / prompt.file for prompt in loaded.spec.answers().prompts}
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise InvalidInput(
            f"{loaded.spec.name} has no prompt {unknown[0]!r}", where="prompts", hint=f"prompts: {', '.join(known)}"
        )
    chosen = known | {name: Path(path) for name, path in given.items()}
    for name, path in chosen.items():
        if not path.is_file():
            raise NotFound(f"the template of prompt {name!r} is not there", where=str(path), hint="check the path")
    return {name: FileRef.of(path) for name, path in chosen.items()}


def files(folder: Path, paths: Sequence[str]) -> tuple[FileRef, ...]:
    """Files of the product, by digest."""
    return tuple(FileRef.of(folder / path) for path in paths)
