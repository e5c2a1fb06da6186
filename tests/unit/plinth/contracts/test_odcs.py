"""ODCS documents: read, or refused with every problem and its line."""

from pathlib import Path

import pytest

from plinth.contracts.model import Freshness
from plinth.contracts.odcs import load, parse
from plinth.errors import InvalidInput, NotFound, RefusedByPolicy

ROOT = Path(__file__).parents[4]


def test_what_a_contract_promises_is_read(small):
    assert (small.id, small.version, small.dataset, small.owner) == ("small", "1.2.3", "small", "data-team")
    assert small.consumers == ("readers",)
    assert small.key == ("id",)
    assert small.freshness == Freshness("at", 86400)
    assert small.column("id").required, "a primary key is never null"
    assert small.column("color").values == ("red", "green")
    assert (small.column("weight").minimum, small.column("weight").unit) == (0, "kg")
    assert (small.column("code").unique, small.column("code").max_length) == (True, 4)
    assert [(rule.metric, rule.threshold) for rule in small.quality] == [("rowCount", (1.0, 100.0))]


def test_the_digest_is_of_the_content_and_not_of_its_formatting(small, small_text):
    assert parse("# a comment\n" + small_text.replace("version: 1.2.3", "version:   1.2.3"), "x").digest == small.digest
    assert parse(small_text.replace("maximum: 10", "maximum: 11"), "x").digest != small.digest


def test_an_enumeration_may_be_written_as_odcs_3_2_does(small_text):
    old = (
        "        quality:\n          - { metric: invalidValues, mustBe: 0, arguments: { validValues: [red, green] } }\n"
    )
    assert old in small_text
    text = small_text.replace(old, "        enum: [{ value: red }, { value: green }]\n").replace("v3.1.0", "v3.2.0")
    assert parse(text, "x").column("color").values == ("red", "green")


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("apiVersion: v3.1.0", "apiVersion: v2.2.2", "version 3"),
        ("status: active", "statos: active", "no known field"),
        ("required: true", "requred: true", "no known field"),
        ("logicalType: timestamp,", "logicalType: instant,", "instant"),
        ("      - { name: at, logicalType: timestamp,", "      - { name: at,", "logicalType is missing"),
        ("name: code", "name: Color", "twice"),
        ("minimum: 0, maximum: 10", "minimum: 11, maximum: 10", "above"),
        ("minimum: 0,", "minimum: '0',", "number"),
        ('"^[A-Z]+$"', '"^[A-Z+$"', "regular expression"),
        ("element: small.at", "element: small.never", "no column"),
        ("unit: d,", "unit: fortnight,", "span"),
        ("metric: rowCount", "metric: rowCounts", "rowCounts"),
        ("mustBeBetween: [1, 100]", "description: none", "mustBe"),
        ("metric: rowCount, mustBeBetween: [1, 100]", "type: custom, engine: soda, implementation: x", "custom"),
        ("mustBe: 0, arguments", "mustBe: nothing, arguments", "number"),
    ],
)
def test_what_could_not_be_checked_is_refused_with_its_line(small_text, old, new, word):
    assert old in small_text
    line = small_text[: small_text.index(old)].count("\n") + 1
    with pytest.raises(InvalidInput) as caught:
        parse(small_text.replace(old, new, 1), "c.yaml")
    assert f"c.yaml:{line}:" in caught.value.what, caught.value.what
    assert word in caught.value.what


def test_a_contract_that_nobody_owns_is_refused_by_policy(small_text):
    for text in ("team: { name: '' }", "# no team"):
        with pytest.raises(RefusedByPolicy, match="unowned"):
            parse(small_text.replace("team: { name: data-team }", text), "c.yaml")


def test_a_contract_describes_exactly_one_dataset(small_text):
    with pytest.raises(InvalidInput, match="exactly one"):
        parse(small_text + "  - name: other\n    properties: [{ name: a, logicalType: string }]\n", "c.yaml")


def test_what_is_written_for_people_is_named_as_not_checked(small_text):
    text = small_text.replace(
        "      - { name: size", "      - { type: text, description: looks right }\n      - { name: size"
    )
    text = text.replace("slaProperties:\n", "slaProperties:\n  - { property: retention, value: 3, unit: y }\n")
    assert set(parse(text, "c.yaml").unchecked) == {"text rule: looks right", "service level retention"}


def test_an_sql_rule_is_one_select(small_text):
    rule = "      - {{ name: sql, type: sql, query: {query}, mustBe: 0 }}\n      - {{ name: size"
    good = small_text.replace("      - { name: size", rule.format(query='"SELECT count(*) FROM ${object}"'))
    assert [item.metric for item in parse(good, "c.yaml").quality] == ["sql", "rowCount"]
    for bad in ("DROP TABLE x", "SELECT 1; DROP TABLE x", "COPY batch TO 'x'"):
        with pytest.raises(InvalidInput, match="one SELECT"):
            parse(small_text.replace("      - { name: size", rule.format(query=f'"{bad}"')), "c.yaml")


@pytest.mark.parametrize("dataset", ["flights", "weather"])
def test_the_contracts_of_flight_delays_are_complete(dataset):
    contract = load(ROOT / "services" / "flight-delays" / "contracts" / f"{dataset}.odcs.yaml")
    assert contract.dataset == dataset
    assert contract.owner
    assert contract.consumers
    assert contract.freshness
    assert contract.key
    assert contract.unchecked == ()
    assert any(rule.metric == "rowCount" for rule in contract.quality)
    assert all(column.description for column in contract.columns)
    assert contract.column("origin").values == ("EWR", "JFK", "LGA")
    bare = [
        column.name
        for column in contract.columns
        if column.logical_type == "number" and (column.unit is None or column.minimum is None)
    ]
    assert bare == [], "every measurement has a unit and a range"


def test_a_missing_document_is_named(tmp_path):
    with pytest.raises(NotFound) as caught:
        load(tmp_path / "none.odcs.yaml")
    assert "none.odcs.yaml" in caught.value.where
