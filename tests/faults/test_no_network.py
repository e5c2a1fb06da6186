"""After installing, nothing needs a network: proven in a network namespace whose only interface is loopback."""

import json
import shutil
import subprocess
import sys

import pytest

from story import PLINTH, ROOT, environment

# Brings loopback up by its ioctl (SIOCSIFFLAGS), so that no extra package is needed, then becomes the command.
ISOLATED = """
import fcntl, os, socket, struct, sys
with socket.socket() as s:
    fcntl.ioctl(s, 0x8914, struct.pack("16sh22x", b"lo", 0x1 | 0x40))
os.execv(sys.argv[1], sys.argv[1:])
"""


def can_isolate():
    try:
        return subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not can_isolate(), reason="needs `unshare --net`, which takes root on this machine"),
]


def isolated(env, *words):
    return subprocess.run(
        ["unshare", "--net", sys.executable, "-c", ISOLATED, str(PLINTH), *words],
        cwd=ROOT, env=env, capture_output=True, text=True, timeout=600,
    )  # fmt: skip


def test_the_namespace_really_has_no_way_out(tmp_path):
    probe = "import socket\nsocket.create_connection(('192.0.2.1', 80), timeout=5)"
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", ISOLATED, sys.executable, "-c", probe],
        capture_output=True,
        text=True,
    )
    assert "Network is unreachable" in done.stderr


def test_a_model_is_trained_judged_and_released_without_a_network(story, tmp_path):
    env = environment(tmp_path / "state")
    for name in ("cache", "artifacts", "products/flight-delays/lake", "products/flight-delays/features",
                 "products/flight-delays/online", "products/flight-delays/datasets"):  # fmt: skip
        shutil.copytree(story.state / name, tmp_path / "state" / name)
    done = isolated(
        env, "pipeline", "run", "flight-delays", "train", "--inline", "--param", "as_of=2013-10-15", "--json"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["output"]["release"]


def test_the_services_start_answer_and_stop_without_a_network(tmp_path):
    env = environment(tmp_path / "state")
    # One namespace for all three: what is started in one cannot be reached from another.
    script = f"set -e; {PLINTH} up --detach >&2; {PLINTH} status --json; {PLINTH} down >&2"
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", ISOLATED, "/bin/sh", "-c", script],
        cwd=ROOT, env=env, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    health = {service["name"]: service["health"] for service in json.loads(done.stdout)["services"]}
    assert set(health.values()) == {"healthy"}, health
