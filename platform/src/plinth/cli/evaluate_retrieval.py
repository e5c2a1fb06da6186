"""`plinth eval retrieval`: a collection in the BEIR layout, found by dense, sparse and hybrid search."""

from __future__ import annotations

from argparse import Namespace
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from plinth.cli.command import Commands

if TYPE_CHECKING:
    from collections.abc import Iterator

    from plinth.cli.output import Output
    from plinth.core.bootstrap import Difference
    from plinth.retrieval.beir import Collection
    from plinth.retrieval.evaluation import ModeResult
    from plinth.retrieval.port import Progress

MODES = ("dense", "sparse", "hybrid")


def add(group: Commands) -> None:
    """Declare the command."""
    command = group.command(
        "retrieval",
        retrieval,
        help="Measure dense, sparse and hybrid retrieval on a collection in the BEIR layout.",
        example="plinth eval retrieval --dataset collections/scifact",
    )
    command.add_argument(
        "--dataset", required=True, metavar="DIR",
        help="folder with corpus.jsonl, queries.jsonl and qrels.tsv (or qrels/test.tsv)",
    )  # fmt: skip
    command.add_argument("--mode", action="append", choices=MODES, help="only this one, may be repeated; default all")


def retrieval(args: Namespace, out: Output) -> None:
    """Handler."""
    from pathlib import Path

    from plinth.core.assistants import Embedding
    from plinth.retrieval.beir import read_collection
    from plinth.retrieval.bm25 import Bm25Encoder
    from plinth.retrieval.evaluation import differences, evaluate, index_collection
    from plinth.retrieval.qdrant_edge import EdgeStore
    from plinth.wiring import Platform

    platform = Platform.from_settings()
    folder = Path(args.dataset)
    collection = read_collection(folder)
    _note(collection, out)
    embedder = platform.assistants.embedder(Embedding())
    cache = platform.settings.state_dir / "cache" / "collections"
    store = EdgeStore(cache / "index")
    with _progress(out, "indexing documents") as report:
        build = index_collection(collection, store, embedder, cache / "vectors", report)
    index = store.open(build)
    try:
        modes = [mode for mode in MODES if mode in (args.mode or MODES)]
        with _progress(out, "asking queries") as report:
            # The length of documents decides nothing of a query.
            results = evaluate(collection, index, embedder, Bm25Encoder(1.0), modes=modes, on_progress=report)
    finally:
        index.close()
    gains = differences(results)
    out.data(
        {
            "dataset": folder.resolve().name,
            "modes": {mode: result.summary() for mode, result in results.items()},
            "differences": {pair: {name: one.as_dict() for name, one in ones.items()} for pair, ones in gains.items()},
            "embedding": embedder.name,
            "documents": len(collection.documents),
            "queries": len(collection.queries),
            "skipped_queries": collection.skipped_queries,
            "unknown_documents": collection.unknown_documents,
            "unknown_queries": collection.unknown_queries,
        }
    )
    _show(out, folder.resolve().name, collection, results, gains)


def _note(collection: Collection, out: Output) -> None:
    for number, what in (
        (collection.skipped_queries, "queries have no relevant document and are left out"),
        (
            collection.unknown_documents,
            "judgements are of documents that the corpus does not have; they count as missed",
        ),
        (collection.unknown_queries, "judged queries are not among the queries and are left out"),
    ):
        if number:
            out.note(f"{number} {what}")


@contextmanager
def _progress(out: Output, what: str) -> Iterator[Progress]:
    """A bar at a terminal; elsewhere a line on standard error every ten seconds, the first after two."""
    import time

    with out.progress() as bar:
        task = bar.add_task(what, total=None)
        due = time.monotonic() + 2

        def report(done: int, total: int) -> None:
            nonlocal due
            bar.update(task, completed=done, total=total)
            if bar.disable and time.monotonic() >= due:
                out.note(f"{what}: {done} of {total}")
                due = time.monotonic() + 10

        yield report


def _show(
    out: Output,
    name: str,
    collection: Collection,
    results: dict[str, ModeResult],
    gains: dict[str, dict[str, Difference]],
) -> None:
    out.text(f"{name}: {len(collection.documents)} documents, {len(collection.queries)} queries")
    rows: list[list[Any]] = []
    for mode, result in results.items():
        numbers = result.summary()
        quality = [f"{numbers[key]:.3f}" for key in ("ndcg@10", "recall@100", "mrr")]
        rows.append([mode, *quality, *(f"{numbers[key]:.1f}" for key in ("p50_ms", "p95_ms"))])
    out.table(["mode", "nDCG@10", "recall@100", "MRR", "p50 ms", "p95 ms"], rows)
    for pair, ones in gains.items():
        out.text(f"{pair.replace('-', ' over ')} (mean by query and its 95% interval, paired bootstrap)")
        for metric, one in ones.items():
            out.text(f"  {metric:<11}{one.mean:+.3f}  [{one.low:+.3f}, {one.high:+.3f}]")
    out.text("times are of a whole retrieval of 100 documents, the embedding of the query included")
