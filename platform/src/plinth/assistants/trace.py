"""From an answer back to everything it was made of: release, index build, chunks, documents, prompts, guardrails, who
promoted and approved it, and what it cost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from plinth.assistants.log import FOLDER
from plinth.assistants.records import build_folder, read_build
from plinth.core.releases import ReleaseManifest
from plinth.errors import NotFound, PlinthError
from plinth.ledger.rollouts import Rollouts
from plinth.ledger.store import Ledger, ReleaseRecord
from plinth.rollouts.approvals import given
from plinth.serving.pyarrow import find_rows

JSON_COLUMNS = ("citations", "retrieved", "prompts", "hits", "stale", "marks")


def find_answer(request_id: str, folders: Mapping[str, Path]) -> tuple[str, dict[str, Any]]:
    """The product and the logged answer of a request.

    Args:
        request_id: The request's id.
        folders: Product to its state folder.

    Raises:
        NotFound: No answer of that id is in the logs.
    """
    for product, folder in folders.items():
        for row in find_rows(folder / FOLDER, "request_id", request_id):
            return product, {**row, **{name: json.loads(row[name]) for name in JSON_COLUMNS}}
    raise NotFound(
        f"no answer with the id {request_id!r}",
        where=", ".join(folders) or "no assistant",
        hint="answers are logged within a second or two; `POST /answers-log/flush` writes them now",
    )


def trace(request_id: str, folders: Mapping[str, Path], ledger: Ledger) -> dict[str, Any]:
    """Everything an answer was made of, as stable JSON.

    Args:
        request_id: The request's id.
        folders: Product to its state folder.
        ledger: Knows the releases, and who decided what.

    Raises:
        NotFound: No answer of that id is in the logs.
    """
    product, row = find_answer(request_id, folders)
    record = _release(ledger, row["release"])
    manifest = record.manifest if record else None
    cited = {citation["chunk"]: citation["number"] for citation in row["citations"]}
    return {
        "request_id": request_id,
        "product": product,
        "at": row["at"].isoformat(),
        "tenant": row["tenant"],
        "question": row["question"],
        "answer": row["answer"],
        "refused": row["refused"],
        "support": row["support"],
        "stale": row["stale"],
        "release": {
            "digest": row["release"],
            "generation": row["generation"],
            "arm": row["arm"],
            **_made(record),
            **_decided(ledger, product, row["release"], row["generation"]),
        },
        "index": _index(folders[product], row["index_build"], manifest),
        "retrieved": [{**hit, "cited_as": cited.get(hit["chunk"])} for hit in row["retrieved"]],
        "documents": _documents(row),
        "prompts": _prompts(row["prompts"], manifest),
        "guardrails": {
            "policy": manifest.assistant.guardrails if manifest and manifest.assistant else None,
            "hits": row["hits"],
        },
        "generator": row["generator"],
        "cost": {
            "prompt_tokens": row["prompt_tokens"],
            "completion_tokens": row["completion_tokens"],
            "cost": row["cost"],
        },
        "steps_ms": row["marks"],
        "latency_ms": round(row["latency_ms"], 3),
        "trace_id": row["trace_id"],
    }


def _release(ledger: Ledger, digest: str) -> ReleaseRecord | None:
    try:
        return ledger.release(digest)
    except PlinthError:
        return None  # another ledger than the one it was made with: the log still knows the rest


def _made(record: ReleaseRecord | None) -> dict[str, Any]:
    if record is None:
        return {"known": False}
    manifest = record.manifest
    return {
        "known": True,
        "made_by": record.created_by,
        "made_at": record.created_at,
        "code": manifest.code.commit,
        "pipeline_run": manifest.pipeline_run,
        "gates": [{"gate": verdict.gate, "passed": verdict.passed} for verdict in manifest.verdicts],
    }


def _decided(ledger: Ledger, product: str, digest: str, generation: int) -> dict[str, Any]:
    """Who put the release where it answered, and who approved it."""
    rollouts = Rollouts(ledger)
    decision = next((entry for entry in ledger.history(product) if entry.generation == generation), None)
    own = [rollout for rollout in rollouts.of(product) if rollout.candidate == digest]
    rollout = next((one for one in own if one.generation == generation), own[0] if own else None)
    return {
        "decision": asdict(decision) if decision else None,
        "rollout": rollout.id if rollout else None,
        "approved_by": [
            {"actor": approval.actor, "at": approval.at, "reason": approval.reason}
            for approval in (given(rollouts, rollout) if rollout else [])
        ],
    }


def _index(state: Path, build: str, manifest: ReleaseManifest | None) -> dict[str, Any]:
    pinned = manifest.assistant.index if manifest and manifest.assistant else None
    about: dict[str, Any] = {"build": build}
    if pinned is not None:
        about |= {
            "chunks": sum(pinned.chunks.values()),
            "documents": pinned.documents,
            "embedding": pinned.embedding,
            "chunking": pinned.chunking,
        }
    try:
        record = read_build(build_folder(state, build))
    except PlinthError:
        return {**about, "made_at": None}
    return {
        **about,
        "made_at": record.made_at,
        "run": record.run,
        "sources": {name: source.as_of for name, source in record.sources.items()},
    }


def _documents(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The documents of what was retrieved, by version, and whether one is cited."""
    cited = {citation["chunk"] for citation in row["citations"]}
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for hit in row["retrieved"]:
        key = (hit["document"], hit["version"])
        entry = found.setdefault(key, {"document": key[0], "version": key[1], "source": hit["source"], "cited": False})
        entry["cited"] = entry["cited"] or hit["chunk"] in cited
    return list(found.values())


def _prompts(versions: Mapping[str, str], manifest: ReleaseManifest | None) -> list[dict[str, Any]]:
    pinned = {ref.name: ref.digest for ref in manifest.assistant.prompts} if manifest and manifest.assistant else {}
    return [
        {"name": name, "version": version, "sha256": pinned.get(name)} for name, version in sorted(versions.items())
    ]
