"""Freshness: probes that follow from content, lags that are measured, alerts that are told once."""

import logging
import time
from datetime import UTC, datetime, timedelta

import pytest

from indexes import corpus
from plinth.assistants import freshness
from plinth.assistants.freshness import SourceFreshness
from plinth.assistants.records import BuildRecord, SourceRecord
from plinth.core.assistants import IndexRef, SourceSpec
from plinth.core.corpus import PROBE_TENANT, Scope
from plinth.errors import Unavailable
from plinth.ledger.store import Ledger

SPECS = [
    SourceSpec(name="docs", kind="folder", path="docs", freshness="10m"),
    SourceSpec(name="wiki", kind="folder", path="wiki", freshness="1h"),
]
EARLY, LATE = "2026-01-01T00:00:00.000000+00:00", "2026-01-01T01:00:00.000000+00:00"


def source(as_of=LATE, probe="probenew", **more):
    return SourceRecord(as_of=as_of, documents=1, chunks=1, probe=probe, **more)


def serving(sources, **more):
    ref = IndexRef(
        build="0" * 16, checksum={}, chunks={}, documents=0, dimension=4, embedding="e" * 64, chunking="c" * 64
    )
    return BuildRecord(index=ref, made_at=LATE, avg_len=1.0, sources=sources, **more)


def test_a_probe_follows_from_the_sources_chunks_whatever_their_order():
    token, chunk = freshness.probe_of("docs", corpus(5))
    assert (token, chunk) == freshness.probe_of("docs", reversed(corpus(5)))
    assert token in chunk.text
    assert freshness.probe_of("docs", corpus(4))[0] != token, "a deletion changes it"
    assert freshness.probe_of("wiki", corpus(5))[0] != token


def test_nobody_but_the_probes_reads_a_probe():
    _, chunk = freshness.probe_of("docs", corpus(1))
    assert not Scope("public", frozenset({"staff"})).holds(chunk)
    assert not Scope("acme").holds(chunk)
    assert Scope(PROBE_TENANT).holds(chunk)


def test_a_listing_without_changes_moves_as_of_and_keeps_the_lag(tmp_path):
    freshness.write(tmp_path, {"docs": SourceFreshness(EARLY, 600, 2.5, "probe1")})
    freshness.nothing_changed(tmp_path, SPECS, {"docs": LATE}, {})
    assert freshness.read(tmp_path) == {"docs": SourceFreshness(LATE, 600, 2.5, "probe1")}


def test_a_source_that_is_away_keeps_its_as_of_and_says_why(tmp_path):
    freshness.write(tmp_path, {"docs": SourceFreshness(EARLY, 600, 2.5, "probe1")})
    freshness.nothing_changed(tmp_path, SPECS, {}, {"docs": "the folder is not there"})
    assert freshness.read(tmp_path)["docs"] == SourceFreshness(EARLY, 600, 2.5, "probe1", "the folder is not there")


def test_as_of_never_moves_back_by_a_listing(tmp_path):
    freshness.write(tmp_path, {"docs": SourceFreshness(LATE, 600)})
    freshness.nothing_changed(tmp_path, SPECS, {"docs": EARLY}, {})
    assert freshness.read(tmp_path)["docs"].as_of == LATE


def test_the_lag_is_from_the_change_to_when_the_probe_was_found(tmp_path):
    freshness.write(tmp_path, {"docs": SourceFreshness(EARLY, 600, 1.0, "old"), "wiki": SourceFreshness(EARLY, 3600)})
    freshness.searchable(
        tmp_path, SPECS, {"docs": source(), "wiki": source(probe="w")}, at={"docs": 1000.0, "wiki": 1000.0},
        began={"docs": 940.5},
    )  # fmt: skip
    known = freshness.read(tmp_path)
    assert known["docs"] == SourceFreshness(LATE, 600, 59.5, "probenew")
    assert known["wiki"] == SourceFreshness(LATE, 3600, None, "w"), "nothing of it changed: nothing was measured"


