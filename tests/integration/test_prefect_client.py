"""No proxy of the environment sees the auth string of a Prefect server on this machine."""

import os
import socket
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from unittest import mock

import httpx
import pytest
from pydantic import SecretStr

from plinth.errors import Unavailable
from plinth.pipelines.prefect_client import check_server, prepare_environment, server_answers

AUTH = SecretStr("user:secret")


@pytest.fixture
def listener():
    """Starts servers that note what they are asked, and by whom."""
    running = []

    def start():
        asked = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                asked.append((self.path, self.headers.get("Authorization")))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=server.serve_forever, daemon=True).start()
        running.append(server)
        return f"http://127.0.0.1:{server.server_port}", asked

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.fixture
def proxy(listener):
    """What a proxy of the environment is asked."""
    url, asked = listener()
    given = dict.fromkeys(("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"), url)
    with mock.patch.dict(os.environ, given):
        for name in ("no_proxy", "NO_PROXY"):
            os.environ.pop(name, None)
        yield asked


def test_the_auth_string_does_not_pass_a_proxy_of_the_environment(listener, proxy):
    url, asked = listener()
    check_server(f"{url}/api", AUTH)
    assert server_answers(f"{url}/api")
    assert [path for path, _ in asked] == ["/api/admin/version", "/api/health"]
    assert [bool(shown) for _, shown in asked] == [True, False]
    assert proxy == []


def test_nor_does_it_where_no_server_listens(proxy):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(Unavailable, match="no Prefect server answers"):
            check_server(f"http://127.0.0.1:{taken.getsockname()[1]}/api", AUTH)
    assert proxy == []


def test_clients_that_trust_the_environment_pass_the_proxy_by_too(listener, proxy, tmp_path):
    """Prefect's own are such: its HTTP client is httpx's, its web sockets ask the standard library."""
    url, asked = listener()
    httpx.get(url)
    assert len(proxy) == 1, "the proxy is not used at all: the test shows nothing"
    os.environ["no_proxy"] = "registry.example"
    for _ in range(2):
        prepare_environment(tmp_path, f"{url}/api", AUTH)
    httpx.get(url)
    assert (len(proxy), len(asked)) == (1, 1)
    assert urllib.request.proxy_bypass("127.0.0.1")
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == "registry.example,127.0.0.1"
