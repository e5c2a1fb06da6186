"""What every test shares: release manifests to work with, and a summary that counts the skips with their reasons."""

from collections import Counter

import pytest

from plinth.core.gates import Verdict
from plinth.core.releases import CodeRef, FeatureServiceRef, ModelRef, ReleaseManifest


@pytest.fixture(scope="session")
def story(tmp_path_factory):
    """The demo's story, told once for every test that looks at its end."""
    from story import tell

    told = tell(tmp_path_factory.mktemp("story") / "state")
    yield told
    done = told.plinth("down")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def postgres():
    """A real PostgreSQL for every test that wants one."""
    from faults.postgres import PostgresServer, why_not

    if reason := why_not():
        pytest.skip(reason)
    server = PostgresServer()
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request, tmp_path):
    """URL of a fresh ledger, once on each database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'ledger' / 'ledger.db'}"
        return
    with request.getfixturevalue("postgres").database() as url:
        yield url


@pytest.fixture(scope="session")
def postgres_url():
    """SQLAlchemy URL of a PostgreSQL server's database `postgres`, as its owner."""
    yield from _server("postgres")


@pytest.fixture(scope="session")
def valkey_url():
    """redis:// URL of a Valkey server."""
    yield from _server("valkey")


@pytest.fixture(scope="session")
def s3():
    """Endpoint, access key and secret key of an S3 server with a bucket `plinth`."""
    yield from _server("seaweedfs")


@pytest.fixture(scope="session")
def qdrant_server():
    """URL and API key of a Qdrant server."""
    yield from _server("qdrant")


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory):
    """An MLflow server that asks for a password (processes.Mlflow)."""
    import processes

    with processes.mlflow(tmp_path_factory.mktemp("mlflow-server")) as server:
        yield server


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory):
    """A Prefect server that asks for an auth string (processes.Prefect)."""
    import processes

    with processes.prefect(tmp_path_factory.mktemp("prefect-server")) as server:
        yield server


def _server(service):
    import servers

    if why := servers.reason(service):
        pytest.skip(why)
    with getattr(servers, service)() as address:
        yield address


@pytest.fixture
def make_manifest():
    """A factory of release manifests; `number` makes them differ."""

    def make(number=1, *, product="flight-delays", passed=True, artifacts=None):
        verdict = Verdict(gate="beats-baseline", passed=passed, observed=0.11, bound=0.1, reason="AUC .74 against .63")
        return ReleaseManifest(
            product=product,
            model=ModelRef(name=product, version=str(number), run_id=f"run{number}", format="onnx"),
            feature_service=FeatureServiceRef(name="flight_delays_v1", digest="f" * 64),
            contracts=(),
            data=(),
            code=CodeRef(commit="0" * 40, dirty=False),
            artifacts=artifacts or {"model.onnx": "a" * 64},
            verdicts=(verdict,),
            created_at="2013-06-01T00:00:00+00:00",
            pipeline_run=f"pipeline{number}",
        )

    return make


def pytest_terminal_summary(terminalreporter):
    skipped = terminalreporter.stats.get("skipped", [])
    if not skipped:
        return
    reasons = Counter(str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else "" for report in skipped)
    terminalreporter.write_sep("-", f"{len(skipped)} skipped")
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"{count} x {reason}")
