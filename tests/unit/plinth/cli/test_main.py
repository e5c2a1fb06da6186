import argparse
import json

import pytest

from plinth.cli.command import Groups
from plinth.cli.main import main
from plinth.cli.output import Output
from plinth.errors import Conflict, InvalidInput, NotFound, PlinthError, RefusedByPolicy, Unavailable


@pytest.fixture
def command(monkeypatch):
    """Makes `plinth go` run the function given."""

    def install(handler):
        def build(word=""):
            parser = argparse.ArgumentParser(prog="plinth")
            parser.add_argument("--profile")
            Groups(parser).command("go", handler, help="Go.", example="plinth go")
            return parser

        monkeypatch.setattr("plinth.cli.main.build_parser", build)

    return install


@pytest.mark.parametrize(
    ("error", "code"),
    [(InvalidInput, 2), (NotFound, 2), (RefusedByPolicy, 3), (Conflict, 1), (Unavailable, 1), (PlinthError, 1)],
)
def test_exit_codes_tell_bad_use_refusal_and_failure_apart(command, capsys, error, code):
    def handler(args, out):
        raise error("it broke", where="line 3", hint="mend it")

    command(handler)
    assert main(["go"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "error: it broke\n  where: line 3\n  next:  mend it\n"


def test_errors_are_json_where_json_was_asked_for(command, capsys):
    def handler(args, out):
        raise RefusedByPolicy("no", where="here", hint="ask")

    command(handler)
    assert main(["go", "--json"]) == 3
    assert json.loads(capsys.readouterr().out) == {
        "error": {"kind": "RefusedByPolicy", "what": "no", "where": "here", "next": "ask"}
    }


def test_json_mode_prints_one_document_and_nothing_for_people(command, capsys):
    def handler(args, out):
        out.text("for people")
        out.table(["a"], [[1]])
        out.data({"a": 1})

    command(handler)
    assert main(["go", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"a": 1}


def test_tables_show_markup_and_none_as_they_are(capsys):
    Output().table(["name", "note"], [["[red]x[/red]", None]])
    assert "[red]x[/red]" in capsys.readouterr().out


def test_a_command_that_does_not_exist_is_bad_use(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["no-such-command"])
    assert exit_.value.code == 2


def test_a_wrong_setting_names_the_variable(monkeypatch, capsys):
    monkeypatch.setenv("PLINTH_MLFLOW_PORT", "not-a-port")
    assert main(["product", "list"]) == 2
    assert "PLINTH_MLFLOW_PORT" in capsys.readouterr().err
