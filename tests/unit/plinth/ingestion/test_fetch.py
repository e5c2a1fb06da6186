"""Which addresses are public, and which URLs are fetched at all."""

import pytest

from plinth.errors import InvalidInput
from plinth.ingestion.fetch import check_url, is_public


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.255.255.254", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254",
        "100.64.0.1", "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1",
        "fe80::1%eth0", "fc00::1", "fec0::1", "ff02::1", "2001:db8::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254",
        "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2002:a9fe:a9fe::1", "fd00:ec2::254",
    ],
)  # fmt: skip
def test_private_addresses_are_not_public_whatever_wraps_them(address):
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.215.14", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
)
def test_addresses_of_the_internet_are_public(address):
    assert is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd", "ftp://a.test/x", "gopher://a.test", "a.test/x", "//a.test/x", "http://", "http:///x",
        "http://a.test:port/", "http://[::1", "javascript:alert(1)", "http://a.test/\nHost: b", "",
    ],
)  # fmt: skip
def test_only_http_and_https_urls_are_fetched(url):
    with pytest.raises(InvalidInput):
        check_url(url)


def test_credentials_are_refused_and_not_repeated():
    with pytest.raises(InvalidInput, match="credentials") as raised:
        check_url("https://jane:hunter2@a.test/")
    assert "hunter2" not in str(raised.value)


def test_a_usual_url_is_fetched():
    check_url("https://a.test:8443/x?y=1#z")
