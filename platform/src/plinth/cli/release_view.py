"""How a release is shown: what it pins, line by line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plinth.core.assistants import AssistantConfig
    from plinth.core.releases import AssistantRef, ReleaseManifest


METRICS = 3
"""Columns of metrics in a list of an assistant's releases: all are in `release show`."""


def kind(manifest: ReleaseManifest) -> dict[str, Any]:
    """What a release is, as JSON: `model`, or `index` with its prompts' versions and its generator."""
    if manifest.assistant is None:
        return {"model": brief(manifest)}
    pinned = manifest.assistant
    return {
        "index": pinned.index.build,
        "prompts": {prompt.name: prompt.version for prompt in pinned.prompts},
        "generator": pinned.generator.model,
    }


def metric(manifest: ReleaseManifest, name: str) -> str:
    """A metric for a column; "" where it was not measured."""
    return f"{manifest.metrics[name]:.4f}" if name in manifest.metrics else ""


def brief(manifest: ReleaseManifest) -> str:
    """What a release is, in a word: its model's version, or its index build."""
    if manifest.assistant is not None:
        return f"index {manifest.assistant.index.build}"
    model = manifest.tabular().model
    return f"{model.name}:{model.version}"


def pinned(manifest: ReleaseManifest, config: AssistantConfig | None) -> list[str]:
    """What a release pins, beside contracts and data.

    Args:
        manifest: The release.
        config: An assistant's configuration, where it is still kept.
    """
    code = f"code     {manifest.code.commit}{' with uncommitted changes' if manifest.code.dirty else ''}"
    if manifest.assistant is not None:
        return [*_assistant(manifest.assistant, config), code]
    model, features = manifest.tabular()
    return [
        f"model    {model.name}:{model.version} ({model.format}), run {model.run_id}",
        code,
        f"features {features.name}, read plan {features.digest[:12]}",
    ]


def _assistant(pinned: AssistantRef, config: AssistantConfig | None) -> list[str]:
    index, embedding, generator = pinned.index, pinned.embedding, pinned.generator
    tenants = "".join(f"; {count:,} of {tenant}" for tenant, count in sorted(index.chunks.items()))
    lines = [
        f"index      {index.build}: {sum(index.chunks.values()):,} chunks of {index.documents:,} documents{tenants}",
        f"embedding  {embedding.model} ({embedding.provider}), {index.dimension} numbers, {embedding.digest[:12]}",
        f"chunking   {_chunking(config)}{pinned.chunking[:12]}",
        f"retrieval  {_retrieval(config)}{pinned.retrieval[:12]}",
        *(f"prompt     {prompt.name} version {prompt.version}, {prompt.digest[:12]}" for prompt in pinned.prompts),
        f"generator  {generator.model} ({generator.provider}), {_limits(config)}{generator.digest[:12]}",
        f"guardrails {_policy(config)}{pinned.guardrails[:12]}",
        *(f"adapter    {adapter.name}, {adapter.digest[:12]}" for adapter in pinned.adapters),
    ]
    return lines if config is not None else [*lines, "(assistant.json was collected: digests only)"]


def _chunking(config: AssistantConfig | None) -> str:
    if config is None:
        return ""
    return f"{config.chunking.max_tokens} tokens at most, {config.chunking.overlap} repeated, "


def _retrieval(config: AssistantConfig | None) -> str:
    if config is None:
        return ""
    retrieval = config.retrieval
    reranked = f", reranked by {retrieval.reranker}" if retrieval.reranker != "none" else ""
    return f"{retrieval.mode}, {retrieval.candidates} candidates, {retrieval.limit} chunks{reranked}, "


def _limits(config: AssistantConfig | None) -> str:
    if config is None:
        return ""
    fallback = f", fallback {config.generator.fallback.model}" if config.generator.fallback else ""
    return f"{config.generator.max_tokens} tokens and {config.generator.timeout:g} s at most{fallback}, "


def _policy(config: AssistantConfig | None) -> str:
    if config is None:
        return ""
    policy = config.guardrails
    injection = "refused" if policy.block_injection else "counted"
    return f"support {policy.min_support:.0%}, injection {injection}, {len(policy.blocked_topics)} blocked topics, "
