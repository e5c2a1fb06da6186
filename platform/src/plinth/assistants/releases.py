"""Releases of assistants: one configuration with everything that decides an answer, judged, and written as a release.

A candidate shares with the serving release whatever is not changed on purpose: a prompt, a retrieval setting or an
index alone makes a release, and rolling back brings all of it back at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from plinth.core.assistants import (
    AssistantConfig,
    AssistantSpec,
    Generator,
    Guardrails,
    IndexRef,
    Prompt,
    Retrieval,
)
from plinth.core.digests import canonical_json
from plinth.core.documents import read_text
from plinth.core.gates import judge_all
from plinth.core.products import Product
from plinth.core.releases import (
    AssistantRef,
    CodeRef,
    ContractRef,
    DataRef,
    EmbeddingRef,
    GeneratorRef,
    PromptRef,
    ReleaseManifest,
)
from plinth.core.rollout_policy import resolve
from plinth.errors import Corrupt, NotFound, RefusedByPolicy
from plinth.generation.prompts import PromptRegistry, prompt_digest, prompt_name
from plinth.governance.lineage import record as keep_event
from plinth.governance.lineage import release_event
from plinth.ledger.port import Artifacts
from plinth.ledger.rollouts import Rollout, Rollouts
from plinth.ledger.store import Ledger
from plinth.rollouts import commands
from plinth.rollouts.release import Aliases, Change

CONFIG = "assistant.json"
"""The artefact that holds the whole configuration."""


@dataclass(frozen=True)
class Moved:
    """How a release goes on its way: promoted at once, by a rollout, or not at all and why."""

    promoted: Change | None = None
    rollout: Rollout | None = None
    held: str = ""


def reference(config: AssistantConfig) -> AssistantRef:
    """What a release pins of a configuration."""
    return AssistantRef(
        index=config.index,
        embedding=EmbeddingRef(
            provider=config.embedding.provider, model=config.embedding.model, digest=config.embedding_digest
        ),
        chunking=config.chunking.digest,
        retrieval=config.retrieval.digest,
        prompts=tuple(
            PromptRef(name=prompt.name, version=prompt.version, digest=prompt_digest(prompt.template, prompt.variables))
            for prompt in config.prompts
        ),
        generator=GeneratorRef(
            provider=config.generator.primary.provider,
            model=config.generator.primary.model,
            digest=config.generator.digest,
        ),
        guardrails=config.guardrails.digest,
    )


def registered_prompts(
    product: Product,
    folder: Path,
    registry: PromptRegistry,
    *,
    actor: str,
    texts: Mapping[str, str] | None = None,
    message: str = "",
) -> tuple[Prompt, ...]:
    """The product's prompt templates with their versions; a new text becomes a new version.

    Args:
        product: The product.
        folder: Where its files stand.
        registry: Keeps the versions.
        actor: Who makes them.
        texts: Prompt to its text, where it is not the product's file that counts.
        message: Why, for the registry.

    Raises:
        InvalidInput: A template's variables are not those declared, or it cannot be parsed.
        NotFound: A template's file is not there.
    """
    from plinth.generation.templates import check_prompt

    made = []
    for spec in product.answers().prompts:
        text = (texts or {}).get(spec.name) or read_text(folder / spec.file)
        check_prompt(spec.name, text, spec.variables)
        name = prompt_name(product.name, spec.name)
        made.append(registry.register(name, text, spec.variables, message=message, actor=actor).prompt)
    return tuple(made)


def configure(spec: AssistantSpec, prompts: Sequence[Prompt], index: IndexRef) -> AssistantConfig:
    """The configuration that the product's manifest declares, over an index.

    Raises:
        RefusedByPolicy: The index was cut in another way.
    """
    return _fitting(
        AssistantConfig(
            chunking=spec.chunking,
            embedding=spec.embedding,
            embedding_digest=index.embedding,
            retrieval=spec.retrieval,
            generator=spec.generator,
            guardrails=spec.guardrails,
            prompts=tuple(prompts),
            index=index,
        )
    )


def candidate(
    serving: AssistantConfig,
    *,
    index: IndexRef | None = None,
    retrieval: Retrieval | None = None,
    generator: Generator | None = None,
    guardrails: Guardrails | None = None,
    prompts: Sequence[Prompt] = (),
) -> AssistantConfig:
    """A configuration that differs from the serving one in what is given only.

    Args:
        serving: The configuration that serves.
        index: Another index build, of the same embedding model and chunking.
        retrieval: Another way to find chunks.
        generator: Another model, or other limits.
        guardrails: Another policy.
        prompts: Other versions of prompts; those not named stay.

    Raises:
        RefusedByPolicy: The index was made with another embedding model or chunking: those change with it, in a release
            of the product's manifest.
    """
    others = {prompt.name: prompt for prompt in prompts}
    unknown = sorted(set(others) - {prompt.name for prompt in serving.prompts})
    if unknown:
        raise RefusedByPolicy(f"the serving release has no prompt {', '.join(unknown)}", where="prompts")
    return _fitting(
        serving.model_copy(
            update={
                "index": index or serving.index,
                "retrieval": retrieval or serving.retrieval,
                "generator": generator or serving.generator,
                "guardrails": guardrails or serving.guardrails,
                "prompts": tuple(others.get(prompt.name, prompt) for prompt in serving.prompts),
            }
        )
    )


def _fitting(config: AssistantConfig) -> AssistantConfig:
    """Questions are embedded as the index was, or not at all (row 18)."""
    index = config.index
    if index.embedding != config.embedding_digest:
        raise RefusedByPolicy(
            f"index build {index.build} was embedded with model {index.embedding[:12]}, the release would ask with "
            f"{config.embedding_digest[:12]}",
            where=f"build {index.build}",
            hint="`plinth index build PRODUCT` makes an index with the model of product.yaml",
        )
    if index.chunking != config.chunking.digest:
        raise RefusedByPolicy(
            f"index build {index.build} was cut with another chunking",
            where=f"build {index.build}",
            hint="a change of chunking is a new index: `plinth index build PRODUCT`",
        )
    return config


def config_of(artifacts: Artifacts, manifest: ReleaseManifest) -> AssistantConfig:
    """The configuration that a release pins.

    Raises:
        NotFound: The release has none, or it was collected.
        Corrupt: It is not what its digest says.
    """
    sha256 = manifest.artifacts.get(CONFIG)
    if sha256 is None:
        raise NotFound(f"a release of {manifest.product} has no {CONFIG}", where=manifest.product)
    try:
        return AssistantConfig.model_validate_json(artifacts.path(sha256).read_bytes())
    except ValueError as error:
        raise Corrupt(f"{CONFIG} cannot be read: {error}", where=sha256[:12]) from error


def serving_config(ledger: Ledger, artifacts: Artifacts, product: str) -> tuple[str, AssistantConfig] | None:
    """Digest and configuration of what serves; None before the first promotion. Raises as `config_of`."""
    serving = ledger.current(product)
    if serving is None:
        return None
    return serving.digest, config_of(artifacts, ledger.release(serving.digest).manifest)


def content_only(config: AssistantConfig, serving: AssistantConfig) -> bool:
    """Whether the documents are all that differs."""
    return config.model_copy(update={"index": serving.index}) == serving


def write_config(artifacts: Artifacts, config: AssistantConfig) -> str:
    """Keep the configuration as an artefact; the same one has the same sha256."""
    return artifacts.put_bytes(canonical_json(config.model_dump(mode="json")))


def make_release(
    ledger: Ledger,
    artifacts: Artifacts,
    product: Product,
    config: AssistantConfig,
    evidence: Mapping[str, Any],
    *,
    contracts: Sequence[ContractRef],
    data: Sequence[DataRef] = (),
    code: CodeRef,
    actor: str,
    run: str,
) -> str:
    """Judge a configuration by the product's gates and write the release, with its lineage.

    Args:
        ledger: Where it goes.
        artifacts: Where `assistant.json` and the evidence go.
        product: The product, with its gates.
        config: What is released.
        evidence: What the gates judge; its `metrics` (numbers) go into the manifest.
        contracts: What the chunks kept.
        data: What it was judged on.
        code: What it was made by.
        actor: Who makes it.
        run: The pipeline run.

    Returns:
        Its digest. Where a gate failed it is a rejected release, and can never be promoted.
    """
    manifest = ReleaseManifest(
        product=product.name,
        assistant=reference(config),
        contracts=tuple(contracts),
        data=tuple(data),
        code=code,
        artifacts={CONFIG: write_config(artifacts, config)},
        metrics={name: float(value) for name, value in dict(evidence.get("metrics") or {}).items()},
        verdicts=tuple(judge_all(product.gates, evidence)),
        created_at=datetime.now(UTC).isoformat(timespec="microseconds"),
        pipeline_run=run,
    )
    digest = ledger.register_release(manifest, actor)
    keep_event(ledger, release_event(manifest, digest))
    return digest


def taken_back(ledger: Ledger, product: str, build: str) -> str:
    """Why a build must not come back by itself: a release with it was rolled back. "" when none was.

    A person may promote it all the same; a schedule must not undo what a person or a gate decided.
    """
    history = ledger.history(product)
    bad = [
        (older.digest, newer.reason)
        for newer, older in pairwise(history)
        if newer.kind == "rollback" and newer.digest != older.digest
    ]
    newest = Rollouts(ledger).newest(product)
    if newest is not None and newest.state.phase in ("aborting", "rolled-back"):
        bad.append((newest.candidate, newest.reason))
    serving = ledger.current(product)
    for digest, reason in bad:
        pinned = ledger.release(digest).manifest.assistant
        if pinned is not None and pinned.index.build == build and (serving is None or serving.digest != digest):
            return f"release {digest[:12]} with index build {build} was taken back: {reason}"
    return ""


def move(
    ledger: Ledger, aliases: Aliases, product: Product, digest: str, *, direct: bool, actor: str, reason: str
) -> Moved:
    """Send an accepted release on its way: at once where that is allowed, else by a rollout.

    Args:
        ledger: The ledger.
        aliases: What follows the ledger.
        product: The product, with its policy.
        digest: The release.
        direct: Promote at once if the product's policy lets anybody; a first release is always promoted at once.
        actor: Who decides.
        reason: Why.

    Raises:
        RefusedByPolicy: Its gates rejected it, or it serves already.
        Conflict: A rollout is running, or somebody else promoted meanwhile.
    """
    policy = resolve(product.rollout, product.tier)
    if ledger.current(product.name) is None or (direct and policy.direct):
        return Moved(promoted=commands.promote(ledger, aliases, product, digest, actor=actor, reason=reason))
    return Moved(rollout=commands.start(ledger, product, digest, actor=actor, reason=reason))
