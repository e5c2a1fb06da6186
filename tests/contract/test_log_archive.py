"""The archive of logs on a real S3 server: every row once, whatever is killed and whoever is away."""

import io
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest
from pydantic import SecretStr

from faults.proxy import FaultProxy
from log_writing import LATER, NOON, rows_of, write_answers, write_inference
from plinth.core.findings import violations
from plinth.core.log_files import alone_with
from plinth.ledger import obstore
from plinth.runtime import log_archive
from plinth.runtime.log_archive import Archive, archives, check_archive, keep, repair_archive
from plinth.settings import Settings
from plinth.wiring import Platform

NAMES = [f"flight-{number}" for number in range(6)]
DAY = 86_400.0
FAR = time.time() + 4000 * DAY
KEY = "logs/flights/inference/date=2026-01-31/hour=12.parquet"


def open_platform(s3, state, **given):
    endpoint, key, secret = s3
    settings = {"object_store": f"s3://plinth/{secrets.token_hex(6)}", "object_endpoint": endpoint, **given}
    return Platform(Settings(state=state, object_key=key, object_secret=SecretStr(secret), **settings))


@pytest.fixture
def platform(s3, tmp_path):
    return open_platform(s3, tmp_path / "state")


@pytest.fixture
def folder(platform):
    folder = platform.settings.product_dir("flights") / "inference"
    for second, name in enumerate(NAMES):
        write_inference(folder, [name], at=NOON + second, event=NOON - DAY * (second % 2))
    return folder


def archived(platform, key=KEY, column="entity_id"):
    return sorted(pq.ParquetFile(io.BytesIO(platform.objects.read(key))).read()[column].to_pylist())


def test_an_hour_of_all_partitions_is_one_object_with_every_row_once(platform, folder):
    assert log_archive.due(platform, LATER)
    assert keep(platform, LATER) == {"merged": 6, "archived": 1, "removed": 0, "failed": 0}
    assert [found.key for found in platform.objects.list("logs")] == [KEY]
    assert archived(platform) == rows_of(folder) == NAMES
    assert keep(platform, LATER) == {"merged": 0, "archived": 0, "removed": 0, "failed": 0}
    assert not log_archive.due(platform, LATER)
    assert violations(check_archive(platform, thorough=True)) == []


def test_what_comes_late_is_archived_with_the_rest(platform, folder):
    keep(platform, LATER)
    write_inference(folder, ["late"], at=NOON + 60)
    assert keep(platform, LATER)["archived"] == 1
    assert archived(platform) == rows_of(folder) == [*NAMES, "late"]


def test_a_file_that_cannot_be_read_keeps_no_other_hour_from_the_archive(platform, folder):
    """The only file of its hour, which no merge ever looks at."""
    later = NOON + 3600
    path = folder / "date=2026-01-31" / f"part-{later * 10**9}-1-1.parquet"
    path.write_bytes(b"torn")
    write_inference(folder, ["after"], at=NOON + 2 * 3600)
    first = keep(platform, FAR)
    assert (first["archived"], first["failed"]) == (2, 0)
    assert [archive.due(FAR) for archive in archives(platform)] == [[]]
    assert archived(platform) == NAMES
    assert path.exists()


def settle(platform):
    """Passes of many years later: what was replaced is deleted, then the list of it."""
    for _ in range(3):
        assert keep(platform, FAR)["failed"] == 0


def test_nothing_is_removed_by_default_and_after_the_days_only_what_is_archived(s3, platform, folder):
    keep(platform, LATER)
    short = open_platform(s3, platform.settings.state_dir, object_store=platform.settings.object_store, log_days=30)
    assert keep(short, FAR)["removed"] == 0  # what was replaced is here still, and would be seen again
    assert rows_of(folder) == NAMES
    settle(platform)
    assert rows_of(folder) == NAMES
    assert keep(short, LATER + 29 * DAY)["removed"] == 0
    write_inference(folder, ["later"], at=NOON + 30 * DAY)
    assert keep(short, NOON + 31 * DAY)["removed"] == 1
    assert rows_of(folder) == ["later"]
    assert archived(platform) == NAMES
    write_inference(folder, ["late"], at=NOON + 60)
    keep(short, NOON + 32 * DAY)
    assert rows_of(folder) == ["late", "later"]  # it came when its hour had left
    assert archived(platform) == NAMES


