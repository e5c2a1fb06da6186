"""One Prefect server for all integration tests, started the way `plinth up` starts it."""

import socket

import pytest

from plinth.runtime import embedded, prefect
from plinth.settings import Settings
from plinth.wiring import Platform


@pytest.fixture(scope="session")
def free_port():
    """A function that gives a port nothing listens on."""

    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    return find


@pytest.fixture(scope="session")
def prefect_platform(tmp_path_factory, free_port):
    """A platform whose Prefect server runs; its workspace has no products."""
    home = tmp_path_factory.mktemp("home")
    (home / "services").mkdir()
    settings = Settings(home=home, state=home / "state", prefect_port=free_port())
    platform = Platform.from_settings(settings)
    try:
        embedded.up(platform, services=[prefect.server(settings)])
        yield platform
    finally:
        embedded.down(platform)


@pytest.fixture(scope="session")
def make_product_manifest():
    """A factory of small product manifests with one pipeline."""

    def make(name: str, *, entry: str, port: int = 3999, service: str = "nothing.here:Service") -> str:
        return f"""\
apiVersion: plinth/v1
kind: Product
name: {name}
title: A product for tests
description: A product for tests.
tier: 3
owner: {{team: tests, contact: tests@example.com, on_call: nobody}}
service_levels:
  - {{name: availability, indicator: availability, objective: 0.9, window: 28d}}
budget: {{monthly: 0, currency: USD}}
contracts: [contracts/none.odcs.yaml]
pipelines:
  - {{name: train, entry: "{entry}", description: A pipeline for tests., timeout: 1m}}
model: {{name: {name}, feature_service: none}}
serving: {{service: "{service}", port: {port}}}
gates:
  - {{kind: contract}}
monitoring:
  {{drift_psi: 0.2, drifted_features: 1, calibration_window: 14d, calibration_gap: 0.1, minimum_labels: 10,
    cool_down: 1d}}
"""

    return make
