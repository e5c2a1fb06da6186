"""Where settings come from: the environment and, beneath it, the `.env` of the compose profile.

`<home>/.env` is what `docker compose` interpolates, and holds the host's view of the containers as `PLINTH_*`. A
variable of the environment wins over its line, as it does for compose. Containers have no such file: there the
environment is everything.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from plinth.errors import InvalidInput
from plinth.settings import Settings, find_home

PROFILE = "PLINTH_PROFILE"
COMPOSE = "compose"
INIT = "plinth init compose"

HOST_VIEW = {
    "PLINTH_LEDGER_URL": "postgresql+psycopg://ledger:${LEDGER_DB_PASSWORD}@127.0.0.1:${POSTGRES_PORT}/ledger",
    "PLINTH_FEATURE_REGISTRY": "postgresql+psycopg://feast:${FEAST_DB_PASSWORD}@127.0.0.1:${POSTGRES_PORT}/feast",
    "PLINTH_ONLINE_STORE": "redis://:${VALKEY_PASSWORD}@127.0.0.1:${VALKEY_PORT}/0",
    "PLINTH_OBJECT_STORE": "s3://plinth",
    "PLINTH_OBJECT_ENDPOINT": "http://127.0.0.1:${S3_PORT}",
    "PLINTH_OBJECT_KEY": "${S3_ACCESS_KEY}",
    "PLINTH_OBJECT_SECRET": "${S3_SECRET_KEY}",
    "PLINTH_MLFLOW_SERVER": "http://127.0.0.1:${MLFLOW_PORT}",
    "PLINTH_MLFLOW_USERNAME": "admin",
    "PLINTH_MLFLOW_PASSWORD": "${MLFLOW_ADMIN_PASSWORD}",
    "PLINTH_PREFECT_SERVER": "http://127.0.0.1:${PREFECT_PORT}",
    "PLINTH_PREFECT_AUTH": "${PREFECT_AUTH}",
    "PLINTH_VECTOR_STORE": "qdrant",
    "PLINTH_QDRANT_URL": "http://127.0.0.1:${QDRANT_PORT}",
    "PLINTH_QDRANT_API_KEY": "${QDRANT_API_KEY}",
    "PLINTH_SERVICE_PORTS": '{"flight-delays": ${FLIGHT_DELAYS_PORT}, "docs-assistant": ${DOCS_ASSISTANT_PORT}}',
    "PLINTH_SIGNALS": "prometheus",
    "PLINTH_PROMETHEUS_URL": "http://127.0.0.1:${PROMETHEUS_PORT}",
    "PLINTH_GRAFANA_URL": "http://127.0.0.1:${GRAFANA_PORT}",
}
"""The settings by which the host reaches the containers, as `.env` has them."""

HOST_OWN = ("PLINTH_STATE", "PLINTH_TOKEN_KEY", "PLINTH_SCRAPE_TOKEN")
"""What the settings of the host take from `.env` as the containers do. None of it may be empty."""


_DEPTH = 3
"""How deep variables may refer to variables."""


def load_settings() -> Settings:
    """The settings of this process.

    Raises:
        InvalidInput: A `PLINTH_*` variable does not fit; or under the compose profile, `.env` is missing, is another
            workspace's, cannot be read, or lacks what the settings need.
    """
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    file = _file_beneath()
    where = "environment" if file is None else f"environment, or {file}"
    try:
        if file is None:
            return Settings()  # type: ignore[call-arg]
        return Settings(**_merged(file))
    except ValidationError as error:
        first = error.errors()[0]
        name = f"PLINTH_{first['loc'][0]}".upper()
        raise InvalidInput(
            f"the setting {name} does not fit: {first['msg']}",
            where=where,
            hint="docs/reference/settings.md lists every setting",
        ) from error
    except SettingsError as error:
        raise InvalidInput(
            f"a setting is not the JSON it should be: {error}",
            where=where,
            hint="docs/reference/settings.md lists every setting",
        ) from error


def home() -> Path:
    """The workspace root: `PLINTH_HOME`, else the nearest folder with `services/`."""
    given = os.environ.get("PLINTH_HOME")
    return Path(given).resolve() if given else find_home()


def compose_asked() -> bool:
    """Whether the environment names the compose profile."""
    return os.environ.get(PROFILE) == COMPOSE


def read_env(path: Path) -> dict[str, str]:
    """The variables of a `.env` with `${NAME}` put in; the environment's own value of NAME goes first, as in compose.

    Raises:
        InvalidInput: It cannot be read, or a line is no `NAME=value`.
    """
    from dotenv.variables import parse_variables

    written = env_lines(env_text(path), path)
    found: dict[str, str | None] = dict(written)
    # By our own hand, not by `dotenv_values`: there a line sees only the lines above it, and those that were added to
    # a stale file stand at its end; and there the file wins, so that compose would publish another port than is read.
    for _ in range(_DEPTH):
        around = {**found, **os.environ}
        found = {
            name: "".join(part.resolve(around) for part in parse_variables(text)) for name, text in written.items()
        }
    return {name: value or "" for name, value in found.items()}


def env_text(path: Path) -> str:
    """The text of a `.env`.

    Raises:
        InvalidInput: It cannot be read.
    """
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise InvalidInput(
            f".env cannot be read: {error.strerror}", where=str(path), hint=f"its owner is who ran `{INIT}`"
        ) from error
    except UnicodeDecodeError as error:
        raise InvalidInput(".env is not UTF-8", where=str(path), hint="save it as UTF-8") from error


def env_lines(text: str, path: Path) -> dict[str, str]:
    """The variables of a `.env` as they are written, `${NAME}` not put in.

    Raises:
        InvalidInput: A line is no `NAME=value`. The line itself is not shown: it may hold a secret.
    """
    import io

    from dotenv.parser import parse_stream

    found: dict[str, str] = {}
    for binding in parse_stream(io.StringIO(text)):
        if binding.error:
            raise InvalidInput(
                "a line of .env is no NAME=value",
                where=f"{path}:{binding.original.line}",
                hint="mend the line, or move the file away and run `plinth init compose` again",
            )
        if binding.key is not None:
            found[binding.key] = binding.value or ""
    return found


def lacking(path: Path) -> list[str]:
    """What a `.env` lacks for the settings of the host: their own lines, and what these refer to. Raises as `read_env`.

    What the environment has is not lacking.
    """
    from dotenv.variables import Variable, parse_variables

    there = env_lines(env_text(path), path)
    missing = [name for name in HOST_OWN if not (there.get(name) or os.environ.get(name))]
    missing += [name for name in HOST_VIEW if name not in there and name not in os.environ]
    for name in HOST_VIEW:
        for part in parse_variables(there.get(name, "")):
            if isinstance(part, Variable) and not (there.get(part.name) or os.environ.get(part.name)):
                missing.append(part.name)
    return list(dict.fromkeys(missing))


def _file_beneath() -> Path | None:
    """The `.env` to read beneath the environment; None where the environment is everything."""
    if not compose_asked():
        return None
    path = home() / ".env"
    if path.is_file():
        return path
    if os.environ.get("PLINTH_LEDGER_URL"):  # a container, or somebody who sets everything by hand
        return None
    raise InvalidInput("the compose profile has no .env", where=str(path), hint=f"run `{INIT}`, which writes it")


def _merged(path: Path) -> dict[str, Any]:
    """The settings' values from the file, and over them those of the environment."""
    from pydantic_settings import EnvSettingsSource

    missing = lacking(path)
    if missing:
        raise InvalidInput(
            f".env lacks a value for {', '.join(missing)}",
            where=str(path),
            hint=f"`{INIT}` adds what is missing and changes no other line; give an empty one a value",
        )
    values = read_env(path)
    made_for = Path(values.get("PLINTH_HOME") or path.parent)
    if made_for.resolve() != path.parent.resolve():
        raise InvalidInput(
            f".env was written for another workspace, {made_for}",
            where=str(path),
            hint=f"move it away and run `{INIT}`: two workspaces must not share passwords, ports and state",
        )
    beneath = EnvSettingsSource(Settings)
    beneath.env_vars = {name.lower(): value for name, value in values.items() if value}
    return {**beneath(), **EnvSettingsSource(Settings)(), "home": path.parent}
