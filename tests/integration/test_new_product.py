"""A product fresh from the template: its service starts as `plinth up` starts it, and answers."""

import json
import os
import subprocess
import time
import urllib.error
import urllib.request

from patience import PATIENCE
from plinth.runtime.services import product_service
from plinth.settings import Settings
from plinth.wiring import Platform
from story import free_ports


def call(url, payload=None):
    body = None if payload is None else json.dumps(payload).encode()
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError:
        return 0, b""


def test_the_service_of_a_new_product_starts_and_answers(tmp_path, monkeypatch):
    from plinth.cli.main import main

    (tmp_path / "services").mkdir()
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)
    assert main(["product", "new", "fraud-alerts", "--team", "payments-ml"]) == 0
    port = free_ports(1)[0]
    settings = Settings(home=tmp_path, state=tmp_path / "state", service_ports={"fraud-alerts": port})
    model = settings.product_dir("fraud-alerts") / "model.json"
    model.parent.mkdir(parents=True)
    model.write_text('{"north": 0.25}')
    service = product_service(settings, Platform(settings).products.get("fraud-alerts").spec)
    sources = {
        "PYTHONPATH": str(tmp_path / "services" / "fraud-alerts" / "src"),
        "PLINTH_STATE": str(tmp_path / "state"),
    }
    process = subprocess.Popen(service.argv, env={**os.environ, **service.env, **sources})
    try:
        until = time.monotonic() + PATIENCE
        while call(service.health)[0] != 200:
            assert process.poll() is None, "the service ended by itself"
            assert time.monotonic() < until
            time.sleep(0.2)
        assert call(f"{service.url}/predict", {"segment": "north"}) == (200, b'{"probability": 0.25}')
        assert call(f"{service.url}/predict", {"segment": "nowhere"})[0] == 400
    finally:
        process.terminate()
        process.wait(PATIENCE)
