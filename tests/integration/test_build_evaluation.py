"""The evaluation of a build: asked anew each time, kept in MLflow where that is there."""

import mlflow
import pytest

from assistant_workspace import PRODUCT, begin, make_workspace, run
from plinth.errors import Unavailable
from plinth.generation.extractive import ExtractiveGenerator
from plinth.generation.port import Piece
from plinth.retrieval.minilm import make_minilm


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    make_minilm(folder / "minilm")
    return folder


@pytest.fixture
def platform(tmp_path, models):
    return make_workspace(tmp_path / "home", models)


def kept(platform):
    """The runs of evaluations in MLflow."""
    client = mlflow.MlflowClient(platform.settings.mlflow_store)
    experiment = client.get_experiment_by_name(f"{PRODUCT}-evaluations")
    runs = client.search_runs([experiment.experiment_id]) if experiment else []
    return [run.data for run in runs if "release" in run.data.tags]


class Away:
    def log_evaluation(self, *_):
        raise Unavailable("MLflow: the database is locked", where="test")


def test_a_build_keeps_its_evaluation_in_mlflow_and_goes_on_without(platform, caplog):
    there = platform.evaluations
    platform.evaluations = Away()
    made = begin(platform)
    assert made.accepted
    assert kept(platform) == []
    assert [record.message for record in caplog.records if "is not in MLflow" in record.message]
    platform.evaluations = there
    again = run(platform, "build")
    (data,) = kept(platform)
    assert (data.tags["release"], data.tags["against"]) == (again.release, made.release)
    assert data.metrics["test/recall_at_10"] == again.metrics["golden_recall_at_10"]
    assert run(platform, "build").release == again.release
    assert len(kept(platform)) == 1, "nothing changed: nothing more is kept"
    (platform.settings.home / "docs" / "bees.md").write_text("# About bees\n\nThe bees moved to the orchard.\n")
    assert run(platform, "refresh").promoted
    assert len(kept(platform)) == 1, "a refresh keeps none"


def test_a_changed_generator_is_evaluated_anew_though_the_configuration_is_the_same(platform, monkeypatch):
    first = begin(platform)
    assert first.metrics["golden_correctness"] == 1.0

    async def says_nothing(self, request):
        yield Piece("The documents do not say.")

    monkeypatch.setattr(ExtractiveGenerator, "stream", says_nothing)
    second = run(platform, "build")
    assert second.build == first.build
    assert second.metrics["golden_correctness"] == 0.0
    assert second.release != first.release
