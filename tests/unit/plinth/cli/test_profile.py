"""`plinth --profile NAME ...`, and the commands around `.env`."""

import json
import os
from pathlib import Path

import pytest

from plinth.cli.main import first_word, main
from plinth.cli.profile import in_profile

SERVICE = Path(__file__).parents[4] / "services" / "flight-delays"


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    (tmp_path / "services").mkdir()
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setenv("PLINTH_HOME", str(tmp_path))
    monkeypatch.delenv("PLINTH_PROFILE", raising=False)
    return tmp_path


def run(capsys, *words):
    code = main(list(words))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    ("words", "word"),
    [
        (["--profile", "compose", "status"], "status"), (["--profile=compose", "status"], "status"),
        (["status", "--profile", "compose"], "status"), (["--profile", "compose"], ""), ([], ""),
        (["--profile", "cloud", "status"], "--profile"), (["--profile=cloud", "status"], "--profile=cloud"),
        (["--profile"], "--profile"), (["--version"], "--version"),
    ],
)  # fmt: skip
def test_the_command_is_the_word_behind_the_profile(words, word):
    assert first_word(words) == word


@pytest.mark.parametrize("words", [["--profile", "cloud", "status"], ["--profile=cloud"], ["--profile"]])
def test_a_profile_that_there_is_not_is_bad_use(capsys, words):
    with pytest.raises(SystemExit) as exit_:
        main(words)
    assert exit_.value.code == 2
    assert "--profile" in capsys.readouterr().err


def test_help_answers_behind_a_profile_too(capsys):
    assert run(capsys, "--profile", "compose", "--help")[1] == run(capsys, "--help")[1]


def test_a_command_leaves_the_profile_and_the_umask_as_they_were(workspace, capsys):
    before = os.umask(0o022)
    try:
        assert run(capsys, "init", "compose")[0] == 0
        assert run(capsys, "--profile", "compose", "product", "list")[0] == 0
        assert "PLINTH_PROFILE" not in os.environ
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


@pytest.mark.parametrize(("user", "mask"), [(0, 0o002), (1000, 0o077)])
def test_only_root_whose_containers_are_of_another_user_opens_files_to_a_group(monkeypatch, user, mask):
    monkeypatch.setattr(os, "geteuid", lambda: user)
    before = os.umask(0o077)
    try:
        with in_profile("compose"):
            now = os.umask(0o077)
            os.umask(now)
        assert now == mask
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)


def test_without_env_every_command_says_what_writes_it(workspace, capsys):
    code, _, err = run(capsys, "--profile", "compose", "product", "list")
    assert code == 2
    assert "plinth init compose" in err


def test_next_steps_are_meant_for_the_profile_that_was_named(capsys):
    from plinth.cli.output import Output
    from plinth.errors import Unavailable

    error = Unavailable("no", hint="`plinth up`; plinth status; or plinth init compose")
    Output(profile="compose").error(error)
    said = "`plinth --profile compose up`; plinth --profile compose status; or plinth init compose"
    assert said in capsys.readouterr().err
    Output().error(error)
    assert "`plinth up`; plinth status" in capsys.readouterr().err


def test_init_tells_names_and_places_and_no_secret(workspace, capsys):
    code, out, err = run(capsys, "init", "compose", "--with", "observability,llm")
    assert code == 0
    values = dict(line.split("=", 1) for line in (workspace / ".env").read_text().splitlines() if "=" in line)
    assert str(workspace / ".env") in out
    secrets = [value for name, value in values.items() if name.endswith(("PASSWORD", "KEY", "AUTH", "TOKEN"))]
    assert len(secrets) > 10
    assert not any(value and value in out + err for value in secrets if "$" not in value)
    made = json.loads(run(capsys, "init", "compose", "--json")[1])
    assert (made["created"], made["added"], made["project"]) == (False, [], values["COMPOSE_PROJECT_NAME"])


def test_init_says_what_it_added_and_what_is_not_its_own(workspace, capsys):
    (workspace / ".env").write_text("MY_OWN=1\nVALKEY_PASSWORD=before\n")
    _, out, err = run(capsys, "init", "compose")
    assert "added to" in out
    assert "POSTGRES_PASSWORD" in out
    assert "MY_OWN" in err
    assert "keep the passwords" in err


@pytest.mark.parametrize("wrong", [["--with", "x"], ["--project", "A b"], ["--port-offset", "99999"]])
def test_init_refuses_wishes_that_do_not_fit(workspace, capsys, wrong):
    assert run(capsys, "init", "compose", *wrong)[0] == 2
    assert not (workspace / ".env").exists()


@pytest.mark.parametrize(
    ("name", "said"), [("grafana", "--with observability"), ("prometheus", "init compose"), ("nobody", "there are: ")]
)
def test_open_says_where_to_get_what_the_embedded_profile_has_not(workspace, capsys, name, said):
    code, _, err = run(capsys, "open", name, "--print")
    assert code == 2
    assert said in err


def test_open_names_the_credentials_variable_and_never_its_value(workspace, capsys, monkeypatch):
    monkeypatch.setattr("plinth.runtime.pages.answers", lambda url: False)
    run(capsys, "init", "compose")
    code, out, err = run(capsys, "--profile", "compose", "open", "grafana")
    assert code == 0
    assert out.splitlines()[0] == "http://127.0.0.1:3000"
    assert f"GRAFANA_ADMIN_PASSWORD in {workspace / '.env'}" in out
    assert "COMPOSE_PROFILES=observability" in err
    found = json.loads(run(capsys, "--profile", "compose", "open", "mlflow", "--json")[1])
    assert found == {
        "name": "mlflow", "url": "http://127.0.0.1:5001", "answers": False,
        "credentials": f"user admin, password: MLFLOW_ADMIN_PASSWORD in {workspace / '.env'}",
    }  # fmt: skip
    found = json.loads(run(capsys, "open", "mlflow", "--json")[1])
    assert found["credentials"] == "none is asked for"


def test_open_names_a_command_that_makes_the_token_of_a_product(workspace, capsys, monkeypatch):
    monkeypatch.setattr("plinth.runtime.pages.answers", lambda url: False)
    (workspace / "services" / "flight-delays").symlink_to(SERVICE)
    run(capsys, "init", "compose")
    found = json.loads(run(capsys, "--profile", "compose", "open", "flight-delays", "--json")[1])
    words = found["credentials"].split("`")[1].split()
    assert words == ["plinth", "--profile", "compose", "token", "issue", "flight-delays"]
    with pytest.raises(SystemExit) as exit_:
        main([*words[1:], "--help"])
    assert exit_.value.code == 0


def test_reset_without_env_says_that_nothing_names_the_project(workspace, capsys, monkeypatch):
    monkeypatch.delenv("COMPOSE_PROJECT_NAME", raising=False)
    code, _, err = run(capsys, "reset", "compose", "--yes")
    assert code == 2
    assert "nothing names the compose project" in err