def test_a_probe_that_was_not_found_proves_nothing(tmp_path):
    freshness.write(tmp_path, {"docs": SourceFreshness(EARLY, 600, 1.0, "old")})
    freshness.searchable(tmp_path, SPECS, {"docs": source()}, at={}, began={"docs": 1.0})
    assert freshness.read(tmp_path)["docs"] == SourceFreshness(EARLY, 600, 1.0, "old")


class Service:
    """Holds texts, and changes them after so many questions."""

    def __init__(self, before, after, change_at=3):
        self.before, self.after, self.left = before, after, change_at

    def __call__(self, question):
        self.left -= 1
        texts = self.before if self.left >= 0 else self.after
        if texts is None:
            raise Unavailable("not there", where="test")
        return [text for text in texts if question in text]


def wait(service, gone, timeout=5.0):
    return freshness.wait_until_searchable(service, {"docs": "new"}, gone, timeout, poll=0.001)


def test_it_waits_for_the_new_probe_and_for_the_old_one_to_go():
    start = time.time()
    assert wait(Service(["old"], ["new"]), {"docs": "old"})["docs"] >= start
    assert wait(Service(["old", "new"], ["new"]), {"docs": "old"})
    assert wait(Service(None, ["new"]), {"docs": "old"}), "a service that starts is asked again"


def test_a_deletion_that_did_not_arrive_is_not_called_searchable():
    assert wait(Service(["old", "new"], ["old", "new"]), {"docs": "old"}, timeout=0.05) == {}
    assert wait(Service(["old"], ["old"]), {"docs": "old"}, timeout=0.05) == {}


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield ledger
    ledger.close()


def ago(seconds):
    return (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat(timespec="microseconds")


def test_row_17_a_breach_and_its_recovery_are_told_once_each(tmp_path, ledger, caplog):
    caplog.set_level(logging.INFO, "plinth.assistants.freshness")

    def look(as_of, lag=None):
        freshness.write(tmp_path, {"docs": SourceFreshness(as_of, 600, lag)})
        return freshness.watch(ledger, "helper", tmp_path, SPECS)

    assert look(ago(5)) == {}
    assert ledger.events("helper", freshness.EVENT) == [], "a recovery needs a breach"
    for _ in range(3):
        assert "objective is 600 s" in look(ago(700))["docs"]
    assert look(ago(5)) == look(ago(5)) == {}
    assert "took 900 s" in look(ago(5), lag=900.0)["docs"]
    told = [event.payload["state"] for event in ledger.events("helper", freshness.EVENT)]
    assert told == ["breached", "recovered", "breached"]
    assert [entry.levelname for entry in caplog.records] == ["WARNING", "INFO", "WARNING"]


def test_the_objective_is_that_of_the_manifest_not_of_the_file(tmp_path, ledger):
    freshness.write(tmp_path, {"docs": SourceFreshness(ago(5), 10**9)})
    tight = [SPECS[0].model_copy(update={"freshness": "1s"})]
    assert freshness.watch(ledger, "helper", tmp_path, tight)


def test_of_a_build_that_no_refresh_measured_its_own_listing_counts(tmp_path):
    given = SourceSpec(name="extra", kind="folder", path="extra", freshness="5s")
    build = serving(
        {
            "docs": source(as_of=EARLY, probe="older"),
            "wiki": source(as_of=EARLY),
            "extra": source(as_of=EARLY, given=given),
            "acme": source(as_of=EARLY, tenant="acme"),
        },
        without=("acme",),
    )
    known = {"docs": SourceFreshness(LATE, 600, 1.0, "newer")}
    found = freshness.of_serving(known, build, freshness.objectives(SPECS))
    assert found == {
        "docs": SourceFreshness(EARLY, 600, None, "older"),
        "wiki": SourceFreshness(EARLY, 3600, None, "probenew"),
        "extra": SourceFreshness(EARLY, 5, None, "probenew"),
    }, "and a tenant that was deleted has no source that could be late"
    assert freshness.of_serving(known, None, {}) == known


@pytest.mark.parametrize("text", ["", "{", "[]", '{"sources": 3}', '{"sources": {"docs": {"x": 1}}}'])
def test_a_damaged_file_is_nothing_known(tmp_path, text):
    (tmp_path / freshness.FILE).write_text(text)
    assert freshness.read(tmp_path) == {}
