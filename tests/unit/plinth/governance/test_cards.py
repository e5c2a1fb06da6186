import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from plinth.contracts.model import Contract
from plinth.core.manifests import parse_product
from plinth.core.releases import ContractRef, DataRef
from plinth.errors import Corrupt, InvalidInput, NotFound
from plinth.governance import cards, document
from plinth.ledger.store import ReleaseRecord
from plinth.models.port import Run

HOME = Path(__file__).parents[4]
PNG = b"\x89PNG\r\n\x1a\n"


def summary(rows, auc):
    return {
        "rows": rows,
        "outcome_rate": 0.24,
        "mean_prediction": 0.26,
        "auc": auc,
        "log_loss": 0.46,
        "calibration_error": 0.0167,
    }


EVALUATION = {
    **summary(193_747, 0.77),
    "window": {"start": "2013-06-01", "end": "2014-01-01"},
    "baseline_auc": 0.6325,
    "baseline_log_loss": 0.5368,
    "months": [{"month": "2013-11", "baseline_auc": 0.6087, **summary(26_901, 0.712)}],
    "slices": [
        {"slice": "origin", "value": "EWR", **summary(68_402, 0.7674)},
        {"slice": "carrier", "value": "<script>|", **summary(800, None)},
        {"slice": "carrier", "value": "OO", **summary(9, 0.1)},
    ],
    "serving": {"log_loss_difference": -0.0101, "upper_bound": -0.0042, "days": 30},
}


class StubRegistry:
    """The two methods that a card reads; a dictionary behind them."""

    def __init__(self, files):
        self.files = files

    def run(self, run_id):
        if self.files is None:
            raise NotFound("no run")
        return Run(run_id, {"num_leaves": "31"}, {"auc": 0.77}, {}, ())

    def document(self, run_id, name):
        try:
            return self.files[name]
        except KeyError:
            raise NotFound("no document") from None


@pytest.fixture
def product():
    path = HOME / "services/flight-delays/product.yaml"
    return parse_product(path.read_text(encoding="utf-8"), str(path))


@pytest.fixture
def facts(product, make_manifest):
    def make(files, *, serving=True, passed=True):
        manifest = make_manifest(passed=passed).model_copy(
            update={
                "data": (
                    DataRef(
                        name="features",
                        role="train",
                        start="2013-01-01",
                        end="2013-05-01",
                        rows=105_396,
                        digest="d" * 64,
                    ),
                ),
                "contracts": (
                    ContractRef(id="flights", version="1.0.0", digest="c" * 64),
                    ContractRef(id="old", version="0.1.0", digest="e" * 64),
                ),
            }
        )
        status = "accepted" if passed else "rejected"
        release = ReleaseRecord(manifest.digest, "flight-delays", status, manifest, manifest.created_at, "somebody")
        contract = Contract(
            "flights", "1.0.0", "active", "flights", (), "air-operations-ml", "c" * 64, "f.yaml", description="Flights."
        )
        statement = cards.Statement.load(HOME / "services/flight-delays")
        return cards.gather(
            product, release, StubRegistry(files), serving=serving, statement=statement, contracts=[contract]
        )

    return make


FILES = {"evaluation.json": json.dumps(EVALUATION).encode(), "roc.png": PNG}


def test_a_card_says_everything_that_was_recorded(facts, product):
    card = facts(FILES)
    text = document.to_markdown(cards.model_card(card))
    for expected in (
        f"# Model card: {product.title}",
        card.release.digest,
        "serving now",
        product.owner.team,
        product.owner.on_call,
        "## Intended use",
        "## Limits",
        "| AUC | 0.7700 | 0.6325 |",
        "from 2013-06-01 to 2014-01-01",
        "| 2013-11 | 26,901 |",
        "| origin | EWR | 68,402 |",
        "-0.01010 (95% upper bound -0.00420, paired over 30 days)",
        "1 smaller ones",
        "| beats-baseline | passed | 0.1100 | 0.1000 |",
        "| features | train | 2013-01-01 | 2013-05-01 | 105,396 |",
        "| flights | 1.0.0 | cccccccccccc | air-operations-ml | Flights. |",
        "not in the product any more",
        "| num_leaves | 31 |",
        "99.5%",
        "150 USD",
    ):
        assert expected in text, expected


def test_every_section_is_there_even_when_nothing_is_recorded(facts):
    full = [section.title for section in cards.model_card(facts(FILES))]
    for files in ({}, None):
        sections = cards.model_card(facts(files, serving=False))
        assert [section.title for section in sections] == full
        text = document.to_markdown(sections)
        assert "No evaluation is recorded" in text
        assert "| State | accepted |" in text
    assert "registry does not hold this run" in text


def test_a_failed_gate_stands_out(facts):
    sections = cards.model_card(facts(FILES, passed=False, serving=False))
    assert "| beats-baseline | FAILED |" in document.to_markdown(sections)
    assert '<td class="bad">FAILED</td>' in document.to_html(sections, "t")


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.open, self.links = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_well_formed_self_contained_and_runs_nothing(facts):
    page = Page()
    page.feed(document.to_html(cards.model_card(facts(FILES)), "A <card>"))
    page.close()
    assert page.open == []
    assert "script" not in page.tags
    assert page.tags.count("img") == 1
    assert all(link.startswith("data:image/png;base64,") for link in page.links)


def test_hostile_text_stays_text_in_both_forms(facts):
    sections = cards.model_card(facts(FILES))
    assert "&lt;script&gt;|" in document.to_html(sections, "t")
    row = next(line for line in document.to_markdown(sections).splitlines() if "script" in line)
    assert "\\<script\\>\\|" in row
    assert len(re.findall(r"(?<!\\)\|", row)) == 9


def test_an_evaluation_that_is_no_json_is_corrupt(facts):
    with pytest.raises(Corrupt):
        facts({"evaluation.json": b"{"})


def test_a_statement_that_does_not_fit_is_refused_with_its_line(tmp_path):
    (tmp_path / "model-card.yaml").write_text("limits:\n  - one\nintendeduse:\n  - x\n")
    with pytest.raises(InvalidInput) as caught:
        cards.Statement.load(tmp_path)
    assert caught.value.where.endswith("model-card.yaml:3")


def test_a_product_without_a_statement_has_a_card_that_says_so(tmp_path):
    statement = cards.Statement.load(tmp_path)
    assert statement == cards.Statement()
    section = cards.statement("Limits", statement.limits)
    assert "Not stated" in document.to_markdown([section])
