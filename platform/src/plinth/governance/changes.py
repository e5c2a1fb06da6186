"""Which pinned parts differ between two releases, by name. What a release was judged by is no part of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from plinth.core.assistants import AssistantConfig
from plinth.core.releases import AssistantRef, ReleaseManifest

SETTINGS = ("chunking", "embedding", "retrieval", "generator", "guardrails")
SHORT = 12


@dataclass(frozen=True, slots=True)
class Change:
    """A pinned part that differs; None is where a release has no such part.

    `part` is `index`, `prompt answer`, `model`, ..., or a single setting of one, such as `retrieval.limit`.
    """

    part: str
    before: str | None
    after: str | None

    def as_dict(self) -> dict[str, str | None]:
        """Stable JSON."""
        return asdict(self)


def parts(manifest: ReleaseManifest) -> dict[str, str]:
    """Everything a release pins: part to its version and digest, in words that are equal exactly if the part is."""
    found = _assistant(manifest.assistant) if manifest.assistant is not None else _model(manifest)
    for contract in manifest.contracts:
        found[f"contract {contract.id}"] = f"{contract.version}, {contract.digest[:SHORT]}"
    for data in manifest.data:
        found[f"data {data.name} ({data.role})"] = (
            f"{data.start} to {data.end}, {data.rows:,} rows, {data.digest[:SHORT]}"
        )
    found["code"] = manifest.code.commit[:SHORT] + (" with changes" if manifest.code.dirty else "")
    return found


def _model(manifest: ReleaseManifest) -> dict[str, str]:
    model, features = manifest.tabular()
    found = {
        "model": f"{model.name}:{model.version} ({model.format})",
        "feature service": f"{features.name}, read plan {features.digest[:SHORT]}",
    }
    return found | {f"artefact {name}": digest[:SHORT] for name, digest in sorted(manifest.artifacts.items())}


def _assistant(pinned: AssistantRef) -> dict[str, str]:
    index = pinned.index
    return {
        "index": f"{index.build}, {sum(index.chunks.values()):,} chunks of {index.documents:,} documents",
        "embedding": f"{pinned.embedding.model} ({pinned.embedding.provider}), {pinned.embedding.digest[:SHORT]}",
        "chunking": pinned.chunking[:SHORT],
        "retrieval": pinned.retrieval[:SHORT],
        **{f"prompt {prompt.name}": f"version {prompt.version}, {prompt.digest[:SHORT]}" for prompt in pinned.prompts},
        "generator": f"{pinned.generator.model} ({pinned.generator.provider}), {pinned.generator.digest[:SHORT]}",
        "guardrails": pinned.guardrails[:SHORT],
        **{f"adapter {adapter.name}": adapter.digest[:SHORT] for adapter in pinned.adapters},
    }


def changes(
    before: ReleaseManifest,
    after: ReleaseManifest,
    configs: tuple[AssistantConfig | None, AssistantConfig | None] = (None, None),
) -> list[Change]:
    """What differs, part by part, and below a part the settings that do.

    Args:
        before: One release.
        after: The other.
        configs: The configurations of both, where they are assistants' and still kept; without them a changed policy is
            known by its digest only.
    """
    old, new = parts(before), parts(after)
    settings = _settings(*configs)
    found: list[Change] = []
    for part in dict.fromkeys((*old, *new)):
        if old.get(part) != new.get(part):
            found.append(Change(part, old.get(part), new.get(part)))
            found += [change for change in settings if change.part.partition(".")[0] == part]
    return found


def _settings(before: AssistantConfig | None, after: AssistantConfig | None) -> list[Change]:
    if before is None or after is None:
        return []
    old, new = (_flat(config.model_dump(mode="json", include=set(SETTINGS))) for config in (before, after))
    names = [name for name in dict.fromkeys((*old, *new)) if old.get(name) != new.get(name)]
    return [Change(name, old.get(name), new.get(name)) for name in names]


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Every setting by its path. Of canaries only the number: they are secrets."""
    found: dict[str, str] = {}
    for name, item in value.items():
        if isinstance(item, Mapping):
            found |= _flat(item, f"{prefix}{name}.")
        elif name == "canaries":
            found[f"{prefix}{name}"] = str(len(item))
        else:
            found[f"{prefix}{name}"] = ", ".join(map(str, item)) if isinstance(item, list) else str(item)
    return found
