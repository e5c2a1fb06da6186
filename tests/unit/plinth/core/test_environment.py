"""Settings from the environment and the `.env` beneath it."""

import pytest

from plinth.core import environment
from plinth.core.environment import lacking, load_settings, read_env
from plinth.errors import InvalidInput
from plinth.runtime.compose_env import Wanted, init


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    for name in environment.HOST_VIEW:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "services").mkdir()
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setenv("PLINTH_HOME", str(tmp_path))
    monkeypatch.setenv("PLINTH_PROFILE", "compose")
    return tmp_path


@pytest.fixture
def env(workspace):
    return init(Wanted(offset=100)).file


def test_the_hosts_view_of_the_containers_is_read_from_env(env, workspace):
    settings, written = load_settings(), read_env(env)
    assert settings.profile == "compose"
    assert settings.home == workspace
    assert settings.state_dir == workspace / ".plinth" / "compose"
    assert settings.ledger_url == f"postgresql+psycopg://ledger:{written['LEDGER_DB_PASSWORD']}@127.0.0.1:15532/ledger"
    assert settings.mlflow_url == "http://127.0.0.1:5101"
    assert settings.mlflow_password.get_secret_value() == written["MLFLOW_ADMIN_PASSWORD"]
    assert settings.prefect_api_url == "http://127.0.0.1:4300/api"
    assert settings.prefect_auth.get_secret_value().startswith("admin:")
    assert settings.online_store.get_secret_value() == f"redis://:{written['VALKEY_PASSWORD']}@127.0.0.1:16479/0"
    assert (settings.object_store, settings.object_endpoint) == ("s3://plinth", "http://127.0.0.1:18433")
    assert settings.service_ports == {"flight-delays": 3101, "docs-assistant": 3102}
    assert (settings.vector_store, settings.signals) == ("qdrant", "prometheus")
    assert settings.token_key.get_secret_value() == written["PLINTH_TOKEN_KEY"]
    assert settings.controller_port == 3110


def test_the_environment_wins_over_a_line_and_over_what_a_line_refers_to(env, monkeypatch):
    monkeypatch.setenv("PLINTH_VECTOR_STORE", "edge")
    monkeypatch.setenv("MLFLOW_PORT", "6001")
    settings = load_settings()
    assert settings.vector_store == "edge"
    assert settings.mlflow_url == "http://127.0.0.1:6001"


def test_a_line_may_refer_to_one_that_stands_below_it(env):
    lines = env.read_text().splitlines()
    moved = next(line for line in lines if line.startswith("LEDGER_DB_PASSWORD="))
    env.write_text("\n".join([*(line for line in lines if line != moved), moved, ""]))
    assert moved.partition("=")[2] in str(load_settings().ledger_url)


def test_another_profile_reads_no_env(env, monkeypatch):
    monkeypatch.delenv("PLINTH_PROFILE")
    assert load_settings().ledger_url is None


def test_without_a_file_the_environment_is_everything_as_in_a_container(workspace, monkeypatch):
    monkeypatch.setenv("PLINTH_LEDGER_URL", "postgresql+psycopg://ledger@postgres/ledger")
    assert load_settings().ledger_url == "postgresql+psycopg://ledger@postgres/ledger"


def test_without_a_file_on_the_host_the_error_says_what_writes_it(workspace):
    with pytest.raises(InvalidInput, match="has no") as error:
        load_settings()
    assert "plinth init compose" in error.value.hint


@pytest.mark.parametrize("name", ["PLINTH_LEDGER_URL", "MLFLOW_ADMIN_PASSWORD", "PLINTH_TOKEN_KEY"])
@pytest.mark.parametrize("how", ["gone", "empty"])
def test_a_stale_file_is_told_by_the_names_it_lacks_and_never_by_a_value(env, name, how):
    lines = env.read_text().splitlines()
    kept = [line for line in lines if not line.startswith(f"{name}=")]
    env.write_text("\n".join([*kept, *([f"{name}="] if how == "empty" else []), ""]))
    if (how, name) == ("empty", "PLINTH_LEDGER_URL"):
        return  # an address that is left empty is a choice: the setting's default
    assert lacking(env) == [name]
    with pytest.raises(InvalidInput, match=name) as error:
        load_settings()
    assert "plinth init compose" in error.value.hint
    assert read_env(env)["POSTGRES_PASSWORD"] not in str(error.value)


def test_a_file_that_came_from_another_workspace_is_refused(env, tmp_path_factory, monkeypatch):
    copy = tmp_path_factory.mktemp("copy")
    (copy / "services").mkdir()
    (copy / ".env").write_text(env.read_text())
    monkeypatch.setenv("PLINTH_HOME", str(copy))
    with pytest.raises(InvalidInput, match="another workspace"):
        load_settings()


@pytest.mark.parametrize("content", [b"what is this\n= 5\n", b"A='never closed\n", b"\xff\xfe"])
def test_a_file_of_another_kind_is_refused_without_its_content(workspace, content):
    (workspace / ".env").write_bytes(content)
    with pytest.raises(InvalidInput, match=r"\.env") as error:
        load_settings()
    assert "never closed" not in str(error.value)


def test_a_value_that_does_not_fit_is_named(env):
    env.write_text(env.read_text().replace("PLINTH_SIGNALS=prometheus", "PLINTH_SIGNALS=smoke"))
    with pytest.raises(InvalidInput, match="PLINTH_SIGNALS"):
        load_settings()
