"""Which sources are called stale: what freshness knows, against the build that answers."""

from datetime import UTC, datetime, timedelta

import pytest

from answering import Lab, product
from plinth.assistants import freshness
from plinth.assistants.freshness import SourceFreshness
from plinth.assistants.records import BUILD, BuildRecord, SourceRecord, build_folder, write_file
from plinth.assistants.staleness import Staleness
from plinth.core.assistants import IndexRef, SourceSpec

OLD, NEW = "0" * 16, "1" * 16
SPECS = (
    SourceSpec(name="docs", kind="folder", path="docs", freshness="10m"),
    SourceSpec(name="wiki", kind="folder", path="wiki", freshness="10m", tenant="acme"),
)


def at(minutes):
    return (datetime.now(UTC) - timedelta(minutes=minutes)).isoformat(timespec="microseconds")


@pytest.fixture
def known(tmp_path):
    """Writes what freshness knows, and builds; gives a Staleness that has read it."""

    def known(sources, builds=None):
        freshness.write(tmp_path, sources)
        for build, (probe, minutes) in (builds or {}).items():
            ref = IndexRef(
                build=build, checksum={}, chunks={}, documents=0, dimension=4, embedding="e" * 64, chunking="c" * 64
            )
            held = SourceRecord(as_of=at(minutes), documents=1, chunks=1, probe=probe)
            record = BuildRecord(index=ref, made_at=at(minutes), avg_len=1.0, sources={"docs": held})
            write_file(build_folder(tmp_path, build) / BUILD, record.model_dump_json().encode())
        staleness = Staleness(tmp_path, SPECS)
        staleness.look()
        return staleness

    return known


def test_a_source_within_its_objective_is_not_stale(known):
    assert known({"docs": SourceFreshness(at(5), 600, 2.0)}).stale(NEW, ("public",)) == ()


def test_a_source_that_nobody_looked_at_for_too_long_is_stale(known):
    assert known({"docs": SourceFreshness(at(11), 600)}).stale(NEW, ("public",)) == ("docs",)


def test_a_change_that_took_too_long_makes_its_source_stale(known):
    assert known({"docs": SourceFreshness(at(1), 600, 700.0)}).stale(NEW, ("public",)) == ("docs",)


def test_an_older_build_is_as_old_as_it_is_whatever_the_newest_one_knows(known):
    staleness = known({"docs": SourceFreshness(at(1), 600, 2.0, "new")}, {OLD: ("old", 60), NEW: ("new", 1)})
    assert staleness.stale(NEW, ("public",)) == ()
    assert staleness.stale(OLD, ("public",)) == ("docs",), "a rollback brings old documents back"
    assert staleness.made_at(OLD) < staleness.made_at(NEW)


def test_a_build_that_no_refresh_ever_looked_at_grows_stale_all_the_same(known):
    """Promoted by hand, and the refresh schedule never ran: nothing was written."""
    staleness = known({}, {OLD: ("old", 60), NEW: ("new", 1)})
    assert staleness.stale(NEW, ("public",)) == ()
    assert staleness.stale(OLD, ("public",)) == ("docs",)


def test_nobody_learns_of_another_tenants_sources(known):
    staleness = known({"docs": SourceFreshness(at(11), 600), "wiki": SourceFreshness(at(11), 600)})
    assert staleness.stale(NEW, ("public",)) == ("docs",)
    assert staleness.stale(NEW, ("acme", "public")) == ("docs", "wiki")


def test_what_was_known_stays_when_the_file_is_gone_or_damaged(known, tmp_path):
    staleness = known({"docs": SourceFreshness(at(11), 600)})
    for damage in (lambda: (tmp_path / freshness.FILE).write_text("{"), (tmp_path / freshness.FILE).unlink):
        damage()
        staleness.look()
        assert staleness.stale(NEW, ("public",)) == ("docs",)


def test_answers_of_a_stale_source_are_labelled_and_readiness_warns(tmp_path):
    lab = Lab(tmp_path)
    lab.promote(lab.config())
    name = product().assistant.sources[0].name
    freshness.write(tmp_path, {name: SourceFreshness(at(1000), 600)})
    running = lab.service()
    told = running.call.post("/ask", {"question": "What does page 3 tell about subject3?"}).json
    assert told["stale"] == [name]
    ready = running.call("GET", "/readyz").json
    assert ready["ready"]
    assert f"{name} is stale" in ready["warnings"][0]
    assert running.service.stats()["sources"][name][2] is True
    running.service.stop()
