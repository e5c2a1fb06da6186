"""The MLflow server of the embedded profile: one process, for its UI and its OTLP endpoint.

`mlflow server` keeps a parent of the server's own size beside each worker (measured: 370 MiB in two processes and 13 s
against 240 MiB in one and 8 s). This module does what its command line does (mlflow.server._run_server) in the one
process: the store's schema first, then the same ASGI application.

    python -m plinth.runtime.mlflow --host 127.0.0.1 --port 5001 --store sqlite:///... --artifacts DIR
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from plinth.runtime.port import Service
from plinth.settings import Settings


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
        env=environment(settings.host, settings.mlflow_port),
    )  # fmt: skip


def environment(host: str, port: int) -> dict[str, str]:
    """The switches that make the server safe: no jobs, no pickles, only our own host names, no telemetry."""
    names = dict.fromkeys([host, "127.0.0.1", "localhost"])
    hosts = [form for name in names for form in (name, f"{name}:{port}")]
    return {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(hosts),
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(f"http://{name}:{port}" for name in names),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        # A user's shell may point at another server; this one is the server.
        "MLFLOW_TRACKING_URI": "",
    }


def main() -> None:
    """Prepare the store and serve until a signal comes."""
    parser = argparse.ArgumentParser()
    for name in ("host", "store", "artifacts"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--port", type=int, required=True)
    args = parser.parse_args()
    Path(args.artifacts).mkdir(parents=True, exist_ok=True)

    # Read by mlflow.server when it is imported; the names are those of mlflow/server/constants.py (3.17).
    os.environ |= {
        "_MLFLOW_SERVER_FILE_STORE": args.store,
        "_MLFLOW_SERVER_REGISTRY_STORE": args.store,
        "_MLFLOW_SERVER_ARTIFACT_ROOT": Path(args.artifacts).as_uri(),
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": args.artifacts,
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "_MLFLOW_SGI_NAME": "uvicorn",
        "_MLFLOW_IN_JOB_EXECUTOR": "false",
    }
    import uvicorn
    from mlflow.server import fastapi_app
    from mlflow.server.handlers import initialize_backend_stores

    initialize_backend_stores(args.store, args.store, Path(args.artifacts).as_uri())
    uvicorn.run(fastapi_app.app, host=args.host, port=args.port, log_level="warning", workers=1)


if __name__ == "__main__":
    main()
