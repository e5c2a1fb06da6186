"""A new product from the template."""

import pytest

from plinth.contracts.check import load_contracts
from plinth.contracts.duckdb import DuckDBEngine
from plinth.contracts.port import Window
from plinth.core.manifests import parse_product
from plinth.core.scaffold import create_product
from plinth.errors import Conflict, InvalidInput, Unavailable


def create(services, name="fraud-alerts", **changes):
    given = {"team": "payments-ml", "contact": "payments-ml@example.com", "port": 3002, **changes}
    return create_product(name, services, **given)


@pytest.mark.parametrize("name", ["fraud-alerts", "a", "no", "true", "null", "x1-2-3", "y" * 50])
def test_a_new_product_validates_and_its_sample_keeps_its_contract(tmp_path, name):
    create(tmp_path, name)
    folder = tmp_path / name
    product = parse_product((folder / "product.yaml").read_text(), "product.yaml")
    assert (product.name, product.owner.team, product.serving.port) == (name, "payments-ml", 3002)
    (contract,) = load_contracts(product, folder)
    sample = folder / "data" / "examples" / "2024-01.csv"
    result = DuckDBEngine().check(contract, sample, Window.of_batch("2024-01"))
    assert result.passed, result.violations
    assert result.rows > 10


def test_nothing_of_the_template_is_left_to_fill_in(tmp_path):
    import re

    for path in create(tmp_path):
        assert not re.search(r"__[A-Z]+__", path.read_text()), path
        assert not re.search(r"__[A-Z]+__|\.tmpl$", str(path))


def test_the_code_of_a_new_product_compiles_and_its_entries_exist(tmp_path):
    import ast

    create(tmp_path)
    folder = tmp_path / "fraud-alerts"
    product = parse_product((folder / "product.yaml").read_text(), "product.yaml")
    for entry in (product.pipelines[0].entry, product.serving.service):
        module, _, name = entry.partition(":")
        tree = ast.parse((folder / "src" / f"{module.replace('.', '/')}.py").read_text())
        assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}


@pytest.mark.parametrize(
    "name", ["Bad Name", "../up", "a_b", "1st", "", "x" * 51, "class", "plinth", "mlflow", "a/b", "é"]
)
def test_names_that_cannot_be_used_are_refused_and_nothing_is_written(tmp_path, name):
    with pytest.raises(InvalidInput):
        create(tmp_path / "services", name)
    assert not list(tmp_path.rglob("*.yaml"))


def test_an_existing_product_is_left_alone(tmp_path):
    create(tmp_path)
    manifest = tmp_path / "fraud-alerts" / "product.yaml"
    manifest.write_text("mine")
    with pytest.raises(Conflict):
        create(tmp_path)
    assert manifest.read_text() == "mine"


def test_an_owner_that_would_break_the_manifest_is_refused(tmp_path):
    with pytest.raises(InvalidInput):
        create(tmp_path, team='x"\nevil: 1')


def test_a_folder_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "services").write_text("a file stands in the way")
    with pytest.raises(Unavailable):
        create(tmp_path / "services")