def test_what_comes_after_an_hour_was_removed_stays_here_though_its_file_has_the_old_name(s3, platform, folder):
    keep(platform, LATER)
    settle(platform)
    names = {path.name for path in folder.glob("date=*/hour-*.parquet")}
    short = open_platform(s3, platform.settings.state_dir, object_store=platform.settings.object_store, log_days=1)
    assert keep(short, FAR)["removed"] == 1
    for second in (60, 61):
        write_inference(folder, [f"late-{second}"], at=NOON + second)
    assert keep(short, FAR)["merged"] == 2
    assert {path.name for path in folder.glob("date=*/hour-*.parquet")} <= names
    settle(short)
    assert rows_of(folder) == ["late-60", "late-61"]
    assert archived(platform) == NAMES


def test_what_was_collected_here_stays_in_the_archive(platform, folder):
    """`plinth gc` takes a generation's folder of the request log, as is done here with one of the partitions."""
    keep(platform, LATER)
    shutil.rmtree(folder / "date=2026-01-30")
    assert keep(platform, LATER)["archived"] == 0
    write_inference(folder, ["late"], at=NOON + 60)
    assert keep(platform, LATER)["failed"] == 0
    assert archived(platform) == NAMES
    assert "late" in rows_of(folder)


def test_an_object_that_is_not_what_was_uploaded_removes_nothing(s3, platform, folder):
    keep(platform, LATER)
    settle(platform)
    platform.objects.put(KEY, b"something else")
    short = open_platform(s3, platform.settings.state_dir, object_store=platform.settings.object_store, log_days=1)
    assert keep(short, FAR)["failed"] == 1
    assert rows_of(folder) == NAMES


def test_a_lost_or_changed_object_is_found_and_archived_again_from_here(platform, folder):
    keep(platform, LATER)
    content = platform.objects.read(KEY)
    platform.objects.put(KEY, bytes(len(content)))
    assert violations(check_archive(platform, thorough=False)) == []
    (finding,) = violations(check_archive(platform, thorough=True))
    assert "not what was uploaded" in finding.what
    assert [one.level for one in repair_archive(platform)] == ["repaired"]
    platform.objects.delete(KEY)
    (finding,) = violations(check_archive(platform, thorough=False))
    assert "not in the bucket" in finding.what
    assert finding.subject.endswith(KEY)
    repair_archive(platform)
    assert archived(platform) == NAMES
    assert violations(check_archive(platform, thorough=True)) == []


def test_a_changed_object_is_left_alone_where_the_hours_files_are_gone(platform, folder):
    keep(platform, LATER)
    platform.objects.put(KEY, b"all there is")
    for path in folder.glob("date=*/*.parquet"):
        path.unlink()
    (finding,) = violations(check_archive(platform, thorough=True))
    assert "backup" in finding.next
    assert repair_archive(platform) == []
    assert platform.objects.read(KEY) == b"all there is"


def test_without_its_list_an_archive_is_made_again_and_never_with_fewer_rows(platform, folder):
    keep(platform, LATER)
    (folder / log_archive.MANIFEST).unlink()
    assert keep(platform, LATER)["failed"] == 0
    assert archived(platform) == NAMES
    (folder / log_archive.MANIFEST).unlink()
    next(folder.glob("date=*/hour-*.parquet")).unlink()
    for path in folder.glob("date=*/part-*.parquet"):
        path.unlink()
    assert keep(platform, LATER)["failed"] == 1
    assert archived(platform) == NAMES


def test_an_object_that_nobody_knows_and_nobody_can_read_stops_no_other_log(platform, folder):
    platform.objects.put(KEY, b"something else")
    write_answers(folder.parent / "answers", [("a", "acme")])
    done = keep(platform, LATER)
    assert (done["failed"], done["archived"]) == (1, 1)
    assert platform.objects.read(KEY) == b"something else"
    assert rows_of(folder) == NAMES


def test_a_damaged_list_is_told_and_nothing_is_lost(platform, folder):
    keep(platform, LATER)
    (folder / log_archive.MANIFEST).write_text("{")
    (finding,) = violations(check_archive(platform, thorough=True))
    assert "cannot be read" in finding.what
    assert archived(platform) == NAMES


def test_while_somebody_else_is_at_work_a_log_is_left_alone(platform, folder):
    with alone_with(folder):
        assert keep(platform, LATER)["failed"] == 1
    assert keep(platform, LATER)["failed"] == 0


