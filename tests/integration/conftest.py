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
