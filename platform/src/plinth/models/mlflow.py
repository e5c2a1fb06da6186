"""The registry in MLflow: written to its SQL store and folder directly, or through its server.

Importing MLflow takes about 3 s, so this module is only imported where a registry is really used.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from plinth.errors import Corrupt, NotFound
from plinth.models.mlflow_connection import MlflowConnection
from plinth.models.port import Alias, Dataset, ModelVersion, Run, Training
from plinth.models.rules import (
    DOWNLOADING,
    MODEL_FILE,
    check_name,
    check_stored,
    check_training,
    run_tags,
    version_tags,
)

_FOLDER = "report"
_LIST = "plinth model list"


class MlflowRegistry:
    """The registry port over MLflow 3.17.

    Args:
        connection: The way to MLflow.
        artifacts: Folder for artefacts, one folder a product below it; with a server, which keeps them, the folder of
            the model files that were asked for.
    """

    def __init__(self, connection: MlflowConnection, artifacts: Path) -> None:
        self.artifacts = artifacts
        self._connection = connection
        self._errors = connection.errors

    @property
    def _client(self) -> Any:
        return self._connection.client

    def log_training(self, training: Training) -> ModelVersion:
        """As Registry.log_training."""
        digest = check_training(training)
        client = self._client
        with self._errors():
            run_id = client.create_run(
                self._experiment(training.product), tags=run_tags(training), run_name=f"{training.model} {digest[:8]}"
            ).info.run_id
            try:
                with tempfile.TemporaryDirectory(prefix="training-") as folder:
                    self._log_run(run_id, training)
                    _write_report(training, Path(folder) / _FOLDER)
                    client.log_artifacts(run_id, folder)
                    source, model_id = self._log_model(run_id, training, Path(folder) / "model")
                version = self._register(run_id, training, digest, source, model_id)
            except BaseException:
                client.set_terminated(run_id, "FAILED")
                raise
            client.set_terminated(run_id, "FINISHED")
        self.set_alias(training.model, version, training.alias)
        return self.get(training.model, version)

    def _experiment(self, product: str) -> str:
        found = self._client.get_experiment_by_name(product)
        if found:
            return str(found.experiment_id)
        if self._connection.remote:
            return str(self._client.create_experiment(product))
        location = self.artifacts / product
        location.mkdir(parents=True, exist_ok=True)
        return str(self._client.create_experiment(product, artifact_location=location.resolve().as_uri()))

    def _log_run(self, run_id: str, training: Training) -> None:
        from mlflow.entities import Dataset as MlflowDataset
        from mlflow.entities import DatasetInput, InputTag, Metric, Param

        now = int(datetime.now(UTC).timestamp() * 1000)
        self._client.log_batch(
            run_id,
            metrics=[Metric(name, float(value), now, 0) for name, value in training.metrics.items()],
            params=[Param(name, str(value)) for name, value in training.params.items()],
        )
        inputs = []
        for data in training.datasets:
            # MLflow keeps 36 characters of a digest, so the whole one goes into a tag.
            kept = {
                "role": data.role,
                "start": data.start,
                "end": data.end,
                "rows": str(data.rows),
                "sha256": data.digest,
            }
            tags = [InputTag("mlflow.data.context", data.role), *(InputTag(key, value) for key, value in kept.items())]
            inputs.append(DatasetInput(MlflowDataset(data.name, data.digest[:36], "local", "{}"), tags))
        self._client.log_inputs(run_id, inputs)

    def _log_model(self, run_id: str, training: Training, folder: Path) -> tuple[str, str]:
        """Write the model as MLflow's ONNX flavour and attach it to the run."""
        import mlflow.onnx
        import numpy as np
        import onnx
        from mlflow.entities import LoggedModelOutput
        from mlflow.models import Model, ModelSignature
        from mlflow.types import Schema, TensorSpec

        client = self._client
        logged = client.create_logged_model(
            client.get_run(run_id).info.experiment_id,
            name=training.model,
            source_run_id=run_id,
            tags=dict(training.tags),
        )
        count = len(training.feature_names)
        signature = ModelSignature(
            Schema([TensorSpec(np.dtype("float32"), (-1, count), "input")]),
            Schema([TensorSpec(np.dtype("float32"), (-1, 2), "probabilities")]),
        )
        mlflow.onnx.save_model(
            onnx.load(training.model_file, load_external_data=False),
            str(folder),
            mlflow_model=Model(
                artifact_path=logged.artifact_location,
                run_id=run_id,
                model_id=logged.model_id,
                model_uuid=logged.model_id,
            ),
            signature=signature,
            input_example={"input": np.asarray(training.input_example, dtype=np.float32)},
            metadata={
                "feature_names": list(training.feature_names),
                "output_example": [float(value) for value in training.output_example],
            },
            pip_requirements=list(training.pip_requirements),
            onnx_execution_providers=["CPUExecutionProvider"],
            save_as_external_data=False,
        )
        # Byte for byte what was checked: saving through the onnx package may spell the same model differently.
        shutil.copyfile(training.model_file, folder / MODEL_FILE)
        client.log_model_artifacts(logged.model_id, str(folder))
        client.finalize_logged_model(logged.model_id, "READY")
        client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
        return str(logged.artifact_location), str(logged.model_id)

    def _register(self, run_id: str, training: Training, digest: str, source: str, model_id: str) -> str:
        from mlflow.exceptions import MlflowException

        client = self._client
        try:
            client.create_registered_model(training.model, tags={"product": training.product})
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        return str(
            client.create_model_version(
                training.model, source, run_id, tags=version_tags(training, digest), model_id=model_id
            ).version
        )

    def versions(self, model: str | None = None) -> list[ModelVersion]:
        """As Registry.versions."""
        client = self._client
        with self._errors():
            found, token = [], None
            while True:
                quoted = model.replace("'", "") if model else ""
                page = client.search_model_versions(f"name = '{quoted}'" if model else None, page_token=token)
                found += page
                token = page.token
                if not token:
                    break
            # The search leaves aliases out.
            aliases = {name: client.get_registered_model(name).aliases for name in {entry.name for entry in found}}
        newest = sorted(found, key=lambda entry: (entry.creation_timestamp, int(entry.version)), reverse=True)
        return [_version(entry, aliases[entry.name]) for entry in newest]

    def get(self, model: str, version: str) -> ModelVersion:
        """As Registry.get."""
        client = self._client
        with self._errors(f"no version {version!r} of model {model!r}", _LIST):
            try:
                entry = client.get_model_version(model, str(int(version)))
            except ValueError:
                raise NotFound(
                    f"no version {version!r} of model {model!r}",
                    where=self._connection.where,
                    hint="versions are numbers",
                ) from None
            return _version(entry, client.get_registered_model(model).aliases)

    def by_alias(self, model: str, alias: Alias) -> ModelVersion | None:
        """As Registry.by_alias."""
        return next((version for version in self.versions(model) if alias in version.aliases), None)

    def set_alias(self, model: str, version: str, alias: Alias) -> None:
        """As Registry.set_alias."""
        self.get(model, version)
        with self._errors(f"no version {version!r} of model {model!r}", _LIST):
            self._client.set_registered_model_alias(model, alias, version)

    def delete_alias(self, model: str, alias: Alias) -> None:
        """As Registry.delete_alias."""
        if self.by_alias(model, alias) is not None:
            with self._errors(f"no alias {alias!r} of model {model!r}", _LIST):
                self._client.delete_registered_model_alias(model, alias)

    def set_tags(self, model: str, version: str, tags: Mapping[str, str]) -> None:
        """As Registry.set_tags."""
        self.get(model, version)
        with self._errors(f"no version {version!r} of model {model!r}", _LIST):
            for name, value in tags.items():
                self._client.set_model_version_tag(model, version, name, value)

    def run(self, run_id: str) -> Run:
        """As Registry.run."""
        client = self._client
        with self._errors(f"no run {run_id!r}", _LIST):
            found = client.get_run(run_id)
        datasets = []
        for entry in found.inputs.dataset_inputs:
            tags = {tag.key: tag.value for tag in entry.tags}
            datasets.append(
                Dataset(entry.dataset.name, tags["role"], tags["start"], tags["end"], int(tags["rows"]), tags["sha256"])
            )
        tags = {name: value for name, value in found.data.tags.items() if not name.startswith("mlflow.")}
        return Run(run_id, dict(found.data.params), dict(found.data.metrics), tags, tuple(datasets))

    def document(self, run_id: str, name: str) -> bytes:
        """As Registry.document."""
        check_name(name)
        self.run(run_id)
        with self._errors(f"no document {name!r}", _LIST), tempfile.TemporaryDirectory(prefix="document-") as folder:
            if name not in {Path(entry.path).name for entry in self._client.list_artifacts(run_id, _FOLDER)}:
                raise NotFound(
                    f"run {run_id!r} has no document {name!r}", where=self._connection.where, hint="check the name"
                )
            return Path(self._client.download_artifacts(run_id, f"{_FOLDER}/{name}", folder)).read_bytes()

    def model_file(self, model: str, version: str) -> Path:
        """As Registry.model_file."""
        found = self.get(model, version)
        client = self._client
        with self._errors(f"no version {version!r} of model {model!r}", _LIST):
            source = client.get_model_version_download_uri(model, version)
            if self._connection.remote:
                return self._downloaded(source, found.digest, f"{model} version {version}")
            location = Path(url2pathname(urlparse(source).path)) / MODEL_FILE
        return check_stored(location, found.digest, f"{model} version {version}")

    def _downloaded(self, source: str, digest: str, where: str) -> Path:
        """The server's file, under its digest: one that is here already and still is what it was is not asked for."""
        target = self.artifacts / digest / MODEL_FILE
        with suppress(NotFound, Corrupt):
            return check_stored(target, digest, where)
        from mlflow.artifacts import download_artifacts, list_artifacts

        server, source = self._connection.store, source.rstrip("/")
        if MODEL_FILE not in {Path(entry.path).name for entry in list_artifacts(source, tracking_uri=server)}:
            raise NotFound(f"the model file {MODEL_FILE} is gone", where=where, hint="restore it, or train again")
        self.artifacts.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=DOWNLOADING, dir=self.artifacts) as folder:
            path = download_artifacts(f"{source}/{MODEL_FILE}", dst_path=folder, tracking_uri=server)
            check_stored(Path(path), digest, where)
            target.parent.mkdir(exist_ok=True)
            os.replace(path, target)
        return target


def _version(entry: Any, aliases: Mapping[str, Any]) -> ModelVersion:
    return ModelVersion(
        name=entry.name,
        version=str(entry.version),
        run_id=entry.run_id,
        digest=entry.tags.get("sha256", ""),
        created_at=datetime.fromtimestamp(entry.creation_timestamp / 1000, UTC).isoformat(timespec="milliseconds"),
        aliases=tuple(sorted(alias for alias, version in aliases.items() if str(version) == str(entry.version))),
        tags=dict(entry.tags),
    )


def _write_report(training: Training, folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, image in training.plots.items():
        (folder / name).write_bytes(image)
    for name, text in training.documents.items():
        (folder / name).write_text(text, encoding="utf-8")