@pytest.mark.parametrize("fault", ["cut", "silent"])
def test_without_the_bucket_hours_wait_and_are_archived_when_it_is_back(s3, tmp_path, fault, monkeypatch):
    monkeypatch.setattr(obstore, "SILENCE_SECONDS", 0.5)
    monkeypatch.setattr(obstore, "RETRY_SECONDS", 0.5)
    with FaultProxy(int(s3[0].rpartition(":")[2])) as proxy:
        platform = open_platform(s3, tmp_path, object_endpoint=f"http://127.0.0.1:{proxy.port}")
        folder = platform.settings.product_dir("flights") / "inference"
        for second, name in enumerate(NAMES):
            write_inference(folder, [name], at=NOON + second)
        proxy.fault = fault
        assert keep(platform, LATER) == {"merged": 6, "archived": 0, "removed": 0, "failed": 1}
        assert rows_of(folder) == NAMES
        proxy.fault = ""
        assert keep(platform, LATER)["archived"] == 1
        assert archived(platform) == NAMES


KEEP = """
import sys
from plinth.runtime.log_archive import keep
from plinth.wiring import Platform
keep(Platform.from_settings(), float(sys.argv[1]))
"""


@pytest.mark.parametrize(
    "point", ["log.before-merge", "log.after-merge", "log.before-upload", "log.after-upload", "log.before-remove"]
)
def test_a_kill_at_any_point_leaves_every_row_once_here_or_there(platform, folder, point):
    settings = platform.settings
    environment = {
        **os.environ, "PLINTH_STATE": str(settings.state_dir), "PLINTH_OBJECT_STORE": settings.object_store,
        "PLINTH_OBJECT_ENDPOINT": settings.object_endpoint, "PLINTH_OBJECT_KEY": settings.object_key,
        "PLINTH_OBJECT_SECRET": settings.object_secret.get_secret_value(), "PLINTH_LOG_DAYS": "30",
        "PLINTH_FAILPOINT": f"{point}:kill",
    }  # fmt: skip
    now = LATER
    if point == "log.before-remove":
        keep(platform, LATER)
        settle(platform)
        now = FAR
    done = subprocess.run([sys.executable, "-c", KEEP, str(now)], env=environment, timeout=120)
    assert done.returncode == -signal.SIGKILL
    if point != "log.before-remove":
        assert rows_of(folder) == NAMES
    environment["PLINTH_FAILPOINT"] = ""
    assert subprocess.run([sys.executable, "-c", KEEP, str(now)], env=environment, timeout=120).returncode == 0
    assert archived(platform) == NAMES
    assert rows_of(folder) == ([] if point == "log.before-remove" else NAMES)
    assert violations(check_archive(platform, thorough=True)) == []
    assert [path.name for path in folder.rglob("*.writing")] == []


def test_a_deleted_tenants_answers_leave_the_archive(platform):
    folder = platform.settings.product_dir("docs") / "answers"
    write_answers(folder, [("r1", "acme"), ("r2", "other")])
    write_answers(folder, [("r3", "acme")], at=NOON + 3600)
    keep(platform, LATER + 3600)
    keys = [found.key for found in platform.objects.list("logs")]
    assert len(keys) == 2
    assert log_archive.drop_answers(platform, "docs", "acme") == 2
    assert [found.key for found in platform.objects.list("logs")] == keys[:1]
    assert archived(platform, keys[0], "tenant") == ["other"]
    assert log_archive.drop_answers(platform, "docs", "acme") == 0
    assert violations(check_archive(platform, thorough=True)) == []


def test_the_helper_process_does_one_pass_and_says_what(platform, folder):
    settings = platform.settings
    environment = {
        **os.environ, "PLINTH_STATE": str(settings.state_dir), "PLINTH_OBJECT_STORE": settings.object_store,
        "PLINTH_OBJECT_ENDPOINT": settings.object_endpoint, "PLINTH_OBJECT_KEY": settings.object_key,
        "PLINTH_OBJECT_SECRET": settings.object_secret.get_secret_value(),
    }  # fmt: skip
    command = [sys.executable, "-P", "-m", "plinth.runtime.log_archive"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["merged"] + told["archived"] in {0, 7}  # by the clock of the machine, that hour may not have begun
    assert [archive.where for archive in archives(platform)] == [Archive(platform.objects, "flights", folder).where]
