"""The port ContractEngine: what every engine has to find, on files it reads itself. One suite, run on each adapter."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest

from plinth.contracts.duckdb import DuckDBEngine
from plinth.contracts.model import Column, Contract, Freshness, Quality
from plinth.contracts.odcs import load
from plinth.contracts.port import Window
from plinth.errors import InvalidInput, NotFound

ROOT = Path(__file__).parents[2]
CONTRACT = Contract(
    id="things", version="1.0.0", status="active", dataset="things", owner="team", digest="0" * 64,
    source="things.yaml",
    columns=(
        Column("id", "integer", "BIGINT", required=True, key=1),
        Column("at", "timestamp", "TIMESTAMPTZ", required=True),
        Column("color", "string", "VARCHAR", values=("red", "green")),
        Column("weight", "number", "DOUBLE", minimum=0, exclusive_maximum=10, unit="kg"),
        Column("code", "string", unique=True, pattern="^[A-Z]+$", max_length=4),
        Column("secret", "string", classification="restricted"),
    ),
    quality=(Quality("size", "rowCount", "mustBeBetween", (2.0, 1000.0)),),
    freshness=Freshness("at", 86400.0),
)  # fmt: skip
ROWS = (
    "SELECT i::BIGINT AS id, TIMESTAMPTZ '2013-01-01 00:00:00+00' + to_minutes(i::INT * 450) AS at, "
    "['red', 'green', NULL][1 + i % 3] AS color, (i % 10)::DOUBLE AS weight, "
    "chr((65 + i % 26)::INT) || chr((65 + i // 26)::INT) AS code, 'top-' || i AS secret FROM range(100) t(i)"
)
JANUARY = Window.of_batch("2013-01")


@pytest.fixture(params=[DuckDBEngine], ids=["duckdb"])
def engine(request):
    return request.param()


@pytest.fixture(params=["parquet", "csv"])
def write(request, tmp_path):
    """Writes rows as a batch file, in each format an engine has to read."""

    def write(query=ROWS, name="2013-01"):
        path = tmp_path / f"{name}.{request.param}"
        with duckdb.connect() as db:
            db.execute("SET TimeZone = 'UTC'")
            db.execute(f"COPY ({query}) TO '{path}' (FORMAT {request.param})")
        return path

    write.format = request.param
    return write


def changed(**columns):
    """The rows with columns replaced by SQL."""
    replaced = ", ".join(f'{value} AS "{name}"' for name, value in columns.items())
    return f"SELECT * REPLACE ({replaced}) FROM ({ROWS})"


def found(result):
    return {(violation.rule, violation.column): violation.count for violation in result.violations}


def test_rows_that_keep_the_contract_pass(engine, write):
    result = engine.check(CONTRACT, write(), JANUARY)
    assert (result.passed, result.rows, result.batch, result.skipped) == (True, 100, "2013-01", ())
    assert result.violations == ()
    assert (result.contract, result.version, result.digest) == ("things", "1.0.0", "0" * 64)


@pytest.mark.parametrize(
    ("columns", "rule", "column", "count"),
    [
        ({"id": "nullif(id, 5)"}, "required", "id", 1),
        ({"color": "CASE WHEN id < 7 THEN 'blue' ELSE color END"}, "enumeration", "color", 7),
        ({"weight": "CASE WHEN id < 3 THEN -0.5 ELSE weight END"}, "range", "weight", 3),
        ({"weight": "CASE WHEN id < 4 THEN 10.0 ELSE weight END"}, "range", "weight", 4),
        ({"weight": "CASE WHEN id < 2 THEN 'nan'::DOUBLE ELSE weight END"}, "not-finite", "weight", 2),
        ({"weight": "CASE WHEN id < 2 THEN '-inf'::DOUBLE ELSE weight END"}, "not-finite", "weight", 2),
        ({"code": "CASE WHEN id = 9 THEN 'x9' ELSE code END"}, "pattern", "code", 1),
        ({"code": "CASE WHEN id = 9 THEN 'ABCDE' ELSE code END"}, "length", "code", 1),
        ({"code": "CASE WHEN id < 4 THEN 'SAME' ELSE code END"}, "unique", "code", 3),
        ({"id": "CASE WHEN id < 4 THEN 77 ELSE id END"}, "unique", "id", 4),
    ],
)
def test_a_broken_rule_is_found_counted_and_shown(engine, write, columns, rule, column, count):
    result = engine.check(CONTRACT, write(changed(**columns)), JANUARY)
    assert not result.passed
    assert found(result) == {(rule, column): count}
    (violation,) = result.violations
    assert 1 <= len(violation.samples) <= 5
    assert all(sample["row"].isdigit() for sample in violation.samples)
    assert all(column in sample for sample in violation.samples)


def test_sensitive_columns_are_masked_in_samples(engine, write):
    result = engine.check(CONTRACT, write(changed(color="'blue'")), JANUARY)
    shown = [value for sample in result.violations[0].samples for value in sample.values() if value]
    assert not [value for value in shown if "top-" in value]
    assert result.violations[0].samples[0]["secret"] == "(masked)"


def test_missing_renamed_and_extra_columns_are_found(engine, write):
    result = engine.check(CONTRACT, write(f"SELECT * EXCLUDE (weight) RENAME (color AS colour) FROM ({ROWS})"), JANUARY)
    assert found(result) == {("schema", "weight"): 1, ("schema", "color"): 1, ("schema", "colour"): 1}


def test_a_renamed_column_is_called_so(engine, write):
    result = engine.check(CONTRACT, write(f"SELECT * RENAME (weight AS mass) FROM ({ROWS})"), JANUARY)
    assert "renamed to mass?" in next(item.message for item in result.violations if item.column == "weight")


def test_a_retyped_column_is_found(engine, write):
    result = engine.check(CONTRACT, write(changed(id="'n' || id")), JANUARY)
    expected = {("schema", "id"): 1} if write.format == "parquet" else {("type", "id"): 100, ("required", "id"): 100}
    assert found(result) == expected


def test_values_are_checked_beside_a_broken_schema(engine, write):
    blue = changed(color="'blue'")
    query = f"SELECT * EXCLUDE (code) FROM ({blue})"
    result = engine.check(CONTRACT, write(query), JANUARY)
    assert found(result) == {("schema", "code"): 1, ("enumeration", "color"): 100}
    assert any("unique code" in item for item in result.skipped)


@pytest.mark.parametrize(("low", "high", "holds"), [(100, 100, True), (1, 99, False), (101, 200, False)])
def test_the_number_of_rows_is_bounded(engine, write, low, high, holds):
    contract = replace(CONTRACT, quality=(Quality("size", "rowCount", "mustBeBetween", (float(low), float(high))),))
    result = engine.check(contract, write(), JANUARY)
    assert result.passed == holds
    assert holds or found(result) == {("row-count", None): 1}


def test_no_row_at_all_is_a_finding(engine, write):
    result = engine.check(CONTRACT, write(f"SELECT * FROM ({ROWS}) WHERE id < 0"), JANUARY)
    assert result.rows == 0
    assert {rule for rule, _ in found(result)} == {"row-count", "freshness"}


def test_freshness_is_measured_against_the_windows_end(engine, write):
    late = Window(JANUARY.start, datetime(2013, 2, 5, tzinfo=UTC))
    result = engine.check(CONTRACT, write(), late)
    assert found(result) == {("freshness", "at"): 1}
    assert engine.check(CONTRACT, write(), None).skipped == ("freshness of at (the batch's window is unknown)",)


def test_rows_far_outside_the_window_are_found(engine, write):
    result = engine.check(
        CONTRACT, write(changed(at='CASE WHEN id = 3 THEN "at" + INTERVAL 90 DAY ELSE "at" END')), JANUARY
    )
    assert found(result) == {("window", "at"): 1}


@pytest.mark.parametrize(
    ("rule", "observed"),
    [
        (Quality("r", "nullValues", "mustBeLessThan", (30.0,), "color", percent=True), "33"),
        (Quality("r", "nullValues", "mustBe", (0.0,), "color"), "33"),
        (Quality("r", "missingValues", "mustBe", (0.0,), "code", values=("AA", "BA", None)), "2"),
        (Quality("r", "invalidValues", "mustBeLessOrEqualTo", (1.0,), "code", pattern="^[AB]"), "92"),
        (Quality("r", "duplicateValues", "mustBe", (0.0,), columns=("color", "weight")), "47"),
        (Quality("r", "sql", "mustBe", (0.0,), query="SELECT count(*) FROM ${object} WHERE weight > 8"), "10"),
        (Quality("r", "sql", "mustBeLessThan", (9.0,), "weight", query="SELECT max(${property}) FROM ${object}"), "9"),
    ],
)
def test_rules_of_the_quality_library_and_sql(engine, write, rule, observed):
    result = engine.check(replace(CONTRACT, quality=(rule,)), write(), JANUARY)
    (violation,) = result.violations
    assert f"r: {observed}," in violation.message


def test_a_rule_that_warns_does_not_break(engine, write):
    rule = Quality("r", "nullValues", "mustBe", (0.0,), "color", severity="warning")
    result = engine.check(replace(CONTRACT, quality=(rule,)), write(), JANUARY)
    assert result.passed
    assert [violation.severity for violation in result.violations] == ["warning"]


@pytest.mark.parametrize(
    "query",
    [
        "SELECT count(*) FROM read_text('/etc/hostname')",
        "SELECT count(*) FROM 'other.csv'",
        "SELECT count(*) FROM nowhere",
        "SELECT 1, 2",
        "SELECT 'text'",
    ],
)
def test_an_sql_rule_reads_the_batch_and_nothing_else(engine, write, query):
    rule = Quality("r", "sql", "mustBe", (0.0,), query=query)
    with pytest.raises(InvalidInput, match="sql rule"):
        engine.check(replace(CONTRACT, quality=(rule,)), write(), JANUARY)


def test_a_pattern_the_engine_cannot_read_is_the_contracts_fault(engine, write):
    contract = replace(
        CONTRACT, columns=(*CONTRACT.columns[:4], Column("code", "string", pattern="(?=x)"), CONTRACT.columns[5])
    )
    with pytest.raises(InvalidInput, match="cannot be run"):
        engine.check(contract, write(), JANUARY)


def test_names_that_look_like_sql_are_only_names(engine, tmp_path):
    name = 'a"; DROP VIEW batch; --'
    path = tmp_path / "x.csv"
    path.write_text('"' + name.replace('"', '""') + "\"\nv'; x\n")
    contract = replace(CONTRACT, columns=(Column(name, "string", values=("it's",)),), quality=(), freshness=None)
    assert found(engine.check(contract, path)) == {("enumeration", name): 1}


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"\0" * 100 + b"PAR1", b"not parquet at all"])
def test_a_file_that_is_no_parquet_is_a_finding_with_a_reason(engine, tmp_path, content):
    path = tmp_path / "2013-01.parquet"
    path.write_bytes(content)
    result = engine.check(CONTRACT, path, JANUARY)
    assert {rule for rule, _ in found(result)} == {"unreadable"}
    assert result.violations[0].message


def test_a_missing_file_and_an_unknown_format_are_errors(engine, tmp_path):
    with pytest.raises(NotFound):
        engine.check(CONTRACT, tmp_path / "none.parquet")
    (tmp_path / "batch.pickle").write_bytes(b"\x80\x04")
    with pytest.raises(InvalidInput):
        engine.check(CONTRACT, tmp_path / "batch.pickle")


@pytest.fixture(scope="session")
def raw(tmp_path_factory):
    from flight_delays.data import prepare_raw

    folder = tmp_path_factory.mktemp("raw")
    prepare_raw(folder)
    return folder


@pytest.mark.parametrize("dataset", ["flights", "weather"])
def test_every_month_of_the_real_data_keeps_its_contract(engine, raw, dataset):
    contract = load(ROOT / "services" / "flight-delays" / "contracts" / f"{dataset}.odcs.yaml")
    batches = sorted((raw / dataset).glob("*.parquet"))
    assert len(batches) == 12
    for batch in batches:
        result = engine.check(contract, batch, Window.of_batch(batch.stem))
        assert result.violations == (), batch.name
        assert result.skipped == (), batch.name


@pytest.mark.parametrize(
    ("dataset", "select", "rule", "column"),
    [
        ("flights", "* REPLACE (distance::BIGINT AS distance)", "schema", "distance"),
        ("flights", "* RENAME (carrier AS airline)", "schema", "carrier"),
        ("flights", "* EXCLUDE (tailnum)", "schema", "tailnum"),
        (
            "flights",
            "* REPLACE (CASE WHEN flight = 15 THEN 'ZZ' ELSE carrier END AS carrier)",
            "enumeration",
            "carrier",
        ),
        ("flights", "* REPLACE (arr_delay * 60 AS arr_delay)", "range", "arr_delay"),
        ("flights", "* REPLACE (NULL::TIMESTAMPTZ AS landed_at)", "quality", None),
        ("weather", "* REPLACE ((temp - 32) / 1.8 - 40 AS temp)", "range", "temp"),
        ("weather", "* REPLACE (NULL::DOUBLE AS pressure)", "quality", "pressure"),
        ("weather", "* REPLACE (wind_speed * 10 AS wind_speed)", "quality", "wind_speed"),
    ],
)
def test_real_data_that_is_broken_breaks_the_contract(engine, raw, tmp_path, dataset, select, rule, column):
    contract = load(ROOT / "services" / "flight-delays" / "contracts" / f"{dataset}.odcs.yaml")
    path = tmp_path / "2013-02.parquet"
    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'")
        db.execute(f"COPY (SELECT {select} FROM '{raw / dataset / '2013-02.parquet'}') TO '{path}'")
    result = engine.check(contract, path, Window.of_batch("2013-02"))
    assert not result.passed
    assert (rule, column) in found(result)
