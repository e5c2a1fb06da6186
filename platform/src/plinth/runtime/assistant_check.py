"""Whether every release of an assistant that may serve has all it pins: configuration, index build, prompts.

The engine is not opened: only the service opens a build that serves. What stands beside it tells of its contents.
"""

from __future__ import annotations

import json
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from plinth.assistants import freshness, tenants
from plinth.assistants.pyarrow import read_chunks
from plinth.assistants.records import CHUNKS, BuildRecord, build_folder, read_build
from plinth.assistants.releases import config_of, reference
from plinth.core.findings import Finding, without
from plinth.core.releases import AssistantRef
from plinth.errors import Corrupt, NotFound, PlinthError
from plinth.generation.prompts import PromptRegistry, prompt_name
from plinth.ledger.port import Artifacts
from plinth.ledger.retention import bundles
from plinth.ledger.store import Ledger, ReleaseRecord
from plinth.retrieval.port import VectorStore

HOLDS = {
    "assistant.config": "An assistant's release carries the configuration whose parts its manifest names.",
    "index.complete": "The index build of every release that may serve is whole, with the chunks it names.",
    "prompt.pinned": "Every prompt version that such a release names is in the registry, with the same text.",
    "freshness.readable": "What is known of the freshness of an assistant's sources can be read.",
    "tenants.private": "The tenants' keys can be read, and by their owner only.",
}


def check_assistants(
    ledger: Ledger,
    artifacts: Artifacts,
    stores: Callable[[str], VectorStore],
    prompts: Callable[[], PromptRegistry] | None,
    folder_of: Callable[[str], Path],
    *,
    thorough: bool = True,
) -> list[Finding]:
    """Check every assistant of the ledger.

    Args:
        ledger: Says which releases may serve: what serves, what is rolled out, and what is accepted.
        artifacts: Holds their configurations.
        stores: Gives a product's vector store.
        prompts: Gives the prompt registry; None where it is gone, which is somebody else's finding.
        folder_of: Gives a product's state folder.
        thorough: Count the chunks of every build, and compare its files with their digests.
    """
    try:
        wanted = [bundle.digest for bundle in bundles(ledger) if bundle.role and bundle.index]
        records = [ledger.release(digest) for digest in wanted]
    except PlinthError as error:
        return [Finding("assistant.config", "violation", error.where, error.what, error.hint)]
    found: list[Finding] = []
    texts: dict[tuple[str, str], str] = {}
    for record in records:
        pinned = record.manifest.assistant
        if pinned is None:
            continue
        found += _config(artifacts, record, pinned)
        if prompts is not None:
            found += _prompts(prompts, record, pinned, texts)
    by_product: dict[str, dict[str, list[ReleaseRecord]]] = {}
    for record in records:
        if record.manifest.assistant is not None:
            build = record.manifest.assistant.index.build
            by_product.setdefault(record.product, {}).setdefault(build, []).append(record)
    for product, wanted_builds in by_product.items():
        found += _builds(stores, product, folder_of(product), wanted_builds, thorough)
        found += _files(product, folder_of(product))
    # A release may have been retired, and its build collected, while we looked.
    still = {bundle.digest[:12] for bundle in bundles(ledger) if bundle.role}
    found = [finding for finding in found if "release " not in finding.subject or finding.subject[-12:] in still]
    looked = {name: text for name, text in HOLDS.items() if prompts is not None or name != "prompt.pinned"}
    return found + without(looked, found)


def _named(record: ReleaseRecord) -> str:
    return f"{record.product}, release {record.digest[:12]}"


def _config(artifacts: Artifacts, record: ReleaseRecord, pinned: AssistantRef) -> Iterator[Finding]:
    next_step = f"plinth rollback {record.product}"
    try:
        config = config_of(artifacts, record.manifest)
    except NotFound:
        if "assistant.json" not in record.manifest.artifacts:  # else artifact.present says so
            yield Finding("assistant.config", "violation", _named(record), "it carries no configuration", next_step)
        return
    except Corrupt as error:
        yield Finding("assistant.config", "violation", _named(record), error.what, next_step)
        return
    says = reference(config).model_dump(exclude={"adapters"})
    names = pinned.model_dump(exclude={"adapters"})
    for part in [name for name in names if says[name] != names[name]]:
        yield Finding(
            "assistant.config", "violation", _named(record),
            f"its configuration has another {part} than its manifest names", next_step,
        )  # fmt: skip


