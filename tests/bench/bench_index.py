"""How fast an index build is, and what memory it takes as the corpus grows; sizes on the command line for more.

Targets: 10,000 chunks are ingested in 60 s on two cores, from Markdown files to a checked build, and memory is flat as
the corpus grows. The corpus is made up: files of ten sections of sentences over 20,000 words, drawn with a seed. Each
build runs in a process of its own, whose peak resident memory the kernel reports; the embedding model is built before.
A second build of the same folder with one file changed in a hundred shows what a refresh costs. The floor is embedding
the same texts and nothing else.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))
SIZES = (2_000, 10_000, 30_000)
CHUNKS_A_FILE = 10

BUILD = """
import json, sys, time
from plinth.assistants import indexing
from plinth.wiring import Platform
from assistant_workspace import PRODUCT
platform = Platform.from_settings()
spec = platform.products.get(PRODUCT).spec
state = platform.settings.product_dir(PRODUCT)
platform.assistants.embedder(spec.answers().embedding).embed_documents(["warm"])
marks, began = {}, time.perf_counter()
def tell(what, done, total):
    marks.setdefault(what, [time.perf_counter() - began, 0])[1] = time.perf_counter() - began
indexing.PROGRESS.set(tell)
made = indexing.index_sources(platform.assistants, platform.ledger, spec, state, spec.answers().sources)
built = time.perf_counter() - began
checks = indexing.check(platform.assistants, spec, state, made.record)
done = time.perf_counter() - began
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024
print(json.dumps({"chunks": sum(made.record.index.chunks.values()), "embedded": made.record.embedded,
    "read": made.read.read, "reading_s": marks["reading"][1], "build_s": built, "seconds": done, "peak_mb": peak,
    "failed": [check.check for check in checks if not check.passed]}))
"""

FLOOR = """
import json, sys, time
from plinth.assistants import indexing, records
from plinth.wiring import Platform
from assistant_workspace import PRODUCT
platform = Platform.from_settings()
spec = platform.products.get(PRODUCT).spec
(record, *_) = records.described(platform.settings.product_dir(PRODUCT))
index = platform.assistants.store(PRODUCT).open(record.index.build)
texts = [point.chunk.indexed_text for point in index.points()]
embedder = platform.assistants.embedder(spec.answers().embedding)
embedder.embed_documents(["warm"])
began = time.perf_counter()
embedder.embed_documents(texts)
print(json.dumps({"chunks": len(texts), "seconds": time.perf_counter() - began}))
"""


def write_corpus(folder: Path, chunks: int, seed: int = 7) -> None:
    """Markdown files that give about so many chunks."""
    dice = random.Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(dice.choices(letters, k=dice.randint(3, 9))) for _ in range(20_000)]
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(chunks // CHUNKS_A_FILE):
        sections = []
        for section in range(CHUNKS_A_FILE):
            sentences = [" ".join(dice.choices(words, k=12)).capitalize() + "." for _ in range(4)]
            sections.append(f"## Part {section} of {dice.choice(words)}\n\n{' '.join(sentences)}\n")
        (folder / f"page-{number}.md").write_text(f"# Page {number}\n\n" + "\n".join(sections))


def in_process(code: str, home: Path) -> dict:
    """Run `code` in a fresh interpreter on a workspace; its one line of JSON."""
    env = {
        **os.environ, "PLINTH_HOME": str(home), "PLINTH_STATE": str(home / "state"), "PLINTH_TRACES": "false",
        "PYTHONPATH": str(TESTS),
    }  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def measure(sizes: tuple[int, ...] = SIZES) -> list[dict]:
    """A row a size: the first build, the build after one file in a hundred changed, and the floor."""
    from assistant_workspace import make_workspace
    from plinth.retrieval.minilm import make_minilm

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        make_minilm(models / "minilm")
        for size in sizes:
            home = Path(folder) / str(size)
            make_workspace(home, models)
            write_corpus(home / "docs", size)
            first = in_process(BUILD, home)
            for page in sorted((home / "docs").glob("page-*.md"))[::100]:
                page.write_text(page.read_text() + "\n## One more\n\nA sentence that was not there before.\n")
            rows.append({"first": first, "again": in_process(BUILD, home), "floor": in_process(FLOOR, home)})
    return rows


def run() -> list[dict]:
    """Lines for the page of `make bench`."""
    small, large = measure((2_000, 10_000))
    first, again, floor = large["first"], large["again"], large["floor"]
    grown = first["peak_mb"] - small["first"]["peak_mb"]
    return [
        {
            "target": 0, "measure": f"{first['chunks']:,} chunks from Markdown files to a checked build", "unit": "s",
            "peer": None, "ours": first["seconds"], "floor": floor["seconds"],
            "ratio": None, "bound": "<= 60 s", "reached": first["seconds"] <= 60 and not first["failed"],
            "note": f"reading {first['reading_s']:.1f} s, checks {first['seconds'] - first['build_s']:.1f} s; "
            "the floor is embedding the same texts and nothing else",
        },
        {
            "target": 0, "measure": "the same after one file in a hundred changed", "unit": "s", "peer": None,
            "ours": again["seconds"], "floor": None, "ratio": again["seconds"] / first["seconds"],
            "bound": "<= 0.5x", "reached": again["seconds"] <= 0.5 * first["seconds"],
            "note": f"{again['embedded']} chunks embedded, {again['read']} files read",
        },
        {
            "target": 0, "measure": "peak memory of the build process, 10,000 chunks above 2,000", "unit": "MiB",
            "peer": None, "ours": grown, "floor": None, "ratio": None, "bound": "<= 100 MiB", "reached": grown <= 100,
            "note": f"{first['peak_mb']:.0f} MiB in all with the embedding model; chunks of a run are held in memory",
        },
    ]  # fmt: skip


def main() -> None:
    """Print the rows as JSON."""
    sizes = tuple(int(word) for word in sys.argv[1:]) or SIZES
    for row in measure(sizes):
        print(json.dumps(row))


if __name__ == "__main__":
    main()
