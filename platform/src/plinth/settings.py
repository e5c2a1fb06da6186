"""Typed settings of a profile, read once at the entry point from the environment (`PLINTH_*`).

`plinth.core.environment.load_settings` makes them, with `.env` beneath the environment in the compose profile. A
profile changes addresses, never code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, computed_field
from pydantic_settings import BaseSettings, SettingsConfigDict


def find_home(start: Path | None = None) -> Path:
    """The workspace root: the nearest folder at or above `start` (default: the working directory) with `services/`."""
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / "services").is_dir() and (folder / "pyproject.toml").is_file():
            return folder
    return here


class Settings(BaseSettings):
    """Settings of one profile. Every field can be set as `PLINTH_<NAME>` in the environment."""

    model_config = SettingsConfigDict(env_prefix="PLINTH_", frozen=True, extra="ignore")

    profile: Literal["embedded", "compose"] = Field(
        "embedded", description="Where the platform runs: processes and files, or containers (addresses from .env)."
    )
    home: Path = Field(default_factory=find_home, description="Workspace root, the folder that holds services/.")
    state: Path | None = Field(None, description="Folder for all state; default <home>/.plinth.")
    host: str = Field("127.0.0.1", description="Address the embedded services bind to.")
    allowed_hosts: tuple[str, ...] = Field(
        (), description='Names beside the loopback\'s that services may be addressed by, as JSON: ["flight-delays"].'
    )
    prefect_port: int = Field(4200, ge=1, le=65535, description="Port of the Prefect server.")
    mlflow_port: int = Field(5001, ge=1, le=65535, description="Port of the MLflow server (5000 is taken on macOS).")
    service_ports: dict[str, Annotated[int, Field(ge=1, le=65535)]] = Field(
        default_factory=dict, description='Ports of product services, as JSON: {"flight-delays": 3001}.'
    )
    service_urls: dict[str, str] = Field(
        default_factory=dict,
        description='Addresses of product services elsewhere, as JSON: {"flight-delays": "http://flight-delays:3001"}.',
    )
    controller_port: int = Field(3010, ge=1, le=65535, description="Port of the controller's metrics.")
    prefect_server: str | None = Field(None, description="Address of a Prefect server elsewhere, without /api.")
    prefect_auth: SecretStr = Field(SecretStr(""), description="Its user:password; empty is none.")
    mlflow_server: str | None = Field(None, description="Address of an MLflow server elsewhere; clients go through it.")
    mlflow_username: str = Field("", description="Its user; empty is none.")
    mlflow_password: SecretStr = Field(SecretStr(""), description="The user's password.")
    object_store: str = Field("", description="S3 bucket of artefacts, such as s3://plinth; empty is a folder.")
    object_endpoint: str = Field("", description="Address of the S3 server, such as http://127.0.0.1:8333.")
    object_key: str = Field("", description="Its access key.")
    object_secret: SecretStr = Field(SecretStr(""), description="Its secret key.")
    log_days: int = Field(
        0, ge=0, description="Days that archived hours of inference and answer logs stay here; 0 keeps them all."
    )
    online_store: SecretStr = Field(
        SecretStr(""), description="Valkey of the online features, redis://:password@host:6379/0; empty is SQLite."
    )
    feature_registry: SecretStr = Field(
        SecretStr(""), description="SQLAlchemy URL of Feast's registry; empty is a file."
    )
    token_key: SecretStr = Field(
        SecretStr(""), description="Key that signs the services' tokens; empty: services on this machine ask for none."
    )
    scrape_token: SecretStr = Field(
        SecretStr(""), description="What Prometheus shows to read /metrics where services ask for tokens."
    )
    otlp_url: str = Field(
        "",
        description="An OpenTelemetry collector for traces and logs, such as http://collector:4318; empty is MLflow.",
    )
    grafana_url: str = Field("http://127.0.0.1:3000", description="Address of Grafana.")
    ledger_url: str | None = Field(
        None, description="SQLAlchemy URL of the ledger; default SQLite in the state folder."
    )
    traces: bool = Field(True, description="Export OpenTelemetry traces to MLflow's OTLP endpoint.")
    trace_sample: float = Field(0.01, ge=0, le=1, description="Share of requests whose trace is exported.")
    signals: Literal["log", "prometheus"] = Field(
        "log", description="Where rollouts read what each release did: the request log, or a Prometheus server."
    )
    prometheus_url: str = Field(
        "http://127.0.0.1:9090", description="Address of the Prometheus server, read when signals is prometheus."
    )
    vector_store: Literal["edge", "qdrant"] = Field(
        "edge", description="Where assistants' index builds are: files of the embedded engine, or a Qdrant server."
    )
    qdrant_url: str = Field("http://127.0.0.1:6333", description="Address of the Qdrant server.")
    qdrant_api_key: SecretStr = Field(SecretStr(""), description="Key of the Qdrant server; empty is none.")
    failpoint: str = Field("", description="For tests only: NAME:kill or NAME:stop, where this process is to die.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Level of the structured logs.")
    actor: str = Field("", description="Who acts, for the audit log; default the operating system's user.")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def state_dir(self) -> Path:
        """The folder that holds all state; deleting it is a clean start."""
        return (self.state or self.home / ".plinth").resolve()

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the ledger."""
        return self.ledger_url or f"sqlite:///{self.state_dir / 'ledger.db'}"

    @property
    def prefect_api_url(self) -> str:
        """Address of the Prefect server's API."""
        return f"{(self.prefect_server or f'http://{self.host}:{self.prefect_port}').rstrip('/')}/api"

    @property
    def mlflow_url(self) -> str:
        """Address of the MLflow server (UI and OTLP endpoint)."""
        return (self.mlflow_server or f"http://{self.host}:{self.mlflow_port}").rstrip("/")

    @property
    def mlflow_store(self) -> str:
        """Where MLflow's clients write: a server elsewhere, or directly the embedded profile's database."""
        return self.mlflow_server or f"sqlite:///{self.state_dir / 'mlflow' / 'mlflow.db'}"

    def product_dir(self, product: str) -> Path:
        """The folder that holds a product's state (lake, features, inference log, reports)."""
        return self.state_dir / "products" / product

    def service_port(self, product: str, default: int) -> int:
        """Port of a product's service: the setting when there is one, else the manifest's."""
        return self.service_ports.get(product, default)
