"""The pages of tools and products for people: their addresses, and where credentials are kept (never what they are)."""

from __future__ import annotations

import socket
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass

from plinth.errors import NotFound
from plinth.runtime.compose_env import COLLECTOR
from plinth.settings import Settings
from plinth.wiring import Platform

NONE = "none is asked for"
INSTALL = "plinth init compose, then plinth --profile compose up"


@dataclass(frozen=True)
class Page:
    """A page.

    Args:
        name: Whose.
        url: Where.
        credentials: Where they are, in words.
        start: What starts it, in words.
    """

    name: str
    url: str
    credentials: str
    start: str


@dataclass(frozen=True)
class _Tool:
    url: Callable[[Settings], str]
    user: str = ""
    variable: str = ""
    processes: bool = False
    """Whether the embedded profile has it."""
    extra: str = ""
    """The compose profile that has it, beside the core."""


TOOLS = {
    "grafana": _Tool(lambda s: s.grafana_url, "user admin, password", "GRAFANA_ADMIN_PASSWORD", extra="observability"),
    "mlflow": _Tool(lambda s: s.mlflow_url, "user admin, password", "MLFLOW_ADMIN_PASSWORD", processes=True),
    "prefect": _Tool(lambda s: s.prefect_api_url.removesuffix("/api"), "user:password", "PREFECT_AUTH", processes=True),
    "prometheus": _Tool(lambda s: s.prometheus_url),
    "qdrant": _Tool(lambda s: f"{s.qdrant_url.rstrip('/')}/dashboard", "key", "QDRANT_API_KEY"),
}


def page(platform: Platform, name: str) -> Page:
    """The page of a tool or a product.

    Raises:
        NotFound: There is none of that name, or this profile does not have it.
        InvalidInput: The product's manifest does not fit.
    """
    settings, products = platform.settings, platform.products.names()
    containers = settings.profile == "compose"
    start = "plinth --profile compose up" if containers else "plinth up"
    file = settings.home / ".env"
    if name in products:
        asked = bool(settings.token_key.get_secret_value())
        issue = f"plinth --profile {settings.profile} token issue {name}"
        token = f"`{issue}` makes one, with PLINTH_TOKEN_KEY in {file}" if asked else NONE
        return Page(name, platform.service_urls(name)[0], token, start)
    tool = TOOLS.get(name)
    if tool is None:
        known = ", ".join([*TOOLS, *products])
        raise NotFound(f"there is no page of {name!r}", where="plinth open", hint=f"there are: {known}")
    if not containers and not tool.processes:
        more = f" --with {tool.extra}" if tool.extra else ""
        raise NotFound(
            f"the embedded profile has no {name}",
            where="plinth open",
            hint=INSTALL.replace("compose,", f"compose{more},") + f"; then plinth --profile compose open {name}",
        )
    if containers and tool.extra:
        fed = f" and COLLECTOR_URL={COLLECTOR}" if tool.extra == "observability" else ""
        start = f"COMPOSE_PROFILES={tool.extra}{fed} in {file}, then {start}"
    held = f"{tool.user}: {tool.variable} in {file}" if containers and tool.variable else NONE
    return Page(name, _bare(tool.url(settings)), held, start)


def _bare(url: str) -> str:
    """The address without a user and password that somebody wrote into it."""
    address = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit(address._replace(netloc=address.netloc.rpartition("@")[2]))


def answers(url: str, seconds: float = 2.0) -> bool:
    """Whether something listens at the address."""
    address = urllib.parse.urlsplit(url)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        with socket.create_connection((str(address.hostname), port), timeout=seconds):
            return True
    except OSError:
        return False
