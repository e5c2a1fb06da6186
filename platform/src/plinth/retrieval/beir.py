"""Collections in the BEIR layout: `corpus.jsonl`, `queries.jsonl`, `qrels.tsv` (or `qrels/test.tsv`)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from plinth.core.digests import digest_bytes
from plinth.errors import InvalidInput, NotFound

_QRELS = ("qrels.tsv", "qrels/test.tsv")


@dataclass(frozen=True, slots=True)
class Collection:
    """A collection to measure retrieval on.

    Attributes:
        documents: Id to its title and text, as one text; it may be empty.
        queries: Id to text, of the queries with a relevant document only.
        judged: Query id to document id to judgement, of those queries.
        digest: sha256 of the corpus file.
        skipped_queries: Queries without a relevant document.
        unknown_documents: Judgements of documents that the corpus does not have; they count as missed.
        unknown_queries: Judgements of queries that there are not; they are left out.
    """

    documents: dict[str, str]
    queries: dict[str, str]
    judged: dict[str, dict[str, int]]
    digest: str
    skipped_queries: int = 0
    unknown_documents: int = 0
    unknown_queries: int = 0


def read_collection(folder: Path) -> Collection:
    """Read a collection.

    Raises:
        NotFound: The folder or one of its files is not there.
        InvalidInput: A line cannot be read; the error names file and line.
    """
    if not folder.is_dir():
        raise NotFound("there is no such dataset folder", where=str(folder), hint="name a folder in the BEIR layout")
    corpus = _read(folder / "corpus.jsonl")
    documents = dict(_texts(folder / "corpus.jsonl", corpus, "document"))
    asked = dict(_texts(folder / "queries.jsonl", _read(folder / "queries.jsonl"), "query"))
    path = next((folder / name for name in _QRELS if (folder / name).is_file()), folder / _QRELS[0])
    judged: dict[str, dict[str, int]] = {}
    for query, document, judgement in _judgements(path, _read(path)):
        judged.setdefault(query, {})[document] = judgement
    used = {query: text for query, text in asked.items() if any(value > 0 for value in judged.get(query, {}).values())}
    if not documents or not used:
        what = "has no document" if not documents else "has no query with a relevant document"
        raise InvalidInput(f"the dataset {what}", where=str(folder if not documents else path))
    return Collection(
        documents=documents,
        queries=used,
        judged={query: judged[query] for query in used},
        digest=digest_bytes(corpus),
        skipped_queries=len(asked) - len(used),
        unknown_documents=sum(document not in documents for query in used for document in judged[query]),
        unknown_queries=sum(query not in asked for query in judged),
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        wanted = "corpus.jsonl, queries.jsonl and qrels.tsv (or qrels/test.tsv)"
        raise NotFound(
            f"{path.name} is missing in the dataset", where=str(path.parent), hint=f"the BEIR layout has {wanted}"
        ) from None
    except OSError as error:
        raise InvalidInput(f"the file cannot be read: {error.strerror}", where=str(path)) from error


def _lines(path: Path, data: bytes) -> Iterator[tuple[str, str]]:
    """Where each line stands, and its text; empty lines left out."""
    for number, raw in enumerate(data.split(b"\n"), 1):
        where = f"{path}:{number}"
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip("\r\n ")
        except UnicodeDecodeError as error:
            raise InvalidInput(f"the line is not UTF-8 (byte {error.start})", where=where) from None
        if line.strip():
            yield where, line


def _texts(path: Path, data: bytes, kind: str) -> Iterator[tuple[str, str]]:
    seen: set[str] = set()
    for where, line in _lines(path, data):
        try:
            item = json.loads(line)
        except ValueError as error:
            raise InvalidInput(f"the line is not JSON: {error}", where=where) from None
        if not isinstance(item, dict) or not isinstance(item.get("_id"), str | int) or item["_id"] == "":
            raise InvalidInput(f"the {kind} has no _id", where=where, hint='a line is {"_id": ..., "text": ...}')
        identifier = str(item["_id"])
        if identifier in seen:
            raise InvalidInput(f"the {kind} {identifier!r} stands twice", where=where)
        seen.add(identifier)
        parts = [item.get(key) if item.get(key) is not None else "" for key in ("title", "text")]
        if not all(isinstance(part, str) for part in parts) or "text" not in item:
            raise InvalidInput(f"the {kind} {identifier!r} has no text", where=where, hint="title and text are strings")
        text = "\n".join(part for part in parts if part)
        if any("\ud800" <= character <= "\udfff" for character in identifier + text):
            raise InvalidInput(f"the {kind} {identifier!r} holds a lone surrogate, which is no text", where=where)
        yield identifier, text


def _judgements(path: Path, data: bytes) -> Iterator[tuple[str, str, int]]:
    """Query, document and judgement of each line: with a header or none, three columns or TREC's four."""
    for place, (where, line) in enumerate(_lines(path, data)):
        cells = [cell.strip() for cell in line.split("\t")] if "\t" in line else line.split()
        if len(cells) == 4:  # TREC: query, iteration, document, judgement
            del cells[1]
        try:
            query, document, judgement = cells
            value = float(judgement)
        except ValueError:
            if place == 0 and len(cells) == 3 and not _number(cells[2]):
                continue  # the header
            raise InvalidInput(
                "the line is no judgement", where=where, hint="query-id, corpus-id and score, separated by tabs"
            ) from None
        if not value.is_integer():
            raise InvalidInput(f"the score {judgement} is no whole number", where=where)
        yield query, document, int(value)


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
