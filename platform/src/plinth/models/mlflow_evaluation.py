"""Evaluations of assistants in MLflow, through `mlflow.genai.evaluate`: a trace a question, a score a metric.

The answers were given and judged before: MLflow is handed both and asks no model, ours or a judge's (no `predict_fn`,
no built-in scorer). One worker, because MLflow 3.17.2 with its ten loses traces on SQLite without an error (half of 60,
and a run of 96 s instead of 10).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from plinth.models.mlflow_connection import MlflowConnection


class MlflowEvaluations:
    """Keeps evaluations.

    Args:
        connection: The way to MLflow.
        artifacts: Folder for artefacts, one folder a product below it; a server has its own.
    """

    def __init__(self, connection: MlflowConnection, artifacts: Path) -> None:
        self._connection = connection
        self._artifacts = artifacts

    def log_evaluation(
        self,
        product: str,
        release: str,
        rows: Sequence[Mapping[str, Any]],
        summary: Mapping[str, Any],
        digests: Mapping[str, str],
    ) -> str:
        """Write an evaluation down.

        Args:
            product: The product: its experiment is `<product>-evaluations`.
            release: Digest of what was evaluated, or a name for what is no release yet.
            rows: A row a question (`plinth.assistants.evaluation.Row.as_dict`).
            summary: Of `Evaluation.summary`; its shares become the run's metrics.
            digests: What it was evaluated on, such as the golden set's sha256; the run's tags.

        Returns:
            The run's id.

        Raises:
            MissingExtra: MLflow is not installed.
            Unavailable: Its database cannot be written, or its server does not answer.
            RefusedByPolicy: The server does not take the user and the password.
        """
        os.environ.update(MLFLOW_GENAI_EVAL_MAX_WORKERS="1", MLFLOW_GENAI_EVAL_MAX_SCORER_WORKERS="1")
        self._connection.prepare()
        import mlflow

        with self._connection.errors():
            return self._log(mlflow, product, release, rows, summary, digests)

    def _log(
        self,
        mlflow: Any,
        product: str,
        release: str,
        rows: Sequence[Mapping[str, Any]],
        summary: Mapping[str, Any],
        digests: Mapping[str, str],
    ) -> str:
        before = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(self._connection.store)
        try:
            experiment = self._experiment(mlflow, f"{product}-evaluations", product)
            with mlflow.start_run(experiment_id=experiment, run_name=release[:12]) as run:
                mlflow.set_tags({"product": product, "release": release, **digests})
                mlflow.log_metrics(_metrics(summary))
                mlflow.log_dict(dict(summary), "summary.json")
                mlflow.log_text("\n".join(json.dumps(dict(row), ensure_ascii=False) for row in rows), "rows.jsonl")
                # It draws progress and congratulates: standard output is the command's own.
                with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                    mlflow.genai.evaluate(data=[_item(row) for row in rows], scorers=_scorers(mlflow, rows))
                return str(run.info.run_id)
        finally:
            mlflow.set_tracking_uri(before)

    def _experiment(self, mlflow: Any, name: str, product: str) -> str:
        client = self._connection.client
        found = client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        if self._connection.remote:
            return str(client.create_experiment(name))
        return str(client.create_experiment(name, artifact_location=(self._artifacts / product).resolve().as_uri()))


def _item(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as MLflow's evaluation wants it. Expectations would be a request each."""
    return {
        "inputs": {key: row[key] for key in ("question", "id", "kind", "split")},
        "outputs": {
            "answer": row["answer"],
            **{key: row[key] for key in ("metrics", "harmful", "cited", "guardrails")},
        },
    }


def _scorers(mlflow: Any, rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Scorers that read what was judged; one that says nothing of a question gives it no score."""

    def reader(name: str) -> Callable[..., float | None]:
        def read(outputs: Mapping[str, Any]) -> float | None:
            value = outputs["metrics"].get(name)
            return None if value is None else float(value)

        return read

    def harmless(outputs: Mapping[str, Any]) -> bool:
        return not outputs["harmful"]

    names = sorted({name for row in rows for name in row["metrics"]})
    scorer = mlflow.genai.scorer
    return [scorer(reader(name), name=_name(name)) for name in names] + [scorer(harmless, name="harmless")]


def _metrics(summary: Mapping[str, Any]) -> dict[str, float]:
    found = {
        f"{split}/{_name(name)}": float(value["value"])
        for split, metrics in summary["splits"].items()
        for name, value in metrics.items()
        if value is not None
    }
    return {**found, "harmful": float(len(summary["harmful"]))}


def _name(metric: str) -> str:
    return metric.replace("@", "_at_")  # MLflow's names have no @
