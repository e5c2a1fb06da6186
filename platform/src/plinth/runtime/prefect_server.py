"""The Prefect server of every profile: how it is set up, and its process in a container.

    python -m plinth.runtime.prefect_server --host 0.0.0.0 --port 4200 --public-url http://127.0.0.1:4200

prepares the environment and becomes `prefect server start`. `--public-url` is where browsers reach it. No secret is an
argument; the variables are Prefect's own:

    PREFECT_SERVER_DATABASE_CONNECTION_URL  postgresql+asyncpg://prefect:PASSWORD@postgres:5432/prefect
    PREFECT_SERVER_API_AUTH_STRING          user:password, which clients show (PLINTH_PREFECT_AUTH)
    PREFECT_HOME                            a folder it may write, /tmp/prefect; nothing in it has to be kept

Every route of the API and every web socket asks for the auth string but GET /api/health and /api/ready; the pages of
the UI are files, and ask for it themselves.

Slots of concurrency limits are held by leases. Where Prefect keeps leases in memory, a slot whose lease died with the
server would be taken for ever (its count is in the database); kept as files they need a volume. In a container there is
one server, so what is taken when it starts is nobody's: it is given back. Runs that go on meanwhile keep their place by
the lock in the products' folder.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from plinth.core.addresses import past_proxies

DATABASE = "PREFECT_SERVER_DATABASE_CONNECTION_URL"
AUTH = "PREFECT_SERVER_API_AUTH_STRING"


def environment(home: Path, api_url: str, public_url: str) -> dict[str, str]:
    """What makes the server safe and quiet.

    Args:
        home: Folder for its own files.
        api_url: Its API as it reaches itself.
        public_url: Its address in a browser, without /api.
    """
    port = urlsplit(public_url).port
    names = dict.fromkeys([str(urlsplit(public_url).hostname), "127.0.0.1", "localhost"])
    return {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": api_url,
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": ",".join(f"http://{name}:{port}" for name in names),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        "PREFECT_SERVER_UI_API_URL": f"{public_url}/api",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        # The UI's files are written with the port inside; the default place is the installed package.
        "PREFECT_UI_STATIC_DIRECTORY": str(home / "ui"),
        "DO_NOT_TRACK": "1",
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Become the server."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--public-url", required=True)
    args = parser.parse_args(argv)
    auth = os.environ.get(AUTH, "")
    if ":" not in auth:
        parser.error(f"{AUTH} is not set to user:password")
    home = Path(os.environ.get("PREFECT_HOME") or "/tmp/prefect")  # noqa: S108  (a container's own)
    home.mkdir(parents=True, exist_ok=True)
    api_url = f"http://127.0.0.1:{args.port}/api"
    os.environ |= environment(home, api_url, args.public_url.rstrip("/"))
    # Its own services are clients of its API, and would show the auth string to a proxy that Docker gives containers.
    os.environ |= past_proxies(api_url, os.environ)
    os.environ |= {"PREFECT_API_AUTH_STRING": auth, "PREFECT_SERVER_EPHEMERAL_ENABLED": "false"}
    if database := os.environ.get(DATABASE):
        asyncio.run(give_back_slots(database))
    command = ["prefect", "server", "start", "--host", args.host, "--port", str(args.port)]
    os.execv(sys.executable, [sys.executable, "-P", "-m", *command])  # noqa: S606


async def give_back_slots(database: str) -> None:
    """Set every limit's count to zero. A database that has no tables yet, or is away, is the server's to deal with."""
    import sqlalchemy
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(database)
    try:
        async with engine.begin() as connection:
            await connection.execute(sqlalchemy.text("UPDATE concurrency_limit_v2 SET active_slots = 0"))
    except (sqlalchemy.exc.SQLAlchemyError, OSError) as error:
        sys.stderr.write(f"no slots given back: {type(error).__name__}\n")
    finally:
        await engine.dispose()


if __name__ == "__main__":
    main()
