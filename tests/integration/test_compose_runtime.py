"""The compose profile's commands on a real Docker engine: a small project of stand-ins, and a second beside it."""

import json
import os
import pty
import select
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import servers
from patience import PATIENCE

IMAGE = "debian:bookworm-slim"
COMPOSE = f"""
name: ${{COMPOSE_PROJECT_NAME:?run plinth init compose}}
services:
  well:
    image: {IMAGE}
    init: true
    restart: unless-stopped
    environment: {{SECRET: "${{VALKEY_PASSWORD:?run plinth init compose}}"}}
    command: ["bash", "-c", "echo hello of well; touch /data/kept /well; while sleep 0.5; do echo tick; done"]
    healthcheck: {{test: ["CMD", "test", "-e", "/well"], interval: 1s, retries: 2}}
    ports: ["127.0.0.1:${{MLFLOW_PORT:-5001}}:5000"]
    volumes: ["data:/data"]
    stop_grace_period: 1s
  other:
    image: {IMAGE}
    init: true
    command: ["sleep", "1000"]
    stop_grace_period: 1s
  never:
    image: {IMAGE}
    profiles: [llm]
    command: ["sleep", "1000"]
  job:
    image: {IMAGE}
    restart: "no"
    command: ["true"]
volumes: {{data: {{}}}}
"""


class Stack:
    """A workspace with a compose file, and `plinth` in it."""

    def __init__(self, home, project, offset):
        self.home, self.project = home, project
        (home / "services").mkdir(parents=True)
        (home / "pyproject.toml").touch()
        (home / "compose.yaml").write_text(COMPOSE)
        self.env = {
            key: text for key, text in os.environ.items() if not key.startswith(("PLINTH_", "COMPOSE_", "MLFLOW_"))
        }
        self("init", "compose", "--project", project, "--port-offset", str(offset))

    def __call__(self, *words, code=0, **changed):
        done = subprocess.run(
            [sys.executable, "-m", "plinth.cli.main", *words], cwd=self.home, env={**self.env, **changed},
            capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return json.loads(done.stdout) if "--json" in words else done.stdout + done.stderr

    def compose(self, *words, code=0, **changed):
        return self("--profile", "compose", *words, code=code, **changed)

    def services(self):
        return {item["name"]: item for item in self.compose("status", "--json")["services"]}

    def docker(self, *words):
        return subprocess.run(["docker", *words], capture_output=True, text=True, check=True, timeout=PATIENCE).stdout

    def volumes(self):
        return self.docker("volume", "ls", "-q", "--filter", f"label=com.docker.compose.project={self.project}").split()

    def container(self, service):
        return f"{self.project}-{service}-1"

    def until(self, service, health):
        end = time.monotonic() + PATIENCE
        while (found := self.services()[service])["health"] != health:
            assert time.monotonic() < end, found
            time.sleep(0.5)
        return found

    def remove(self):
        subprocess.run(["docker", "compose", "-p", self.project, "down", "-v", "-t", "1"], cwd="/", capture_output=True)


@pytest.fixture(scope="module")
def stacks(tmp_path_factory):
    """Two workspaces, each with a project of its own."""
    if why := servers.compose() or servers.missing(IMAGE):
        pytest.skip(why)
    mark = os.getpid()
    folders = {n: tmp_path_factory.mktemp(f"workspace{n}") / "w" for n in (1, 2)}
    made = [Stack(folder, f"plinth-test-{mark}-{n}", 20000 + 1000 * n) for n, folder in folders.items()]
    yield made
    for stack in made:
        stack.remove()


@pytest.fixture(scope="module")
def stack(stacks):
    return stacks[0]


def test_before_the_first_up_every_enabled_service_is_stopped_and_has_its_address(stack):
    found = stack.compose("status", "--json")
    assert found["profile"] == "compose"
    assert [item["name"] for item in found["services"]] == ["other", "well"]
    assert {item["health"] for item in found["services"]} == {"stopped"}
    assert set(found["services"][0]) == {"name", "url", "health", "pid", "restarts"}
    assert stack.services()["well"]["url"] == "http://127.0.0.1:26001"
    assert stack.compose("down", "--json") == {"ended": 0}
    assert "plinth --profile compose up" in stack.compose("status")
    assert "nothing was started yet" in stack.compose("logs", "well", code=2)


def test_a_port_in_use_is_refused_before_anything_starts_and_names_its_variable(stack):
    import socket

    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 26001))
        holder.listen()
        said = stack.compose("up", code=1)
        assert "port 26001 of well is in use by process" in said
        assert "MLFLOW_PORT in .env" in said
        findings = stack.compose("doctor", "--json", code=1)["findings"]
        (port,) = [item for item in findings if item["check"] == "ports" and item["level"] == "error"]
        assert "MLFLOW_PORT" in port["next"]
    assert {item["health"] for item in stack.services().values()} == {"stopped"}


