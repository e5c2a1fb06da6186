"""System cards: an assistant's card, made from what its release pins and what was recorded of its index build.

A model card is about a model; what an assistant answers is decided by documents, retrieval, prompts, generator and
guardrails together, so its card is about all of them (as in Meta's "System Cards", 2022). The rest is `cards`' own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from plinth.contracts.model import Contract
from plinth.core.assistants import AssistantConfig, Endpoint, Guardrails
from plinth.core.products import Product
from plinth.core.releases import AssistantRef
from plinth.governance import cards
from plinth.governance.cards import SYSTEM_CARD, Statement
from plinth.governance.document import Paragraph, Section, Table
from plinth.ledger.store import ReleaseRecord

GONE = Paragraph("Only digests are known: the release's assistant.json is not in the artefact store any more.")


@dataclass(frozen=True)
class SourceFacts:
    """What the index build holds of a source; `as_of` is when it was read (UTC, ISO 8601)."""

    documents: int
    chunks: int
    refused: int
    as_of: str


@dataclass(frozen=True)
class Facts:
    """Everything a card is made of. `config` is None once the release's artefacts are collected.

    `sources` is what the index build holds of each source; empty once the build is collected.
    """

    product: Product
    release: ReleaseRecord
    serving: bool
    statement: Statement
    pinned: AssistantRef
    config: AssistantConfig | None = None
    sources: Mapping[str, SourceFacts] = field(default_factory=dict)
    contracts: Sequence[Contract] = ()


def system_card(facts: Facts) -> list[Section]:
    """The card's sections, for `plinth.governance.document` to render."""
    manifest, stated = facts.release.manifest, facts.statement
    what = ("Index build", facts.pinned.index.build)
    return [
        cards.identity("System card", facts.product, facts.release, serving=facts.serving, what=what),
        cards.statement("Intended use", stated.intended_use, stated.not_for, file=SYSTEM_CARD),
        cards.statement("Limits", stated.limits, file=SYSTEM_CARD),
        _documents(facts),
        _retrieval(facts),
        _prompts(facts),
        _generator(facts),
        _guardrails(facts),
        _evaluation(facts),
        cards.gates(manifest),
        cards.data(manifest, facts.contracts),
        Section("Making", [Paragraph(cards.made_by(manifest))]),
        cards.ownership(facts.product),
    ]


def _documents(facts: Facts) -> Section:
    index = facts.pinned.index
    told = f"{sum(index.chunks.values()):,} chunks of {index.documents:,} documents, over all sources and tenants."
    sources = [
        (name, f"{source.documents:,}", f"{source.chunks:,}", f"{source.refused:,}", source.as_of)
        for name, source in sorted(facts.sources.items())
    ]
    tenants = [(tenant, f"{count:,}", index.checksum.get(tenant, "")[:12]) for tenant, count in index.chunks.items()]
    recorded = (
        Table(("Source", "Documents", "Chunks", "Quarantined files", "Read at (UTC)"), sources)
        if sources
        else Paragraph("The index build's own record is not there any more.")
    )
    return Section("Documents", [Paragraph(told), recorded, Table(("Tenant", "Chunks", "sha256"), tenants)])


def _retrieval(facts: Facts) -> Section:
    pinned, config = facts.pinned, facts.config
    rows = [
        ("Embedding", f"{pinned.embedding.model} ({pinned.embedding.provider}), sha256 {pinned.embedding.digest[:12]}"),
        ("Dimension", str(pinned.index.dimension)),
    ]
    if config is None:
        digests = [("Chunking", pinned.chunking[:12]), ("Retrieval", pinned.retrieval[:12])]
        return Section("Retrieval", [Table(("", ""), [*rows, *digests]), GONE])
    chunking, retrieval = config.chunking, config.retrieval
    weights = f"dense {retrieval.dense_weight:g}, sparse {retrieval.sparse_weight:g}"
    reranked = f"{retrieval.reranker}, of the best {retrieval.rerank_candidates}"
    rows += [
        ("Chunks", f"{chunking.max_tokens} tokens at most, {chunking.overlap} of them repeated"),
        ("Search", f"{retrieval.mode} ({weights}), {retrieval.candidates} candidates from each side"),
        ("Reranker", "none" if retrieval.reranker == "none" else reranked),
        ("Chunks in an answer", f"{retrieval.limit} at most"),
    ]
    return Section("Retrieval", [Table(("", ""), rows)])


