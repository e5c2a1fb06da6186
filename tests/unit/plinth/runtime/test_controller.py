"""The loop around the controller: what stops it, what does not, and in which thread things happen."""

import shutil
import threading

import pytest

from assistant_releases import PRODUCT, manifest
from plinth.assistants import freshness
from plinth.assistants.records import BUILD, BuildRecord, SourceRecord, build_folder, write_file
from plinth.errors import Unavailable
from plinth.runtime import controller
from plinth.runtime.controller import FreshnessWatch, _Loop
from plinth.settings import Settings, find_home
from plinth.wiring import Platform

HOME = find_home()


class Fake:
    """A controller that counts its ticks, and stops the loop after `most` of them."""

    def __init__(self, most=3):
        self.stop, self.most, self.ticks = threading.Event(), most, 0
        self.stepped_down, self.projections = False, 0
        self.fail = self.hang = None
        self.leading = True

    def tick(self):
        self.ticks += 1
        if self.ticks >= self.most:
            self.stop.set()
        if self.fail:
            raise self.fail
        return True

    def project(self):
        self.projections += 1
        if self.hang:
            self.hang()

    def step_down(self):
        self.stepped_down = True

    def leads(self):
        return self.leading


def loop(fake, on_ready=lambda: None, watch=lambda: None):
    return _Loop(fake, fake.stop, 0.01, on_ready, watch)


def test_it_ends_after_the_tick_at_work_and_gives_the_lease_up():
    fake, ready = Fake(), []
    assert loop(fake, lambda: ready.append(fake.ticks)).run()
    assert (fake.ticks, fake.stepped_down, ready) == (3, True, [1])


def test_a_ledger_that_is_away_is_waited_for(monkeypatch, caplog):
    monkeypatch.setattr(controller, "LONGEST_PAUSE", 0.02)
    fake = Fake(most=5)
    fake.fail = Unavailable("the ledger is locked")
    assert not loop(fake).run()
    assert fake.ticks == 5
    assert [record.getMessage() for record in caplog.records] == ["the ledger cannot be used"]


def test_a_registry_that_hangs_holds_up_no_tick_and_keeps_the_lease_to_the_end(monkeypatch):
    """Row 22. What still writes when the process ends must not meet another writer: the lease runs out by itself."""
    monkeypatch.setattr(controller, "ENDING_SECONDS", 0.05)
    fake, released = Fake(most=50), threading.Event()
    fake.hang = released.wait
    try:
        loop(fake).run()
        assert fake.ticks == 50
        assert fake.projections == 1
        assert not fake.stepped_down
    finally:
        released.set()


def test_once_keeps_the_lease_while_the_registry_is_built(monkeypatch):
    """Importing MLflow on a busy machine takes longer than a lease is trusted."""
    monkeypatch.setattr(controller, "INTERVAL", 0.02)
    fake, kept = Fake(most=99), threading.Event()
    fake.keep = kept.set
    fake.hang = lambda: kept.wait(10)
    monkeypatch.setattr(controller, "build", lambda _platform: fake)
    assert controller.run(None, once=True)
    assert kept.is_set()
    assert (fake.projections, fake.ticks, fake.stepped_down) == (1, 2, True)


@pytest.mark.parametrize("error", [MemoryError, ZeroDivisionError])
def test_a_projection_that_breaks_ends_the_process(error):
    fake = Fake(most=10_000)

    def broken():
        raise error

    fake.hang = broken
    with pytest.raises(error):
        loop(fake).run()


def test_a_ledger_that_is_away_during_a_projection_does_not_end_the_process():
    fake = Fake(most=20)

    def away():
        raise Unavailable("the ledger is locked")

    fake.hang = away
    assert loop(fake).run()
    assert fake.projections > 1


def test_freshness_is_watched_beside_the_rollouts_and_holds_none_up(monkeypatch, caplog):
    monkeypatch.setattr(controller, "WATCH_SECONDS", 0.001)
    fake, looks, released = Fake(most=10**9), [], threading.Event()

    def watch():
        looks.append(fake.ticks)
        if len(looks) == 1:
            raise RuntimeError("a bug")  # the next look comes all the same
        fake.most = fake.ticks + 50
        released.wait()

    try:
        assert loop(fake, watch=watch).run()
        assert (len(looks), fake.stepped_down) == (2, True)
        assert fake.ticks >= 50
        assert [record.getMessage() for record in caplog.records] == ["freshness cannot be watched"]
    finally:
        released.set()


def test_who_does_not_lead_leaves_freshness_to_who_does(monkeypatch):
    monkeypatch.setattr(controller, "WATCH_SECONDS", 0.001)
    fake, looks = Fake(most=20), []
    fake.leading = False
    loop(fake, watch=lambda: looks.append(1)).run()
    assert looks == []


def test_row_17_a_refresh_that_never_ran_raises_the_alert_by_itself(tmp_path, caplog):
    """Nothing but the controller looks: no pipeline, no command."""
    services = tmp_path / "services"
    shutil.copytree(HOME / "services" / PRODUCT, services / PRODUCT)
    (services / "broken").mkdir()
    (services / "broken" / "product.yaml").write_text("{")
    platform = Platform.from_settings(Settings(home=tmp_path, state=tmp_path / "state"))
    made = manifest()
    digest = platform.ledger.register_release(made, "maker")
    platform.ledger.promote(PRODUCT, digest, expected_generation=0, actor="boss", reason="a test")
    held = SourceRecord(as_of="2026-01-01T00:00:00.000000+00:00", documents=3, chunks=12, probe="probe1")
    record = BuildRecord(index=made.assistant.index, made_at=held.as_of, avg_len=1.0, sources={"repository": held})
    folder = build_folder(platform.settings.product_dir(PRODUCT), record.index.build)
    write_file(folder / BUILD, record.model_dump_json().encode())
    watch = FreshnessWatch(platform)
    for _ in range(3):
        watch()
    told = [event.payload for event in platform.ledger.events(PRODUCT, freshness.EVENT)]
    assert [(one["source"], one["state"]) for one in told] == [("repository", "breached")]
    messages = [record.getMessage() for record in caplog.records if record.name == controller.__name__]
    assert messages == ["freshness cannot be watched"], "of the broken product, once"
