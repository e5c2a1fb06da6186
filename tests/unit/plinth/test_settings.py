import pytest
from pydantic import ValidationError

from plinth.settings import Settings, find_home


def test_state_lives_in_the_workspace_unless_said_otherwise(tmp_path):
    assert Settings(home=tmp_path).state_dir == tmp_path / ".plinth"
    assert Settings(home=tmp_path, state=tmp_path / "elsewhere").state_dir == tmp_path / "elsewhere"


def test_the_environment_sets_every_field(monkeypatch, tmp_path):
    monkeypatch.setenv("PLINTH_STATE", str(tmp_path / "s"))
    monkeypatch.setenv("PLINTH_SERVICE_PORTS", '{"flight-delays": 3999}')
    monkeypatch.setenv("PLINTH_TRACES", "false")
    settings = Settings()
    assert settings.state_dir == tmp_path / "s"
    assert settings.service_port("flight-delays", 3001) == 3999
    assert settings.service_port("another", 3001) == 3001
    assert settings.traces is False


@pytest.mark.parametrize(
    "wrong",
    [
        {"mlflow_port": 0},
        {"prefect_port": 70000},
        {"trace_sample": 2},
        {"profile": "cloud"},
        {"service_ports": {"a": 99999}},
    ],
)
def test_values_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValidationError):
        Settings(**wrong)


def test_settings_do_not_change_once_made():
    with pytest.raises(ValidationError):
        Settings().host = "0.0.0.0"  # type: ignore[misc]


def test_the_workspace_is_found_from_a_folder_inside_it(tmp_path):
    (tmp_path / "services" / "x").mkdir(parents=True)
    (tmp_path / "pyproject.toml").touch()
    assert find_home(tmp_path / "services" / "x") == tmp_path


def test_without_a_workspace_the_working_directory_is_home(tmp_path):
    assert find_home(tmp_path) == tmp_path