def _prompts(facts: Facts) -> Section:
    rows = [(prompt.name, prompt.version, prompt.digest[:12]) for prompt in facts.pinned.prompts]
    told = f"`plinth prompt show {facts.product.name} NAME` shows the text of a version."
    return Section("Prompts", [Table(("Prompt", "Version", "sha256"), rows), Paragraph(told)])


def _generator(facts: Facts) -> Section:
    pinned, config = facts.pinned, facts.config
    if config is None:
        told = f"{pinned.generator.model} ({pinned.generator.provider}), sha256 {pinned.generator.digest[:12]}."
        return Section("Generator", [Paragraph(told), GONE])
    generator, currency = config.generator, facts.product.budget.currency
    cost = f"{generator.max_cost:g} {currency} at most" if generator.max_cost is not None else "no bound of its own"
    rows = [
        ("Model", _endpoint(generator.primary, currency)),
        ("Fallback", _endpoint(generator.fallback, currency) if generator.fallback else "none"),
        ("An answer", f"{generator.max_tokens} tokens and {generator.timeout:g} s at most; {cost}"),
        *((f"Adapter {adapter.name}", adapter.digest[:12]) for adapter in pinned.adapters),
    ]
    return Section("Generator", [Table(("", ""), rows)])


def _endpoint(endpoint: Endpoint, currency: str) -> str:
    where = f" at {endpoint.base_url}" if endpoint.base_url else ""
    price = f"{endpoint.price_prompt:g} and {endpoint.price_completion:g} {currency} a million tokens in and out"
    said = price if endpoint.price_prompt or endpoint.price_completion else "free"
    return f"{endpoint.model} ({endpoint.provider}{where}), temperature {endpoint.temperature:g}, {said}"


def _guardrails(facts: Facts) -> Section:
    if facts.config is None:
        return Section("Guardrails", [Paragraph(f"sha256 {facts.pinned.guardrails[:12]}."), GONE])
    return Section("Guardrails", [Table(("", ""), _policy(facts.config.guardrails))])


def _policy(policy: Guardrails) -> list[tuple[str, str]]:
    def named(patterns: Sequence[str]) -> str:
        return ", ".join(patterns) or "none beside the built-in ones"

    return [
        ("Questions", f"{policy.max_question_chars:,} characters at most, languages: {', '.join(policy.languages)}"),
        ("Injection in a question", "refused" if policy.block_injection else "counted"),
        ("Injection in a document", "its chunk is left out" if policy.drop_poisoned else "counted"),
        ("More injection patterns", named([pattern.name for pattern in policy.injection])),
        ("Blocked topics", ", ".join(pattern.name for pattern in policy.blocked_topics) or "none"),
        ("Canaries", str(len(policy.canaries))),  # the strings themselves are secrets
        ("A sentence", f"{policy.min_support:.0%} of its content words stand in what it cites, or it is left out"),
        ("Personal data in an answer", "redacted" if policy.redact_personal_data else "let through"),
    ]


def _evaluation(facts: Facts) -> Section:
    metrics = sorted(facts.release.manifest.metrics.items())
    if not metrics:
        return Section("Evaluation", [Paragraph("No evaluation is recorded for this release.")])
    told = f"On the golden questions of {facts.product.name}, before the release."
    rows = [(name, cards.number(value)) for name, value in metrics]
    return Section("Evaluation", [Paragraph(told), Table(("Metric", "Value"), rows)])
