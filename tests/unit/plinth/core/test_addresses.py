"""Addresses of endpoints: what is one, what gives a key away, what stays on this machine."""

import pytest
from pydantic import ValidationError

from plinth.core.addresses import is_own_machine, past_proxies
from plinth.core.assistants import Embedding, Endpoint


@pytest.mark.parametrize("kind", [Endpoint, Embedding])
@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://user:heron@models.example/v1", "credentials"), ("https://heron@models.example/v1", "credentials"),
        ("models.example/v1", "not an address"), ("file:///etc/passwd", "not an address"),
        ("http://", "not an address"), ("http://models.example:99999/v1", "not an address"), ("", "not an address"),
    ],
)  # fmt: skip
def test_an_address_without_a_host_or_with_credentials_is_refused(kind, url, says):
    with pytest.raises(ValidationError, match=says):
        kind(provider="openai", model="small", base_url=url)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000/v1", "https://models.example/v1", "http://[::1]:8000/v1"])
def test_an_address_is_kept_as_it_is(url):
    assert Endpoint(provider="openai", model="small", base_url=url).base_url == url


@pytest.mark.parametrize(
    ("url", "own"),
    [
        ("http://127.0.0.1:8000/v1", True), ("http://127.9.9.9/v1", True), ("http://LOCALHOST/v1", True),
        ("http://[::1]:8000/v1", True), ("https://models.example/v1", False), ("http://10.0.0.1/v1", False),
        ("http://127.0.0.1.models.example/v1", False), ("http://localhost@models.example/v1", False),
    ],
)  # fmt: skip
def test_what_leads_to_this_machine_is_known(url, own):
    assert is_own_machine(url) is own


@pytest.mark.parametrize(
    ("url", "given", "wanted"),
    [
        ("http://127.0.0.1:4200/api", {}, "127.0.0.1"),
        ("http://[::1]:4200/api", {"NO_PROXY": "a, b"}, "a,b,::1"),
        ("http://localhost/api", {"no_proxy": "localhost"}, "localhost"),
        ("http://localhost/api", {"NO_PROXY": "a", "no_proxy": ""}, "localhost"),
        ("http://localhost/api", {"NO_PROXY": "*"}, "*"),
    ],
)
def test_a_url_of_this_machine_is_reached_past_the_proxies(url, given, wanted):
    assert past_proxies(url, given) == {"no_proxy": wanted, "NO_PROXY": wanted}


def test_a_url_of_another_machine_is_reached_as_the_environment_says():
    assert past_proxies("http://prefect.example/api", {"NO_PROXY": "a"}) == {}
