"""The MLflow server of every profile: one process, for its UI, its API and its OTLP endpoint.

`mlflow server` keeps a parent of the server's own size beside each worker (measured: 370 MiB in two processes and 13 s
against 240 MiB in one and 8 s). This module does what its command line does (mlflow.server._run_server) in the one
process: the store's schema first, then the same ASGI application.

On the user's own machine, clients write to the database and the folder themselves and nobody is asked who he is:

    python -m plinth.runtime.mlflow --host 127.0.0.1 --port 5001 --store sqlite:///... --artifacts DIR

In a container everything goes through the server, artefacts too (their root is `mlflow-artifacts:/`), and everybody but
`/health` shows a password. That is so when MLFLOW_AUTH_ADMIN_PASSWORD is set. No secret is an argument;
the variables are MLflow's and boto3's own:

    python -m plinth.runtime.mlflow --host 0.0.0.0 --port 5000 --name mlflow --name 127.0.0.1 --public-port 5001

    MLFLOW_BACKEND_STORE_URI        postgresql+psycopg://mlflow:PASSWORD@postgres:5432/mlflow   (or --store)
    MLFLOW_ARTIFACTS_DESTINATION    s3://mlflow                                                 (or --artifacts)
    MLFLOW_AUTH_ADMIN_PASSWORD      of the user MLFLOW_AUTH_ADMIN_USERNAME (admin); changed here, it changes at a start
    MLFLOW_FLASK_SERVER_SECRET_KEY  any random text, the same at each start
    AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_DEFAULT_REGION, MLFLOW_S3_ENDPOINT_URL

`--name` is a host name that clients may use, with `--port` and, where it is published under another one,
`--public-port`. /tmp must be writable: what passes the proxy waits there. Users beside the admin are of his making and
may do nothing until he lets them. Two that start at once wait for each other; a schema of an older MLflow is upgraded.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from plinth.runtime.port import Service
from plinth.settings import Settings

PROXY = "mlflow-artifacts:/"
LOCK = 0x506C696E7468
"""Of PostgreSQL's advisory locks: held while the schema is looked at and changed."""


def service(settings: Settings) -> Service:
    """How the MLflow server is started."""
    artifacts = settings.state_dir / "mlflow" / "artifacts"
    return Service(
        name="mlflow",
        argv=(
            sys.executable, "-P", "-m", "plinth.runtime.mlflow", "--host", settings.host,
            "--port", str(settings.mlflow_port), "--store", settings.mlflow_store, "--artifacts", str(artifacts),
        ),
        url=settings.mlflow_url,
        health=f"{settings.mlflow_url}/health",
        port=settings.mlflow_port,
        setting="PLINTH_MLFLOW_PORT",
        # A user's shell may hold what makes another server ask for passwords; this one's clients have none.
        env=environment([settings.host], [settings.mlflow_port]) | {"MLFLOW_AUTH_ADMIN_PASSWORD": ""},
    )  # fmt: skip