def test_up_waits_for_health_and_says_where_what_is(stack):
    found = {item["name"]: item for item in stack.compose("up", "--json")["services"]}
    assert {item["health"] for item in found.values()} == {"healthy"}
    assert found["well"]["url"] == "http://127.0.0.1:26001"
    assert found["well"]["pid"] == int(stack.docker("inspect", "-f", "{{.State.Pid}}", stack.container("well")))
    assert found["other"]["url"] == ""
    assert "already running" in stack.compose("up")


def test_the_profile_may_be_named_by_the_environment_too(stack):
    assert stack("status", "--json", PLINTH_PROFILE="compose") == stack.compose("status", "--json")
    assert stack("status", "--json")["profile"] == "embedded"
    assert stack("--profile=embedded", "status", "--json", PLINTH_PROFILE="compose")["profile"] == "embedded"


def test_a_container_that_is_not_well_stops_or_waits_says_so(stack):
    stack.docker("exec", stack.container("well"), "rm", "/well")
    assert stack.until("well", "unhealthy")["pid"]
    said = [item["what"] for item in stack.compose("doctor", "--json", code=1)["findings"]]
    assert any(text.startswith("well is unhealthy: tick") for text in said)
    stack.docker("exec", stack.container("well"), "touch", "/well")
    stack.until("well", "healthy")
    stack.docker("stop", "-t", "1", stack.container("other"))
    assert stack.services()["other"] == {"name": "other", "url": "", "health": "stopped", "pid": None, "restarts": 0}
    stack.compose("up")
    stack.until("other", "healthy")


def test_a_container_that_dies_is_started_again_and_counted(stack):
    before = stack.services()["well"]
    # From inside: after `docker kill` the engine would leave it be, as something that somebody wanted to end.
    subprocess.run(["docker", "exec", stack.container("well"), "bash", "-c", "kill -9 -1"], capture_output=True)
    end = time.monotonic() + PATIENCE
    while (now := stack.services()["well"])["pid"] in (None, before["pid"]) or now["health"] != "healthy":
        assert time.monotonic() < end, now
        time.sleep(0.5)
    assert now["restarts"] == before["restarts"] + 1


def test_a_service_that_starts_slowly_is_starting(stack):
    slow = COMPOSE.replace("touch /data/kept /well;", "").replace(
        "interval: 1s, retries: 2", "interval: 1s, retries: 2, start_period: 600s"
    )
    (stack.home / "compose.yaml").write_text(slow)
    said = stack.compose("up", "--timeout", "3", code=1)
    assert "service 'well' is starting: " in said
    assert "logs well" in said
    assert stack.services()["well"]["health"] == "starting"
    (stack.home / "compose.yaml").write_text(COMPOSE)
    stack.compose("up")


def test_logs_are_the_containers_own_newest_last(stack):
    assert "hello of well" in stack.compose("logs", "well", "--lines", "1000")
    found = stack.compose("logs", "well", "--lines", "2", "--json")
    assert (found["name"], found["file"], len(found["lines"])) == ("well", None, 2)
    assert "there are: " in stack.compose("logs", "nobody", code=2)


