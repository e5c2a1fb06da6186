"""The inference log: bounded, counted, retried, never in the way."""

import threading
import time

import numpy as np
import pytest

from plinth.serving.inference_log import Entry, InferenceLog
from plinth.serving.memory import MemorySink


def entry(rows=1, request_id="r"):
    return Entry(
        request_id, "d" * 64, [f"e{i}" for i in range(rows)], np.arange(rows, dtype=np.int64),
        np.zeros((rows, 2), dtype=np.float32), np.full(rows, 0.5), [[] for _ in range(rows)], 1.5, 1.0,
    )  # fmt: skip


def test_entries_are_written_in_order_within_the_interval():
    sink = MemorySink()
    log = InferenceLog(sink, interval=0.05)
    log.start()
    for i in range(5):
        assert log.append(entry(request_id=str(i)))
    deadline = time.monotonic() + 5
    while log.written < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    log.close()
    assert [item.request_id for item in sink.entries] == list("01234")


def test_a_full_buffer_drops_and_counts_rows():
    log = InferenceLog(MemorySink(), capacity=10)
    assert log.append(entry(8))
    assert not log.append(entry(3))
    assert log.append(entry(2))
    assert log.stats() == {"written": 0, "dropped": 3, "buffered": 10, "write_errors": 0, "failing": ""}


def test_a_refusing_disk_keeps_the_rows_and_heals_by_itself():
    sink = MemorySink()
    events = []
    log = InferenceLog(sink, interval=0.02, on_event=lambda name, level, **_: events.append(name))
    sink.full = True
    log.append(entry(4))
    assert log.flush() is False
    assert log.flush() is False
    assert (log.buffered, log.write_errors) == (4, 2)
    assert "No space" in log.failing
    sink.full = False
    assert log.flush()
    assert (log.written, log.buffered, log.failing) == (4, 0, "")
    assert events == ["inference log cannot be written", "inference log is written again"]


def test_appending_does_not_wait_for_a_slow_disk():
    held = threading.Event()

    class Slow(MemorySink):
        def write(self, entries):
            held.wait(5)
            super().write(entries)

    log = InferenceLog(Slow(), interval=0.01)
    log.start()
    log.append(entry())
    time.sleep(0.05)
    started = time.perf_counter()
    for _ in range(100):
        log.append(entry())
    took = time.perf_counter() - started
    held.set()
    log.close()
    assert took < 0.1
    assert log.written == 101


def test_closing_writes_what_is_left_and_takes_nothing_more():
    sink = MemorySink()
    log = InferenceLog(sink, interval=60)
    log.start()
    log.append(entry(3))
    log.close()
    assert log.written == 3
    assert not log.append(entry())
    assert log.dropped == 1


def test_many_threads_lose_nothing():
    sink = MemorySink()
    log = InferenceLog(sink, interval=0.005, capacity=100_000)
    log.start()
    threads = [threading.Thread(target=lambda: [log.append(entry(2)) for _ in range(500)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert log.written == sum(len(item.entity_ids) for item in sink.entries) == 4000
    assert log.buffered == 0


@pytest.mark.parametrize("error", [OSError("disk"), RuntimeError("bug")])
def test_the_writer_survives_whatever_the_sink_throws(error):
    class Broken(MemorySink):
        failures = 1

        def write(self, entries):
            if self.failures:
                self.failures -= 1
                raise error
            super().write(entries)

    log = InferenceLog(Broken(), interval=0.01)
    log.start()
    log.append(entry())
    deadline = time.monotonic() + 5
    while not log.written and time.monotonic() < deadline:
        time.sleep(0.01)
    log.close()
    assert log.written == 1
