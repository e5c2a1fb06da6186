"""product.yaml to a Product: every problem with its line, unowned products refused."""

import json
from pathlib import Path

import pytest
import yaml

from plinth.core.manifests import parse_product
from plinth.errors import InvalidInput, RefusedByPolicy

ROOT = Path(__file__).parents[4]
TEXT = (ROOT / "services" / "flight-delays" / "product.yaml").read_text()


def line_of(text, start):
    return next(number for number, line in enumerate(text.splitlines(), 1) if line.startswith(start))


def test_the_product_of_this_repository_is_valid_and_owned():
    product = parse_product(TEXT, "product.yaml")
    assert product.name == "flight-delays"
    assert product.owner.team
    assert {level.indicator for level in product.service_levels} == {"availability", "latency", "quality", "freshness"}
    assert {gate.kind for gate in product.gates} >= {"beats-baseline", "not-worse-than-serving", "contract", "no-skew"}


@pytest.mark.parametrize("section", ["owner", "service_levels", "budget"])
@pytest.mark.parametrize("how", ["absent", "null", "empty"])
def test_a_product_without_owner_service_levels_or_budget_is_refused_by_policy(section, how):
    document = yaml.safe_load(TEXT)
    if how == "absent":
        del document[section]
    else:
        document[section] = None if how == "null" else type(document[section])()
    with pytest.raises(RefusedByPolicy, match=f"unowned product: {section}") as caught:
        parse_product(yaml.safe_dump(document, sort_keys=False), "product.yaml")
    assert caught.value.exit_code == 3
    assert caught.value.where.startswith("product.yaml:")


def test_an_owner_without_a_team_is_no_owner():
    text = TEXT.replace("  team: air-operations-ml\n", "  team: ''\n")
    with pytest.raises(RefusedByPolicy) as caught:
        parse_product(text, "product.yaml")
    assert caught.value.where == f"product.yaml:{line_of(text, '  team:')}"


def test_every_problem_is_reported_at_once_with_its_line():
    text = TEXT.replace("tier: 2", "tier: 7").replace("margin: 0.05", "margin: -1").replace("port: 3001", "port: 80")
    text = text.replace("title:", "titel:")
    with pytest.raises(InvalidInput) as caught:
        parse_product(text, "p.yaml")
    message = caught.value.what
    for start, field in (
        ("tier", "tier"),
        ("    margin", "gates.0.margin"),
        ("  port", "serving.port"),
        ("titel", "titel"),
    ):
        assert f"p.yaml:{line_of(text, start)}: {field}: " in message
    assert "5 problems" in message  # titel is unknown and title is missing


def test_a_wrong_entry_of_the_service_levels_is_bad_input_and_not_a_missing_owner():
    with pytest.raises(InvalidInput, match=r"service_levels\.0\.objective"):
        parse_product(TEXT.replace("objective: 0.995", "objective: 2"), "p.yaml")


@pytest.mark.parametrize("path", ["../other/contract.yaml", "/etc/passwd", "a//b", "a/../b", ".hidden/x"])
def test_a_contract_outside_the_products_folder_is_refused(path):
    with pytest.raises(InvalidInput, match=r"contracts\.0"):
        parse_product(TEXT.replace("contracts/flights.odcs.yaml", json.dumps(path)), "p.yaml")