def test_following_goes_on_across_a_restart_of_the_container(stack):
    process = subprocess.Popen(
        [sys.executable, "-m", "plinth.cli.main", "--profile", "compose", "logs", "well", "-f", "-n", "0"],
        cwd=stack.home, env=stack.env, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    lines = []
    reader = threading.Thread(target=lambda: lines.extend(iter(process.stdout.readline, "")), daemon=True)
    reader.start()
    try:
        wait_for(lambda: "tick\n" in lines)
        stack.docker("restart", "-t", "1", stack.container("well"))
        wait_for(lambda: "hello of well\n" in lines)
    finally:
        process.terminate()
        process.wait(PATIENCE)


def wait_for(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


def test_doctor_names_engine_compose_env_and_each_container(stack):
    report = stack.compose("doctor", "--json")
    said = " ".join(item["what"] for item in report["findings"])
    assert "Docker engine " in said
    assert "Docker Compose " in said
    assert ".env is complete" in said
    assert "well is healthy" in said
    (stack.home / ".env").chmod(0o644)
    said = stack.compose("doctor", code=1)
    assert "others" in said
    assert "chmod 600" in said
    (stack.home / ".env").chmod(0o600)


def test_a_stale_env_is_named_and_init_adds_what_is_missing_alone(stack):
    path = stack.home / ".env"
    whole = path.read_text()
    path.write_text("".join(line for line in whole.splitlines(True) if not line.startswith("VALKEY_PASSWORD=")))
    said = stack.compose("status", code=2)
    assert "VALKEY_PASSWORD" in said
    assert "plinth init compose" in said
    assert "VALKEY_PASSWORD" in stack.compose("doctor", code=1)
    assert stack("init", "compose", "--json")["added"] == ["VALKEY_PASSWORD"]
    stack.compose("status")
    path.write_text(whole)


def test_another_workspace_of_the_same_project_name_is_refused(stack, stacks):
    other = stacks[1]
    taken = {"COMPOSE_PROJECT_NAME": stack.project}
    for words in (("up",), ("down",), ("status",)):
        said = other.compose(*words, code=1, **taken)
        assert f"already that of another workspace, {stack.home}" in said
    assert "another workspace" in other("reset", "compose", "--yes", code=1, **taken)
    assert stack.services()["well"]["health"] == "healthy"


def test_without_an_engine_the_error_says_what_to_do(stack, tmp_path):
    said = stack.compose("status", code=1, DOCKER_HOST=f"unix://{tmp_path}/none.sock")
    assert "no Docker engine answers" in said
    assert "docker info" in said
    assert "no Docker engine answers" in stack.compose("doctor", code=1, DOCKER_HOST=f"unix://{tmp_path}/none.sock")


def test_down_ends_the_containers_and_keeps_the_volumes_even_with_a_broken_file(stack):
    (stack.home / "compose.yaml").write_text("services: {well: {image: [}")
    assert stack.compose("down", "--json")["ended"] == 3
    (stack.home / "compose.yaml").write_text(COMPOSE)
    assert stack.volumes() == [f"{stack.project}_data"]
    assert {item["health"] for item in stack.services().values()} == {"stopped"}


def test_reset_asks_and_a_wrong_name_removes_nothing(stack):
    assert "nobody can be asked" in stack("reset", "compose", code=2)
    assert stack("reset", "compose", "--json", code=2)["error"]["kind"] == "InvalidInput"
    assert "nothing was removed" in typed(stack, "yes\n", 3)
    assert stack.volumes()


def test_reset_removes_exactly_this_projects_data(stacks):
    stack, other = stacks
    for each in stacks:
        each.compose("up")
        (each.home / ".plinth" / "compose" / "products" / "x").write_text("kept until reset")
    said = typed(stack, f"{stack.project}\n", 0)
    assert f"{stack.project}_data" in said
    assert stack.volumes() == []
    assert not (stack.home / ".plinth" / "compose").exists()
    assert (stack.home / ".env").exists()
    assert {item["health"] for item in stack.services().values()} == {"stopped"}
    assert other.services()["well"]["health"] == "healthy"
    assert other.volumes() == [f"{other.project}_data"]
    assert (other.home / ".plinth" / "compose" / "products" / "x").exists()
    done = other("reset", "compose", "--yes", "--env", "--json")
    assert (done["project"], done["containers"], done["env_removed"]) == (other.project, 3, True)
    assert not (other.home / ".env").exists()
    assert "plinth init compose" in other("reset", "compose", "--yes", code=2)


def typed(stack, answer, code):
    """`plinth reset compose` on a terminal, with an answer typed."""
    master, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "plinth.cli.main", "reset", "compose"], cwd=stack.home, env=stack.env,
        stdin=terminal, stdout=terminal, stderr=terminal,
    )  # fmt: skip
    os.close(terminal)
    os.write(master, answer.encode())
    said, end = b"", time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if select.select([master], [], [], 0.2)[0]:
            try:
                piece = os.read(master, 4096)
            except OSError:
                break
            if not piece:
                break
            said += piece
        elif process.poll() is not None:
            break
    assert process.wait(PATIENCE) == code, said
    os.close(master)
    return said.decode()


def test_a_story_takes_the_stack_as_it_stands_and_never_starts_it(tmp_path, stacks):
    from plinth.errors import Unavailable
    from plinth.runtime.compose import Compose, Project

    stack = stacks[0]
    with pytest.raises(Unavailable, match="not healthy: other, well"):
        Compose(Project(Path(stack.home))).ensure()
    assert stack.docker("ps", "-aq", "--filter", f"label=com.docker.compose.project={stack.project}") == ""
