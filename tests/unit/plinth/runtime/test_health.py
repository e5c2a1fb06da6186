import pytest

from plinth.runtime.health import GRACE_SECONDS, look, restarts
from plinth.runtime.port import Service, Status

SERVICE = Service("pipelines", ("python",), "http://127.0.0.1:1/deployments", "pipelines.ready")


def process(statename, age=5, pid=42):
    return {"pipelines": {"statename": statename, "pid": pid, "start": 1000, "now": 1000 + age}}


@pytest.mark.parametrize(
    ("processes", "ready", "health"),
    [
        ({}, "42", "stopped"),
        (process("STOPPED", pid=0), "42", "stopped"),
        (process("EXITED", pid=0), "", "stopped"),
        (process("FATAL", pid=0), "", "unhealthy"),
        (process("BACKOFF", pid=0), "42", "starting"),
        (process("RUNNING"), "42", "healthy"),
        (process("RUNNING"), "41", "starting"),
        (process("RUNNING", age=GRACE_SECONDS + 1), "41", "unhealthy"),
    ],
)
def test_health_is_what_the_supervisor_and_the_service_say_together(tmp_path, processes, ready, health):
    (tmp_path / "pipelines.ready").write_text(ready)
    assert look([SERVICE], processes, tmp_path)[0].health == health


def test_restarts_are_the_starts_less_the_first(tmp_path):
    assert restarts("one", tmp_path) == 0
    (tmp_path / "one.starts").write_text("10 1.0\n11 2.0\n12 3.0\n")
    assert restarts("one", tmp_path) == 2


def test_the_status_has_exactly_the_published_fields(tmp_path):
    status = Status("embedded", tuple(look([SERVICE], {}, tmp_path)))
    assert status.as_dict() == {
        "profile": "embedded",
        "services": [
            {
                "name": "pipelines",
                "url": "http://127.0.0.1:1/deployments",
                "health": "stopped",
                "pid": None,
                "restarts": 0,
            }
        ],
    }
    assert not status.healthy
