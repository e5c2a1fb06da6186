"""Addresses of endpoints that a product's owner writes down. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
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


def past_proxies(url: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Variables by which clients that trust the environment reach a URL of this machine past its proxies.

    Args:
        url: What is reached; of another machine's nothing is changed.
        environment: The variables there are.
    """
    if not is_own_machine(url):
        return {}
    # As the standard library reads them: the lower case wins, even when it is empty.
    listed = environment.get("no_proxy", environment.get("NO_PROXY", ""))
    names = [name.strip() for name in listed.split(",") if name.strip()]
    host = str(urlsplit(url).hostname)
    if names != ["*"] and host not in names:  # "*" means every host, but only when it stands alone
        names.append(host)
    return dict.fromkeys(("no_proxy", "NO_PROXY"), ",".join(names))


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