def _prompts(
    registry: Callable[[], PromptRegistry],
    record: ReleaseRecord,
    pinned: AssistantRef,
    texts: dict[tuple[str, str], str],
) -> Iterator[Finding]:
    for prompt in pinned.prompts:
        name = prompt_name(record.product, prompt.name)
        try:
            if (name, prompt.version) not in texts:
                texts[name, prompt.version] = registry().get(name, prompt.version).digest
        except PlinthError as error:
            # The release serves on all the same: its configuration holds the text.
            yield Finding("prompt.pinned", "violation", _named(record), f"{name}: {error.what}", "restore the registry")
            continue
        if texts[name, prompt.version] != prompt.digest:
            yield Finding(
                "prompt.pinned", "violation", _named(record),
                f"version {prompt.version} of {name} has another text in the registry than in the release",
                f"plinth prompt show {record.product} {prompt.name}",
            )  # fmt: skip


def _builds(
    stores: Callable[[str], VectorStore],
    product: str,
    state: Path,
    wanted: Mapping[str, list[ReleaseRecord]],
    thorough: bool,
) -> Iterator[Finding]:
    try:
        store = stores(product)
        there = store.builds()
    except PlinthError as error:
        yield Finding(
            "index.complete", "violation", product, f"the vector store cannot be read: {error.what}", error.hint
        )
        return
    for build, records in wanted.items():
        problem = _problem(there.get(build), state, build, records[0], thorough) or (
            _damage(store, build) if thorough else ""
        )
        if problem:
            next_step = f"plinth rollback {product}, or plinth index build {product} makes it again"
            for record in records:
                yield Finding(
                    "index.complete", "violation", _named(record), f"index build {build} {problem}", next_step
                )


def _problem(complete: bool | None, state: Path, build: str, record: ReleaseRecord, thorough: bool) -> str:
    """What is wrong with a build; "" when nothing is."""
    if complete is None:
        return "is not in the vector store"
    if not complete:
        return "is not complete"
    if record.status == "drill":  # made bad on purpose, and described nowhere
        return ""
    folder = build_folder(state, build)
    try:
        described = read_build(folder)
        assert record.manifest.assistant is not None  # noqa: S101 - only assistants' releases come here
        if described.index != record.manifest.assistant.index:
            return "is described as another one than the release pins"
        return _counted(described, folder) if thorough else ""
    except NotFound:
        return "is in the vector store, and nothing describes it"
    except Corrupt as error:
        return f"cannot be judged: {error.what}"


def _damage(store: VectorStore, build: str) -> str:
    try:
        store.verify(build)
    except PlinthError as error:
        return f"cannot be served: {error.what}"
    return ""


def _counted(described: BuildRecord, folder: Path) -> str:
    rows = Counter(row["tenant"] for row in read_chunks(folder / CHUNKS, columns=["tenant"]))
    expected = {tenant: count for tenant, (count, _) in described.expected.items() if count}
    if dict(rows) == expected:
        return ""
    return f"has {sum(rows.values()):,} chunks in {CHUNKS}, and {sum(expected.values()):,} are named"


def _files(product: str, state: Path) -> Iterator[Finding]:
    path = state / freshness.FILE
    try:
        sources = json.loads(path.read_bytes())["sources"]
        for value in sources.values():
            freshness.SourceFreshness(**value)
    except FileNotFoundError:
        pass  # nothing was refreshed yet
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        yield Finding(
            "freshness.readable", "violation", product, f"{path.name} cannot be read: {error}",
            f"plinth pipeline run {product} refresh writes it again",
        )  # fmt: skip
    try:
        tenants.tenants(state)
    except Corrupt as error:
        yield Finding("tenants.private", "violation", product, error.what, error.hint)
    for path in readable_by_others(state):
        yield Finding(
            "tenants.private", "violation", product, f"others may read {path.name}", "plinth fsck --repair"
        )  # fmt: skip


def readable_by_others(state: Path) -> list[Path]:
    """The files with keys that somebody beside their owner may read or write."""
    kept = [state / name for name in (tenants.FILE, tenants.PROBE_KEY)]
    return [path for path in kept if path.is_file() and stat.S_IMODE(path.stat().st_mode) & 0o077]
