"""Unit tests run with sockets disabled: what needs a network is no unit test."""

import pytest
import pytest_socket


@pytest.fixture(autouse=True)
def no_network():
    pytest_socket.disable_socket(allow_unix_socket=True)
    yield
    pytest_socket.enable_socket()
