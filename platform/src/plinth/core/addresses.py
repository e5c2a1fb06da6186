"""Addresses of endpoints that a product's owner writes down. Pure."""

from __future__ import annotations

import ipaddress
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator


def is_own_machine(url: str) -> bool:
    """Whether a URL leads to this machine: a proxy of the environment has no business with what is sent there."""
    return is_loopback(urlsplit(url).hostname or "")


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this machine's own. Names are not resolved: only `localhost` counts."""
    if host == "127.0.0.1":  # what every request to a service of this machine comes from
        return True
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        known = False
    if not known:
        raise ValueError("not an address such as http://host/v1")
    if "@" in parts.netloc:
        raise ValueError("holds credentials, which every log would repeat: name a variable of the key in api_key_env")
    return url


Address = Annotated[str, AfterValidator(_checked)]
"""An http(s) URL without credentials."""
