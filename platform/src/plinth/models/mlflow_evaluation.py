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

from plinth.core.mlflow_environment import MLFLOW_ENVIRONMENT
from plinth.errors import MissingExtra, Unavailable


class MlflowEvaluations:
    """Keeps evaluations.

    Args:
        store: SQLAlchemy URL of MLflow's database; made and migrated on first use.
        artifacts: Folder for artefacts, one folder a product below it.
    """

    def __init__(self, store: str, artifacts: Path) -> None:
        self._store = store
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
            Unavailable: Its database cannot be written.
        """
        os.environ.update(
            MLFLOW_ENVIRONMENT, MLFLOW_GENAI_EVAL_MAX_WORKERS="1", MLFLOW_GENAI_EVAL_MAX_SCORER_WORKERS="1"
        )
        try:
            import mlflow
            from mlflow.exceptions import MlflowException
        except ModuleNotFoundError as error:
            raise MissingExtra(error.name or "mlflow", "models") from error
        try:
            return self._log(mlflow, product, release, rows, summary, digests)
        except (MlflowException, OSError) as error:
            raise Unavailable(
                f"MLflow: {str(error).splitlines()[0][:300]}",
                where=self._store,
                hint="check the state folder and `plinth doctor`",
            ) from error

    def _log(
        self,
        mlflow: Any,
        product: str,
        release: str,
        rows: Sequence[Mapping[str, Any]],
        summary: Mapping[str, Any],
        digests: Mapping[str, str],
    ) -> str:
        if self._store.startswith("sqlite:///"):
            Path(self._store.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        before = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(self._store)
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
        client = mlflow.MlflowClient(self._store, self._store)
        found = client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        return str(client.create_experiment(name, artifact_location=(self._artifacts / product).resolve().as_uri()))


def _item(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as MLflow's evaluation wants it."""
    return {
        "inputs": {"question": row["question"]},
        "outputs": {
            "answer": row["answer"],
            **{key: row[key] for key in ("metrics", "harmful", "cited", "guardrails")},
        },
        "expectations": {"id": row["id"], "kind": row["kind"], "split": row["split"]},
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
