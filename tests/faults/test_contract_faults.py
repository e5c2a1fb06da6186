"""What arrives at the pipeline's boundary in a bad state, and what happens when the machine lets it down."""

import errno
import json
import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from plinth.contracts import quarantine as shelves
from plinth.contracts.check import enforce
from plinth.contracts.duckdb import DuckDBEngine
from plinth.contracts.model import Column, Contract, Quality
from plinth.errors import InvalidInput, NotFound, RefusedByPolicy, Unavailable

CONTRACT = Contract(
    id="things", version="1.0.0", status="active", dataset="things", owner="team", digest="0" * 64,
    source="things.yaml",
    columns=(Column("id", "integer", "BIGINT", key=1, required=True), Column("color", "string", values=("red",))),
    quality=(Quality("size", "rowCount", "mustBeGreaterThan", (0.0,)),),
)  # fmt: skip
GOOD = "SELECT i::BIGINT AS id, 'red' AS color FROM range(5000) t(i)"
BAD = "SELECT i::BIGINT AS id, 'blue' AS color FROM range(5000) t(i)"


class Boundary:
    """A lake, a quarantine and an incoming folder."""

    def __init__(self, root):
        self.root = root
        self.lake, self.quarantine = root / "lake", root / "quarantine"
        self.batch = root / "incoming" / "2013-01.parquet"
        self.batch.parent.mkdir()
        self.folder = self.quarantine / "things" / "2013-01"
        self.accepted = self.lake / "things" / "2013-01.parquet"

    def deliver(self, query):
        with duckdb.connect() as db:
            db.execute(f"COPY ({query}) TO '{self.batch}'")
        return self

    def enforce(self, contract=CONTRACT, **more):
        return enforce(contract, self.batch, self.lake, self.quarantine, **more)

    def leftovers(self):
        return [path for path in self.root.rglob("*") if ".partial" in path.name or ".old" in path.name]


@pytest.fixture
def boundary(tmp_path):
    return Boundary(tmp_path)


def test_a_batch_that_keeps_its_contract_moves_into_the_lake(boundary):
    result = boundary.deliver(GOOD).enforce()
    assert result.passed
    assert boundary.accepted.is_file()
    assert not boundary.batch.exists()
    assert not boundary.quarantine.exists()


def test_a_broken_batch_is_quarantined_with_counts_and_sample_rows(boundary):
    with pytest.raises(RefusedByPolicy) as caught:
        boundary.deliver(BAD).enforce()
    assert caught.value.where == str(boundary.folder / "report.html")
    assert "color is none of the 1 allowed values (5,000)" in caught.value.what
    assert {path.name for path in boundary.folder.iterdir()} == {"2013-01.parquet", "report.html", "report.json"}
    report = json.loads((boundary.folder / "report.json").read_text())
    assert report["violations"][0]["count"] == 5000
    assert report["violations"][0]["samples"][0] == {"row": "0", "color": "blue", "id": "0"}
    assert "blue" in (boundary.folder / "report.html").read_text()
    assert not boundary.accepted.exists()
    assert not boundary.batch.exists()


def test_running_again_gives_the_same_answer(boundary):
    boundary.deliver(GOOD).enforce()
    assert boundary.enforce().passed
    boundary.deliver(BAD)
    for _ in range(2):
        with pytest.raises(RefusedByPolicy):
            boundary.enforce()
    assert boundary.accepted.is_file(), "the good batch of before stays in the lake"


def test_a_corrected_delivery_settles_the_quarantine(boundary):
    with pytest.raises(RefusedByPolicy):
        boundary.deliver(BAD).enforce()
    assert boundary.deliver(GOOD).enforce().passed
    assert not boundary.folder.exists()
    assert (boundary.folder.parent / "2013-01.resolved" / "report.html").is_file()


def test_a_quarantined_batch_passes_once_its_contract_admits_it(boundary):
    with pytest.raises(RefusedByPolicy):
        boundary.deliver(BAD).enforce()
    wider = replace(CONTRACT, columns=(CONTRACT.columns[0], replace(CONTRACT.columns[1], values=("red", "blue"))))
    assert boundary.enforce(wider).passed
    assert boundary.accepted.is_file()


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, 0.99])
def test_a_truncated_file_is_quarantined_with_the_reason(boundary, keep):
    boundary.deliver(GOOD)
    data = boundary.batch.read_bytes()
    boundary.batch.write_bytes(data[: int(keep * len(data)) if keep < 1 else keep])
    with pytest.raises(RefusedByPolicy, match="the file cannot be read"):
        boundary.enforce()
    assert (boundary.folder / "2013-01.parquet").is_file()


def test_a_corrupt_page_never_gets_into_the_lake_unnoticed(boundary):
    boundary.deliver("SELECT i::BIGINT AS id, 'red' AS color FROM range(200000) t(i)")
    data = bytearray(boundary.batch.read_bytes())
    for offset in range(2000, 6000):
        data[offset] ^= 0xFF
    boundary.batch.write_bytes(data)
    with pytest.raises(RefusedByPolicy):
        boundary.enforce()
    assert not boundary.accepted.exists()


