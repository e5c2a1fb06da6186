"""The controller's look at the logs: a process is started only when there is work, and ends with the controller."""

import sys
import threading
from datetime import UTC, datetime

import pytest

from log_writing import LATER, rows_of, write_inference
from plinth.core.log_files import current_names
from plinth.runtime import log_watch
from plinth.runtime.log_archive import due, keep
from plinth.runtime.log_watch import LogWatch
from plinth.settings import Settings
from plinth.wiring import Platform

LONG_AGO = datetime(2013, 1, 31, 12, tzinfo=UTC).timestamp()


@pytest.fixture
def platform(tmp_path):
    return Platform(Settings(home=tmp_path, state=tmp_path / "state"))


@pytest.fixture
def folder(platform):
    folder = platform.settings.product_dir("flights") / "inference"
    for second in (0, 1):
        write_inference(folder, [f"f{second}"], at=LONG_AGO + second)
    return folder


def test_without_work_nothing_is_started(platform, monkeypatch):
    monkeypatch.setattr(log_watch.subprocess, "Popen", lambda *_, **__: pytest.fail("started"))
    LogWatch(platform, lambda: True).look(threading.Event())


def test_a_closed_hour_is_merged_by_a_process(platform, folder):
    assert due(platform)
    LogWatch(platform, lambda: True).look(threading.Event())
    assert current_names(folder / "date=2026-01-31") == ["hour-20130131T12-0.parquet"]
    assert rows_of(folder) == ["f0", "f1"]
    assert not due(platform)


def test_a_controller_that_ends_does_not_wait_for_it(platform, folder, monkeypatch):
    stop = threading.Event()
    stop.set()
    monkeypatch.setattr(sys, "executable", "/bin/sleep-for-ever-is-not-there")
    with_problem = LogWatch(platform, lambda: True)
    with_problem.look(stop)
    monkeypatch.undo()
    LogWatch(platform, lambda: True).look(stop)
    assert rows_of(folder) == ["f0", "f1"]


def test_without_a_bucket_logs_are_merged_and_stay(platform, folder):
    assert keep(platform, LATER + 1e9) == {"merged": 2, "archived": 0, "removed": 0, "failed": 0}
    assert rows_of(folder) == ["f0", "f1"]
    assert not list(folder.glob(".archive.json"))
