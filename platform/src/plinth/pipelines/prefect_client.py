"""How a process comes to a Prefect server: its environment, and whether the server is there and lets it in."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr

from plinth.core.addresses import is_own_machine, past_proxies
from plinth.core.basic_auth import credentials
from plinth.errors import RefusedByPolicy, Unavailable

if TYPE_CHECKING:
    import httpx

NO_AUTH = SecretStr("")


def prepare_environment(home: Path, api_url: str, auth: SecretStr = NO_AUTH) -> None:
    """Point Prefect at our server and our state folder, and away from a user's own profile, before it is imported.

    The processes that Prefect starts for runs read the same: the auth string is theirs, too. Prefect's clients trust
    the environment's proxies, which must not see the auth string on its way to a server of this machine.
    """
    os.environ["PREFECT_HOME"] = str(home)
    os.environ["PREFECT_API_URL"] = api_url
    os.environ.pop("PREFECT_API_KEY", None)
    if auth.get_secret_value():
        os.environ["PREFECT_API_AUTH_STRING"] = auth.get_secret_value()
    else:
        os.environ.pop("PREFECT_API_AUTH_STRING", None)
    os.environ |= past_proxies(api_url, os.environ)
    os.environ["PREFECT_SERVER_EPHEMERAL_ENABLED"] = "false"
    os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
    os.environ.setdefault("DO_NOT_TRACK", "1")
    # Runs report through our own progress; Prefect's lines would be said twice.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    # The automation that marks runs of killed processes as crashed (runtime/prefect.py) counts on this pace.
    os.environ.setdefault("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "30")


def server_answers(api_url: str, timeout: float = 2.0) -> bool:
    """Whether a Prefect server answers at `api_url`. Needs no import of Prefect."""
    import httpx

    try:
        return _get(f"{api_url}/health", {}, timeout).status_code == 200
    except httpx.HTTPError:
        return False


def check_server(api_url: str, auth: SecretStr = NO_AUTH, timeout: float = 10.0) -> None:
    """See that a server answers and takes the auth string. Needs no import of Prefect.

    Raises:
        Unavailable: No server answers.
        RefusedByPolicy: It does not take the auth string.
    """
    import httpx

    try:
        answer = _get(f"{api_url}/admin/version", credentials(auth), timeout)
    except httpx.HTTPError as error:
        raise Unavailable(
            f"no Prefect server answers ({type(error).__name__})",
            where=api_url,
            hint="plinth up; plinth status (or run inline: `--inline`)",
        ) from error
    if answer.status_code in {401, 403}:
        raise RefusedByPolicy(
            "the Prefect server refuses the auth string",
            where=api_url,
            hint="PLINTH_PREFECT_AUTH is not the server's user:password (compose: .env)",
        )
    if answer.status_code != 200:
        raise Unavailable(
            f"the Prefect server answers {answer.status_code}", where=api_url, hint="plinth doctor; plinth logs prefect"
        )


def _get(url: str, headers: Mapping[str, str], timeout: float) -> httpx.Response:
    """A GET; to this machine past the environment's proxies, none of which must see the auth string."""
    import httpx

    return httpx.get(url, headers=dict(headers), timeout=timeout, trust_env=not is_own_machine(url))


def server_errors() -> tuple[type[Exception], ...]:
    """What Prefect's client raises when its server fails or is away."""
    import httpx
    from prefect.exceptions import PrefectException

    return (PrefectException, httpx.HTTPError)
