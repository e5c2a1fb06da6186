"""What happens to the platform's processes when something goes wrong. Small real services under the real supervisor."""

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict

import psutil
import pytest

from patience import PATIENCE
from plinth.errors import Conflict, InvalidInput, NotFound, Unavailable
from plinth.runtime import embedded, leftovers
from plinth.runtime.port import Service
from plinth.runtime.ports import is_free
from plinth.runtime.supervisor import Supervisor
from plinth.settings import Settings
from plinth.wiring import Platform

# Answers 200. With "fork" its worker holds the port in a session of its own and shrugs off SIGTERM, as a killed
# parent's workers do.
SERVER = """
import http.server, os, signal, sys, time
class Ok(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *a): pass
if "fork" in sys.argv and os.fork():
    while True: time.sleep(1)
if "fork" in sys.argv:
    os.setsid(); signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("serving", flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Ok).serve_forever()
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def small(name, *words, port=None):
    port = port or free_port()
    return Service(
        name, (sys.executable, "-c", SERVER, str(port), *words), f"http://127.0.0.1:{port}",
        f"http://127.0.0.1:{port}/healthz", port, f"PLINTH_{name.upper()}_PORT",
    )  # fmt: skip


@pytest.fixture
def platform(tmp_path):
    platform = make_platform(tmp_path)
    yield platform
    embedded.down(platform)


def make_platform(tmp_path, state=None):
    (tmp_path / "services").mkdir(exist_ok=True)
    return Platform.from_settings(Settings(home=tmp_path, state=state or tmp_path / "state"))


def wait_until(condition, patience=PATIENCE):
    until = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.1)


def service(platform, name):
    return next(item for item in embedded.status(platform).services if item.name == name)


def left(platform):
    return leftovers.find(platform.settings.state_dir)


def test_a_killed_service_is_started_again_on_the_same_port_and_counted(platform):
    services = [small("one"), small("two")]
    before = {item.name: item for item in embedded.up(platform, services=services).services}
    assert [(item.health, item.restarts) for item in before.values()] == [("healthy", 0)] * 2
    os.kill(before["one"].pid, signal.SIGKILL)
    wait_until(
        lambda: service(platform, "one").health == "healthy" and service(platform, "one").pid != before["one"].pid
    )
    after = service(platform, "one")
    assert (after.restarts, after.url) == (1, before["one"].url)
    assert service(platform, "two") == before["two"]


def test_a_killed_parent_s_worker_does_not_keep_the_port(platform):
    before = embedded.up(platform, services=[small("forking", "fork")]).services[0]
    worker = psutil.Process(before.pid).children()[0]
    os.kill(before.pid, signal.SIGKILL)
    wait_until(lambda: service(platform, "forking").pid not in (None, before.pid))
    wait_until(lambda: service(platform, "forking").health == "healthy" and not worker.is_running())


def test_down_leaves_nothing_behind_not_even_a_grandchild_that_shrugs_off_sigterm(platform):
    services = [small("forking", "fork"), small("one")]
    embedded.up(platform, services=services)
    assert len(left(platform)) == 4
    assert embedded.down(platform) == 4
    assert left(platform) == []
    assert all(is_free("127.0.0.1", item.port) for item in services)
    assert {item.health for item in embedded.status(platform).services} <= {"stopped"}
    assert embedded.down(platform) == 0


def test_a_killed_supervisor_s_services_are_found_and_ended(platform):
    embedded.up(platform, services=[small("forking", "fork"), small("one")])
    supervisor = Supervisor(platform.settings.state_dir)
    os.kill(supervisor.pid(), signal.SIGKILL)
    wait_until(lambda: supervisor.pid() is None)
    assert left(platform)
    assert embedded.down(platform) >= 1
    assert left(platform) == []


def test_up_after_a_killed_supervisor_starts_cleanly_on_the_same_ports(platform):
    services = [small("forking", "fork")]
    embedded.up(platform, services=services)
    os.kill(Supervisor(platform.settings.state_dir).pid(), signal.SIGKILL)
    again = embedded.up(platform, services=services)
    assert [(item.health, item.restarts) for item in again.services] == [("healthy", 0)]
    assert len(left(platform)) == 3


def test_a_second_up_changes_nothing_and_one_with_other_settings_is_refused(platform):
    services = [small("one")]
    first = embedded.up(platform, services=services)
    assert embedded.up(platform, services=services) == first
    with pytest.raises(Conflict, match="already running, with other settings") as info:
        embedded.up(platform, services=[small("one"), small("two")])
    assert "plinth down" in info.value.hint
    assert embedded.status(platform) == first


def test_of_two_ups_at_the_same_time_one_starts_it_and_none_starts_it_twice(platform):
    services = [small("one")]
    outcomes = []

    def start():
        try:
            outcomes.append(embedded.up(platform, services=services).services[0].pid)
        except Conflict as error:
            outcomes.append(error.what)

    threads = [threading.Thread(target=start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pid = service(platform, "one").pid
    assert set(outcomes) <= {pid, "another `plinth up` or `plinth down` is at work on this state folder"}
    assert pid in outcomes
    assert len(left(platform)) == 2


def test_a_port_in_use_is_refused_before_anything_starts_and_named(platform):
    taken = small("two")
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", taken.port))
        holder.listen()
        with pytest.raises(Conflict, match=f"port {taken.port} of two is in use by process {os.getpid()}") as info:
            embedded.up(platform, services=[small("one"), taken])
    assert "PLINTH_TWO_PORT" in info.value.hint
    assert left(platform) == []


def test_two_services_on_one_port_are_refused(platform):
    one = small("one")
    with pytest.raises(InvalidInput, match=f"the same port {one.port}"):
        embedded.up(platform, services=[one, small("two", port=one.port)])


def test_a_service_that_does_not_stay_up_is_an_error_with_its_last_words(platform):
    broken = Service("broken", (sys.executable, "-c", "raise SystemExit('no model to serve')"), "", "never", None)
    with pytest.raises(Unavailable, match="no model to serve") as info:
        embedded.up(platform, services=[broken], timeout=5)
    assert "plinth logs broken" in info.value.hint


def test_a_state_folder_deleted_under_a_running_platform_is_a_clean_end(platform):
    services = [small("one")]
    embedded.up(platform, services=services)
    shutil.rmtree(platform.settings.state_dir)
    assert all(item.health in {"stopped", "healthy"} for item in embedded.status(platform).services)
    assert embedded.down(platform) == 2
    assert left(platform) == []
    assert embedded.up(platform, services=services).healthy


def test_a_service_is_started_again_without_its_state_folder_too(platform, tmp_path):
    before = embedded.up(platform, services=[small("one")]).services[0]
    platform.settings.state_dir.rename(tmp_path / "moved")
    os.kill(before.pid, signal.SIGKILL)
    port = int(before.url.rpartition(":")[2])
    wait_until(lambda: before.pid not in {process.pid for process in left(platform)} and not is_free("127.0.0.1", port))
    assert len(left(platform)) == 2


def test_a_state_path_longer_than_a_socket_address_works(tmp_path):
    platform = make_platform(tmp_path, tmp_path / ("long" * 25) / ("path" * 25))
    try:
        assert embedded.up(platform, services=[small("one")]).healthy
        folder = Supervisor(platform.settings.state_dir).socket.parent
        assert folder.stat().st_mode & 0o777 == 0o700
        assert embedded.down(platform) == 2
        assert not folder.exists()
    finally:
        embedded.down(platform)


def test_a_state_folder_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Unavailable, match="cannot be written"):
        embedded.up(make_platform(tmp_path, tmp_path / "file" / "state"), services=[small("one")])


def test_logs_of_a_service_are_kept_and_a_wrong_name_is_told_the_right_ones(platform):
    embedded.up(platform, services=[small("one")])
    wait_until(lambda: "serving" in embedded.log_file(platform, "one").read_text())
    with pytest.raises(NotFound) as info:
        embedded.log_file(platform, "../../etc/passwd")
    assert "one" in info.value.hint


FOREGROUND = """
import json, sys
from pathlib import Path
from plinth.cli import platform as cli
from plinth.cli.output import Output
from plinth.runtime import embedded
from plinth.runtime.port import Service
from plinth.runtime.profiles import profile
from plinth.settings import Settings
from plinth.wiring import Platform

home = Path(sys.argv[1])
platform = Platform.from_settings(Settings(home=home, state=home / "state"))
embedded.up(platform, services=[Service(**json.loads(sys.argv[2]))])
cli._stay(profile(platform), Output())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_in_the_foreground_stops_everything(platform, tmp_path, number):
    given = json.dumps(asdict(small("one")))
    command = [sys.executable, "-c", FOREGROUND, str(tmp_path), given]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        readable, _, _ = select.select([process.stdout], [], [], PATIENCE)
        assert readable, "nothing was said"
        assert "Ctrl-C" in process.stdout.readline()
        process.send_signal(number)
        assert process.wait(PATIENCE) == 0
        assert left(platform) == []
    finally:
        process.kill()
        process.communicate()