def environment(names: Sequence[str], ports: Sequence[int]) -> dict[str, str]:
    """The switches that make the server safe: no jobs, no pickles, only our own host names, no telemetry."""
    known = dict.fromkeys([*names, "127.0.0.1", "localhost"])
    hosts = [form for name in known for form in (name, *(f"{name}:{port}" for port in ports))]
    return {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_ENABLE_REMOTE_ASSISTANT": "false",
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(hosts),
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(f"http://{name}:{port}" for name in known for port in ports),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        # A user's shell may point at another server; this one is the server.
        "MLFLOW_TRACKING_URI": "",
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Prepare the store and serve until a signal comes."""
    args = _arguments(argv)
    guarded = bool(os.environ.get("MLFLOW_AUTH_ADMIN_PASSWORD"))
    local = "://" not in args.artifacts
    if local:
        Path(args.artifacts).mkdir(parents=True, exist_ok=True)
    root = Path(args.artifacts).as_uri() if local and not guarded else PROXY

    os.environ |= environment(args.name, [args.port, *([args.public_port] if args.public_port else [])])
    # Read by mlflow.server when it is imported; the names are those of mlflow/server/constants.py (3.17).
    os.environ |= {
        "_MLFLOW_SERVER_FILE_STORE": args.store,
        "_MLFLOW_SERVER_REGISTRY_STORE": args.store,
        "_MLFLOW_SERVER_ARTIFACT_ROOT": root,
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": args.artifacts,
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "_MLFLOW_SGI_NAME": "uvicorn",
        "_MLFLOW_IN_JOB_EXECUTOR": "false",
    }
    import uvicorn

    with _alone(args.store):
        app = application(args.store, root, guarded=guarded)
    uvicorn.run(app, host=args.host, port=args.port, log_level="warning", workers=1, timeout_graceful_shutdown=10)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--store", default=os.environ.get("MLFLOW_BACKEND_STORE_URI", ""))
    parser.add_argument("--artifacts", default=os.environ.get("MLFLOW_ARTIFACTS_DESTINATION", ""))
    parser.add_argument("--name", action="append", default=[])
    parser.add_argument("--public-port", type=int)
    args = parser.parse_args(argv)
    for name, variable in (("store", "MLFLOW_BACKEND_STORE_URI"), ("artifacts", "MLFLOW_ARTIFACTS_DESTINATION")):
        if not getattr(args, name):
            parser.error(f"neither --{name} nor {variable} is given")
    if args.host not in {"0.0.0.0", "::"}:  # noqa: S104  (compared, not bound)
        args.name.append(args.host)
    return args


def application(store: str, root: str, *, guarded: bool) -> Any:
    """MLflow's ASGI application on a store whose schema is this MLflow's.

    Args:
        store: SQLAlchemy URL; the users are in the same database.
        root: Where new experiments keep their artefacts.
        guarded: Ask everybody for a password.
    """
    _upgrade(store)
    from mlflow.server.handlers import initialize_backend_stores

    initialize_backend_stores(store, store, root)
    if not guarded:
        from mlflow.server import fastapi_app

        return fastapi_app.app
    with _auth_config(store):
        from mlflow.server import auth

    from plinth.runtime.mlflow_gate import Gate

    app = auth.create_app()
    user, password = str(auth.auth_config.admin_username), str(auth.auth_config.admin_password)
    # MLflow looks at the password only when it makes the user: the environment would lie after a change.
    if not auth.store.authenticate_user(user, password):
        auth.store.update_user(user, password=password)
    return Gate(app, auth._authenticate_fastapi_request)


@contextmanager
def _auth_config(store: str) -> Iterator[None]:
    """MLflow reads where its users are from a file, once, while it is imported; it holds the database's password."""
    with tempfile.NamedTemporaryFile("w", prefix="mlflow-auth-", suffix=".ini") as file:  # only its owner reads it
        file.write(
            "[mlflow]\ndefault_permission = NO_PERMISSIONS\nadmin_username = admin\n"
            f"database_uri = {store.replace('%', '%%')}\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
            # A check takes a twentieth of a second and 32 MiB. This process is the only one that changes users.
            "auth_cache_ttl_seconds = 60\n"
        )
        file.flush()
        os.environ["MLFLOW_AUTH_CONFIG_PATH"] = file.name
        yield


@contextmanager
def _alone(store: str) -> Iterator[None]:
    """Nobody else looks at the schema of this store meanwhile."""
    if store.startswith("sqlite:///"):
        import fcntl

        path = Path(store.removeprefix("sqlite:///"))
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".start").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        return
    import sqlalchemy

    engine = sqlalchemy.create_engine(store, isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:key)"), {"key": LOCK})
        yield  # the lock ends with the connection


def _upgrade(store: str) -> None:
    """What `mlflow db upgrade` does, to a store that has a schema: MLflow refuses to serve an older one."""
    import sqlalchemy
    from mlflow.store.db import utils as untyped

    utils: Any = untyped
    engine = sqlalchemy.create_engine(store, poolclass=sqlalchemy.NullPool)
    if utils._is_empty_database(engine):
        return
    if utils._get_schema_version(engine) != utils._get_latest_schema_revision():
        sys.stderr.write("MLflow's schema is of another version: it is upgraded\n")
        utils._upgrade_db(engine)


if __name__ == "__main__":
    main()
