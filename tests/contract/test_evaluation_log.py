"""Evaluations in MLflow, on SQLite and on a server: a question is a trace with its scores, and no model is asked."""

import pytest

pytest.importorskip("mlflow")

from plinth.models.mlflow_connection import MlflowConnection
from plinth.models.mlflow_evaluation import MlflowEvaluations

ROWS = [
    {
        "id": f"q{number}", "kind": "answerable" if number % 3 else "adversarial", "split": "test",
        "question": f"Why {number}?",
        "answer": "Because. [1]", "answered": True, "refused": "", "cited": ["docs/a.md"], "found": ["docs/a.md"],
        "metrics": {"ndcg@10": 0.5, "correctness": 1.0} if number % 3 else {"refusal": 0.0},
        "harmful": "leaked" if number == 3 else "", "ungrounded": [], "guardrails": ["support:words"],
    }
    for number in range(12)
]  # fmt: skip
SUMMARY = {
    "splits": {"test": {"ndcg@10": {"value": 0.5}, "refusal": {"value": 0.0}, "mrr": None}},
    "harmful": {"q3": "leaked"},
}


@pytest.fixture(scope="module", params=["sqlite", "server"])
def logged(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mlflow")
    if request.param == "server":
        server = request.getfixturevalue("mlflow_server")
        connection = MlflowConnection(server.url, server.user, server.password)
    else:
        connection = MlflowConnection(f"sqlite:///{folder / 'mlflow.db'}")
    import mlflow

    before = mlflow.get_tracking_uri()
    run = MlflowEvaluations(connection, folder / "artifacts").log_evaluation(
        "docs-assistant", "d" * 64, ROWS, SUMMARY, {"golden": "e" * 64}
    )
    assert mlflow.get_tracking_uri() == before
    return connection.client, run


def test_the_run_says_what_was_evaluated_on_what(logged):
    client, run = logged
    data = client.get_run(run).data
    assert data.tags["release"] == "d" * 64
    assert data.tags["golden"] == "e" * 64
    assert data.metrics["test/ndcg_at_10"] == 0.5
    assert data.metrics["harmful"] == 1.0
    assert "test/mrr" not in data.metrics


def test_every_question_is_a_trace_with_the_scores_that_say_something_of_it(logged):
    client, run = logged
    experiment = client.get_run(run).info.experiment_id
    traces = client.search_traces(locations=[experiment], max_results=100)
    assert len(traces) == len(ROWS)
    scores = {}
    for trace in traces:
        question = trace.data.request
        scores[str(question)] = {a.name: a.feedback.value for a in trace.info.assessments if a.feedback is not None}
    found = list(scores.values())
    assert sum("correctness" in score for score in found) == 8
    assert sum(score.get("refusal") == 0.0 for score in found) == 4
    assert sum(score["harmless"] is False for score in found) == 1
