"""The way to MLflow by the settings, for each of its adapters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from plinth.settings import Settings

if TYPE_CHECKING:
    from plinth.models.mlflow_connection import MlflowConnection


def mlflow_connection(settings: Settings) -> MlflowConnection:
    """The way to MLflow."""
    from plinth.models.mlflow_connection import MlflowConnection

    return MlflowConnection(settings.mlflow_store, settings.mlflow_username, settings.mlflow_password)


def mlflow_cache(settings: Settings) -> Path | None:
    """Where model files are that were fetched from a server: they may be deleted. None without a server."""
    return settings.state_dir / "cache" / "models" if settings.mlflow_server else None


def mlflow_files(settings: Settings) -> Path:
    """Where artefacts are: the embedded profile's own, or what was fetched from a server."""
    return mlflow_cache(settings) or settings.state_dir / "mlflow" / "artifacts"
