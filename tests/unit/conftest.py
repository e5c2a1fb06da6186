"""Unit tests run with sockets disabled: what needs a network is no unit test."""

import pytest
import pytest_socket
import urllib3  # noqa: F401  (urllib3-future, which grafana-client brings, opens sockets when it is imported)


@pytest.fixture(autouse=True)
def no_network():
    pytest_socket.disable_socket(allow_unix_socket=True)
    yield
    pytest_socket.enable_socket()
