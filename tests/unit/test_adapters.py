"""A tool's SDK is imported in the adapter of its own name. Every other place is named here, with its reason."""

import re
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "platform" / "src" / "plinth"
TOOLS = (
    "alembic", "bentoml", "duckdb", "feast", "httpx", "lightgbm", "matplotlib", "mlflow", "onnx", "onnxmltools",
    "obstore", "onnxruntime", "open_data_contract_standard", "opentelemetry", "pandas", "prefect", "prometheus_client",
    "psycopg", "pyarrow", "sqlalchemy", "supervisor", "uvicorn", "fastembed", "openai", "safetensors", "tokenizers",
    "grafana_client", "grafana_foundation_sdk", "jinja2", "jwt", "niquests", "qdrant_client", "qdrant_edge",
    "detect_secrets", "docker", "docx", "httpcore", "markdown_it", "phonenumbers", "pypdfium2", "stdnum", "trafilatura",
)  # fmt: skip
ELSEWHERE = {
    "assistants/canaries.py": {"pyarrow"},  # searches what Parquet files unpack to
    "contracts/odcs.py": {"open_data_contract_standard"},  # the standard's short name
    "contracts/quality.py": {"open_data_contract_standard"},  # types of odcs.py
    "features/feast.py": {"duckdb", "pandas", "sqlalchemy"},  # Feast's offline store, its frames, its registry's errors
    "features/feast_redis.py": {"feast", "redis"},  # Feast's Redis store, as it is written
    "features/feast_registry.py": {"sqlalchemy"},  # Feast's registry in PostgreSQL is SQLAlchemy's
    "features/feast_repository.py": {"feast"},  # the part of feast.py that knows definitions
    "features/feast_sqlite.py": {"feast"},  # Feast's SQLite store, as it is written
    "features/redis_connections.py": {"redis"},  # the connections of redis.py
    "features/port.py": {"pandas"},  # a type of the port
    "features/skew.py": {"pandas"},  # a type of the port
    "features/advance.py": {"feast", "pyarrow"},  # rows for feast.py's online store, from Parquet
    "features/slices.py": {"pyarrow"},  # tables for feast.py's join
    "generation/templates.py": {"jinja2"},  # what a prompt is, not one of several ways to render it
    "ingestion/fetch.py": {"httpcore"},  # the connections of httpx, to addresses that were checked
    "ledger/database.py": {"sqlalchemy", "alembic"},  # the ledger is SQL
    "ledger/events.py": {"sqlalchemy"},
    "ledger/leases.py": {"sqlalchemy"},
    "ledger/retention.py": {"sqlalchemy"},
    "ledger/rollouts.py": {"sqlalchemy"},
    "ledger/schema.py": {"sqlalchemy"},
    "ledger/snapshot.py": {"sqlalchemy"},
    "ledger/store.py": {"sqlalchemy"},
    "ledger/totals.py": {"sqlalchemy"},
    "models/faulty.py": {"onnx", "onnxruntime"},  # edits a model's graph, and times it
    "models/mlflow.py": {"onnx"},  # MLflow's ONNX flavour takes the object
    "models/mlflow_connection.py": {"mlflow"},  # its client and its errors, for all that keep something there
    "models/mlflow_evaluation.py": {"mlflow"},  # its evaluations, beside its registry
    "models/onnx.py": {"lightgbm", "onnxmltools", "onnxruntime"},  # from the one, by the other, checked by the third
    "runtime/backup/qdrant.py": {"httpx"},  # snapshots go over plain HTTP, streamed
    "pipelines/prefect_client.py": {"httpx", "prefect"},  # the client that Prefect's own is made of, and its errors
    "retrieval/bm25.py": {"qdrant_edge"},  # the engine's own encoder, for both stores
    "retrieval/minilm.py": {"safetensors"},  # the weights it is made of
    "retrieval/onnxruntime.py": {"tokenizers"},  # the model's tokenizer, beside it
    "retrieval/qdrant.py": {"qdrant_client"},  # the server's client, by the server's name
    "runtime/fsck.py": {"pyarrow"},  # opens the logs to see that they open
    "runtime/prefect_server.py": {"sqlalchemy"},  # gives back what its database says is taken
    "runtime/log_archive.py": {"duckdb", "pyarrow"},  # its errors, and an archived file's number of rows
    "runtime/log_merge.py": {"duckdb"},  # sorts more rows than fit into memory
    "runtime/mlflow.py": {"uvicorn", "sqlalchemy"},  # serves MLflow's application in one process, on an upgraded store
    "serving/tokens.py": {"jwt"},  # PyJWT, by what is made with it
    "telemetry/otlp.py": {"opentelemetry"},  # its protocol
    "telemetry/platform.py": {"prometheus_client"},  # the controller's page, beside the services' in prometheus.py
    "telemetry/dashboards/grafana.py": {"grafana_foundation_sdk"},  # the tool's short name
    "telemetry/dashboards/push.py": {"grafana_client", "niquests"},  # what it does; niquests raises its errors
    "telemetry/prometheus.py": {"prometheus_client"},  # the tool's short name
    "telemetry/traces.py": {"opentelemetry"},  # what OpenTelemetry is here for
}
IMPORT = re.compile(r"^\s*(?:from|import) (\w+)", re.MULTILINE)


def test_sdks_stay_in_their_adapters():
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE).as_posix()
        if name.startswith(("ledger/migrations/", "templates/")):
            continue
        used = {module for module in IMPORT.findall(path.read_text()) if module in TOOLS} - {path.stem}
        extra = used - ELSEWHERE.get(name, set())
        if extra:
            found[name] = sorted(extra)
    assert found == {}


def test_no_exception_outlives_its_reason():
    for name, tools in ELSEWHERE.items():
        used = set(IMPORT.findall((SOURCE / name).read_text()))
        assert tools <= used, name
