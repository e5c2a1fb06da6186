"""`plinth contract`, on files."""

import json
from pathlib import Path

import pytest

from plinth.cli.main import main

TEXT = """\
apiVersion: v3.1.0
kind: DataContract
id: small
version: 1.0.0
status: active
team: { name: data-team }
slaProperties: [{ property: freshness, value: 40, unit: d, element: small.at }]
schema:
  - name: small
    properties:
      - { name: id, logicalType: integer, unique: true, required: true }
      - { name: at, logicalType: timestamp }
      - { name: size, logicalType: number, logicalTypeOptions: { minimum: 0 } }
"""
ROWS = "id,at,size\n1,2013-01-02T00:00:00Z,3\n2,2013-01-03T00:00:00Z,4.5\n"


@pytest.fixture
def files(tmp_path):
    (tmp_path / "small.odcs.yaml").write_text(TEXT)
    (tmp_path / "2013-01.csv").write_text(ROWS)
    return tmp_path


def run(capsys, *words):
    code = main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_contract_alone_is_validated(files, capsys):
    code, out, _ = run(capsys, "contract", "check", files / "small.odcs.yaml")
    assert code == 0
    assert "no batch was checked" in out


def test_a_file_that_keeps_the_contract(files, capsys):
    code, out, _ = run(
        capsys, "contract", "check", files / "small.odcs.yaml", "--data", files / "2013-01.csv", "--json"
    )
    document = json.loads(out)
    assert (code, document["passed"], document["results"][0]["rows"]) == (0, True, 2)
    assert document["contracts"][0]["owner"] == "data-team"


def test_a_file_that_breaks_the_contract_is_refused_and_reported(files, capsys):
    (files / "2013-01.csv").write_text(ROWS + "2,2013-01-04T00:00:00Z,-1\n")
    words = ["contract", "check", files / "small.odcs.yaml", "--data", files / "2013-01.csv"]
    code, out, _ = run(capsys, *words, "--report", files / "report.html")
    assert code == 3
    assert "unique id" in out
    assert "size is below 0" in out
    assert "contract broken" in (files / "report.html").read_text()


def test_the_window_comes_from_the_name_or_the_flag(files, capsys):
    words = ["contract", "check", files / "small.odcs.yaml", "--data", files / "2013-01.csv", "--json"]
    assert run(capsys, *words, "--window", "2013-06")[0] == 3
    assert run(capsys, *words, "--window", "soon")[0] == 2


def test_a_missing_file_or_contract_is_bad_use(files, capsys):
    assert run(capsys, "contract", "check", files / "none.odcs.yaml")[0] == 2
    assert run(capsys, "contract", "check", files / "small.odcs.yaml", "--data", files / "none.csv")[0] == 2


def test_the_lake_of_a_product_is_checked(tmp_path, monkeypatch, capsys):
    (tmp_path / "services").mkdir()
    monkeypatch.setenv("PLINTH_HOME", str(tmp_path))
    assert run(capsys, "product", "new", "mine")[0] == 0
    sample = tmp_path / "services" / "mine" / "data" / "examples" / "2024-01.csv"
    lake = tmp_path / ".plinth" / "products" / "mine" / "lake" / "examples"
    lake.mkdir(parents=True)
    (lake / "2024-01.csv").write_text(sample.read_text())
    (lake / "2024-02.csv").write_text(sample.read_text())
    code, out, _ = run(capsys, "contract", "check", "--json")
    results = json.loads(out)["results"]
    assert code == 3
    assert [(item["batch"], item["passed"]) for item in results] == [("2024-01", True), ("2024-02", False)]
    assert {item["rule"] for item in results[1]["violations"]} >= {"freshness", "window"}


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("x", "x", 0),
        ("minimum: 0", "minimum: 1", 3),
        ("      - { name: at,", "      - { name: extra, logicalType: string }\n      - { name: at,", 0),
        ("name: size", "name: mass", 3),
    ],
)
def test_diff_exits_with_3_on_a_breaking_change(files, capsys, old, new, code):
    (files / "new.odcs.yaml").write_text(TEXT.replace(old, new))
    got, out, _ = run(capsys, "contract", "diff", files / "small.odcs.yaml", files / "new.odcs.yaml", "--json")
    assert got == code
    assert json.loads(out)["breaking"] == (code == 3)


def test_a_breaking_change_with_a_major_version_can_be_allowed(files, capsys):
    new = files / "new.odcs.yaml"
    words = ["contract", "diff", files / "small.odcs.yaml", new, "--allow-major"]
    new.write_text(TEXT.replace("minimum: 0", "minimum: 1"))
    code, out, _ = run(capsys, *words)
    assert code == 3
    assert "2.0.0 instead of 1.0.0" in out
    new.write_text(TEXT.replace("minimum: 0", "minimum: 1").replace("version: 1.0.0", "version: 2.0.0"))
    assert run(capsys, *words)[0] == 0


def test_diff_names_the_line_of_a_bad_document(files, capsys):
    bad = Path(files / "bad.odcs.yaml")
    bad.write_text(TEXT.replace("logicalType: integer", "logicalType: whole"))
    code, _, err = run(capsys, "contract", "diff", files / "small.odcs.yaml", bad)
    assert code == 2
    assert "bad.odcs.yaml:11" in err