def test_a_missing_batch_is_named(boundary):
    with pytest.raises(NotFound) as caught:
        boundary.enforce()
    assert caught.value.where == str(boundary.batch)


@pytest.mark.parametrize("name", [".hidden.parquet", "a b.parquet", "x;y.parquet"])
def test_names_that_are_no_batch_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(InvalidInput, match="no name of a batch"):
        enforce(CONTRACT, tmp_path / name, tmp_path / "lake", tmp_path / "quarantine")


def test_a_full_disk_under_the_quarantine_loses_nothing_and_leaves_nothing_half_made(boundary, monkeypatch):
    boundary.deliver(BAD)

    def full(self, *args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(Unavailable, match="No space left"):
            boundary.enforce()
    assert boundary.batch.is_file()
    assert not boundary.folder.exists()
    assert boundary.leftovers() == []
    with pytest.raises(RefusedByPolicy):
        boundary.enforce()  # heals by itself once there is room


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own with a few hundred kilobytes, so that a move crosses devices and can fill it."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    mount = tmp_path / "small"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", mount], capture_output=True).returncode:
        pytest.skip("this machine does not let us mount a tmpfs")
    yield mount
    subprocess.run(["umount", mount], check=True)


@pytest.mark.parametrize("query", [GOOD, BAD])
def test_a_really_full_disk_behind_lake_and_quarantine(boundary, small_disk, query):
    boundary.deliver(query.replace("range(5000)", "range(500000)"))
    size = boundary.batch.stat().st_size
    assert size > 300_000
    with pytest.raises(Unavailable, match="No space left"):
        enforce(CONTRACT, boundary.batch, small_disk / "lake", small_disk / "quarantine")
    assert boundary.batch.stat().st_size == size
    assert not [path for path in small_disk.rglob("*") if path.is_file()]


def test_a_batch_moves_across_file_systems(boundary, small_disk):
    boundary.deliver("SELECT i::BIGINT AS id, 'red' AS color FROM range(50) t(i)")
    result = enforce(CONTRACT, boundary.batch, small_disk / "lake", small_disk / "quarantine")
    assert result.passed
    assert (small_disk / "lake" / "things" / "2013-01.parquet").is_file()
    assert not boundary.batch.exists()


def test_an_interrupted_swap_leaves_the_folder_of_before_or_after(boundary):
    """The reports of an earlier delivery give way to those of the next one, never to a mix."""
    for color in ("blue", "pink"):
        with pytest.raises(RefusedByPolicy):
            boundary.deliver(BAD.replace("blue", color)).enforce()
    page = (boundary.folder / "report.html").read_text()
    assert "pink" in page
    assert "blue" not in page
    assert boundary.leftovers() == []


def test_too_little_memory_is_said_and_nothing_moves(boundary):
    boundary.deliver("SELECT i::BIGINT AS id, repeat('x', 1000) || i AS color FROM range(200000) t(i)")
    with pytest.raises(Unavailable, match="memory"):
        boundary.enforce(engine=DuckDBEngine(memory="1MB"))
    assert boundary.batch.is_file()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_a_check_of_two_million_rows_stays_flat_in_memory(tmp_path):
    """The benchmark measures ten million rows; this holds the bound on a size that tests can afford."""
    with duckdb.connect() as db:
        query = "SELECT i::BIGINT AS id, 'red' AS color FROM range(2000000) t(i)"
        db.execute(f"COPY ({query}) TO '{tmp_path / 'b.parquet'}'")
    code = (
        "import sys; sys.path.insert(0, sys.argv[2]); from pathlib import Path\n"
        "from plinth.contracts.duckdb import DuckDBEngine; from test_contract_faults import CONTRACT\n"
        "assert DuckDBEngine().check(CONTRACT, Path(sys.argv[1])).rows == 2_000_000\n"
        # Not ru_maxrss: Linux carries the parent's over exec.
        "print([line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')][0])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "b.parquet"), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) / 1024 < 500


def test_a_file_size_limit_counts_as_a_full_disk(boundary, tmp_path):
    """RLIMIT_FSIZE makes a write fail in the middle: what was written so far is taken back."""
    boundary.deliver(GOOD)
    source, target = boundary.batch, tmp_path / "copy" / "2013-01.parquet"
    code = (
        "import errno, os, resource, signal, sys; from pathlib import Path\n"
        "from plinth.contracts import quarantine; from plinth.errors import Unavailable\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "replace = os.replace\n"
        "def other_disk(a, b):\n"
        "    if Path(a) == Path(sys.argv[1]): raise OSError(errno.EXDEV, 'cross-device')\n"
        "    return replace(a, b)\n"
        "os.replace = other_disk\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))\n"
        "try: quarantine.accept(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "except Unavailable as error: print('unavailable'); sys.exit(0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, source, target], capture_output=True, text=True)
    assert done.stdout.strip() == "unavailable", done.stderr
    assert source.is_file()
    assert list(target.parent.iterdir()) == []
    assert resource.RLIM_INFINITY  # the limit was the child's, not ours
    assert shelves.accept(source, target) is None
    assert target.is_file()
