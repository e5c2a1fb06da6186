"""What a running MLflow server says, over plain HTTP: without MLflow's 150 MiB and 3 s of import."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode, urlparse

from plinth.errors import RefusedByPolicy, Unavailable

GLANCE_SECONDS = 2.0
LOOK_SECONDS = 10.0
_LARGEST = 1_000_000
_ABSENT = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}
DOWN = "plinth status; is the server up, and PLINTH_MLFLOW_SERVER its address?"
REFUSED = "PLINTH_MLFLOW_USERNAME and PLINTH_MLFLOW_PASSWORD are not the server's (compose: .env)"
FORBIDDEN = "the server's admin gives users permissions, and its --name says which host names it goes by"


def version_at(server: str, model: str, alias: str, headers: Mapping[str, str]) -> str | None:
    """Which version carries an alias.

    Args:
        server: The server's address.
        model: The registered model.
        alias: The alias.
        headers: What shows the user's password (plinth.core.basic_auth).

    Raises:
        Unavailable: The server does not answer, or not as MLflow does.
        RefusedByPolicy: It does not take the user and the password.
    """
    answer = ask(server, "registered-models/alias", {"name": model, "alias": alias}, headers)
    if answer.get("error_code") in _ABSENT:
        return None
    try:
        return str(answer["model_version"]["version"])
    except (KeyError, TypeError) as error:
        raise Unavailable("the MLflow server cannot be asked: its answer is none", where=server, hint=DOWN) from error


def look(server: str, headers: Mapping[str, str]) -> None:
    """See that the server answers and takes the password, before MLflow's client is loaded and tries for long.

    Raises:
        Unavailable, RefusedByPolicy: As `version_at`.
    """
    ask(server, "experiments/search", {"max_results": "1"}, headers, LOOK_SECONDS)


def ask(
    server: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], timeout: float = GLANCE_SECONDS
) -> dict[str, Any]:
    """An answer of the server's API; one that says what is wrong is an answer, too.

    Raises:
        Unavailable, RefusedByPolicy: As `version_at`.
    """
    address = urlparse(server)
    secure = address.scheme == "https"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = kind(str(address.hostname), address.port, timeout=timeout)
    try:
        connection.request("GET", f"{address.path}/api/2.0/mlflow/{path}?{urlencode(query)}", headers=dict(headers))
        answer = connection.getresponse()
        text = answer.read(_LARGEST)
        if answer.status == 401:
            raise RefusedByPolicy("the MLflow server refuses the user or the password", where=server, hint=REFUSED)
        if answer.status == 403:  # the host name, or what this user may do
            said = text[:100].decode(errors="replace").strip()
            raise RefusedByPolicy(f"the MLflow server refuses: {said}", where=server, hint=FORBIDDEN)
        value = json.loads(text)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Unavailable(f"the MLflow server cannot be asked: {error!r}", where=server, hint=DOWN) from error
    finally:
        connection.close()
    if not isinstance(value, dict):
        raise Unavailable("the MLflow server cannot be asked: its answer is none", where=server, hint=DOWN)
    return value
