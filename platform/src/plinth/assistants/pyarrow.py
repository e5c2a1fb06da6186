"""A build's chunks as Parquet, without their text: `chunks.parquet` beside the index, for contracts, diffs, traces."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from plinth.assistants.records import write_file
from plinth.core.corpus import Chunk
from plinth.errors import Corrupt, MissingExtra, NotFound

COLUMNS = (
    "id", "content_digest", "document", "version", "source", "title", "position", "tenant", "labels", "modified"
)  # fmt: skip
ROWS = 4096


def write_chunks(path: Path, chunks: Iterable[Chunk]) -> None:
    """Write the rows of chunks, whole or not at all.

    Raises:
        Unavailable: The disk is full.
    """
    _write(path, (_row(chunk) for chunk in chunks))


def read_chunks(path: Path, columns: Sequence[str] = COLUMNS) -> Iterator[dict[str, Any]]:
    """The rows, a few thousand at a time; `modified` is seconds since 1970.

    Raises:
        NotFound: There is no such file.
        Corrupt: It cannot be read.
    """
    pq = _parquet()
    import pyarrow as pa

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=ROWS, columns=list(columns)):
                for row in batch.to_pylist():
                    if "modified" in row:
                        row["modified"] = row["modified"].timestamp()
                    yield row
    except FileNotFoundError:
        raise NotFound("the chunks of the build are not there", where=str(path)) from None
    except (pa.ArrowException, OSError) as error:
        raise Corrupt(f"the chunks of the build cannot be read: {error}", where=str(path)) from error


def without_tenant(path: Path, tenant: str) -> int:
    """Write the file again without a tenant's rows; returns how many there were."""
    rows = list(read_chunks(path))
    kept = [row for row in rows if row["tenant"] != tenant]
    if len(kept) < len(rows):
        _write(path, kept)
    return len(rows) - len(kept)


def drop_rows(path: Path, column: str, value: str) -> int:
    """Write a Parquet file again without the rows whose column has a value; returns how many there were.

    A file of nothing else is deleted.

    Raises:
        Corrupt: It cannot be read.
        Unavailable: The disk is full.
    """
    pq = _parquet()
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        table = pq.ParquetFile(path).read()  # not read_table: a folder's name is no column of this file
    except (pa.ArrowException, OSError) as error:
        raise Corrupt(f"the file cannot be read: {error}", where=str(path)) from error
    if column not in table.column_names:
        return 0
    kept = table.filter(pc.or_kleene(pc.not_equal(table[column], value), pc.is_null(table[column])))
    gone = int(table.num_rows - kept.num_rows)
    if gone and kept.num_rows:
        buffer = io.BytesIO()
        pq.write_table(kept, buffer, compression="zstd")
        write_file(path, buffer.getvalue())
    elif gone:
        path.unlink(missing_ok=True)
    return gone


def _row(chunk: Chunk) -> dict[str, Any]:
    return {
        "id": chunk.id, "content_digest": chunk.content_digest, "document": chunk.document, "version": chunk.version,
        "source": chunk.source, "title": chunk.title, "position": chunk.position, "tenant": chunk.tenant,
        "labels": sorted(chunk.labels), "modified": chunk.modified,
    }  # fmt: skip


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    pq = _parquet()
    import pyarrow as pa

    text = pa.string()
    schema = pa.schema(
        [
            *((name, text) for name in COLUMNS[:6]), ("position", pa.int32()), ("tenant", text),
            ("labels", pa.list_(text)), ("modified", pa.timestamp("us", tz="UTC")),
        ]
    )  # fmt: skip
    buffer, rest = io.BytesIO(), iter(rows)
    with pq.ParquetWriter(buffer, schema, compression="zstd") as writer:
        while some := list(islice(rest, ROWS)):
            times = [{**row, "modified": round(row["modified"] * 1_000_000)} for row in some]
            writer.write_table(pa.Table.from_pylist(times, schema=schema))
    write_file(path, buffer.getvalue())


def _parquet() -> Any:
    try:
        import pyarrow.parquet as parquet
    except ModuleNotFoundError:
        raise MissingExtra("pyarrow", "retrieval") from None
    return parquet
