import time

import pytest

from plinth.runtime import doctor
from plinth.settings import Settings
from plinth.wiring import Platform


@pytest.fixture
def platform(tmp_path):
    (tmp_path / "services").mkdir()
    return Platform.from_settings(Settings(home=tmp_path))


def test_this_machine_has_the_versions_that_the_pins_ask_for(platform):
    assert [finding.level for finding in doctor.versions()] == ["ok"]
    assert doctor.python().level == "ok"


def test_a_version_outside_its_pin_is_named_with_what_to_do(monkeypatch):
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda _name: ["pydantic<1", "no-such-package"])
    found = list(doctor.versions())
    assert [finding.level for finding in found] == ["error", "error"]
    assert "pydantic" in found[0].what
    assert "<1" in found[0].what
    assert found[1].what == "no-such-package is not installed"


def test_an_address_that_others_can_reach_is_an_error(tmp_path):
    open_to_all = Platform.from_settings(Settings(home=tmp_path, host="0.0.0.0"))
    assert doctor.address(open_to_all).level == "error"
    assert doctor.address(Platform.from_settings(Settings(home=tmp_path, host="localhost"))).level == "ok"


def test_a_clock_before_this_code_was_written_is_an_error(platform, monkeypatch):
    assert doctor.clock(platform).level == "ok"
    monkeypatch.setattr(doctor.time, "time", lambda: 0.0)
    assert doctor.clock(platform).level == "error"


def test_a_disk_with_another_clock_is_a_warning(platform, monkeypatch):
    now = time.time()
    monkeypatch.setattr(doctor.time, "time", lambda: now + 90)
    assert doctor.clock(platform).level == "warning"


def test_a_state_folder_behind_a_file_is_an_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert doctor.state(Platform.from_settings(Settings(state=tmp_path / "file" / "state"))).level == "error"


def test_little_disk_space_is_told_before_it_runs_out(platform, monkeypatch):
    usage = doctor.shutil.disk_usage("/")
    for free, level in ((doctor.GIB // 2, "error"), (3 * doctor.GIB, "warning"), (50 * doctor.GIB, "ok")):
        monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _path, free=free: usage._replace(free=free))
        assert {finding.level for finding in doctor.disk(platform)} == {level}


def test_nothing_running_is_no_error_and_says_how_to_start(platform):
    found = list(doctor.health(platform))
    assert [(finding.level, finding.next) for finding in found] == [("ok", "plinth up")]
    assert doctor.stray(platform).level == "ok"
