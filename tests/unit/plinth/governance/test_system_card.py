from pathlib import Path

import pytest

from assistant_releases import PRODUCT, build_id, config, manifest
from plinth.core.assistants import Endpoint, Generator, Guardrails, Pattern
from plinth.core.manifests import parse_product
from plinth.governance import document
from plinth.governance.cards import Statement
from plinth.governance.system_card import Facts, SourceFacts, system_card
from plinth.ledger.store import ReleaseRecord

HOME = Path(__file__).parents[4]


@pytest.fixture
def facts():
    path = HOME / f"services/{PRODUCT}/product.yaml"
    product = parse_product(path.read_text(), str(path))

    def make(made=None, *, kept=True, passed=True, **more):
        made = made or config(1)
        pinned = manifest(1, made=made, passed=passed)
        status = "accepted" if passed else "rejected"
        record = ReleaseRecord(pinned.digest, PRODUCT, status, pinned, pinned.created_at, "ada")
        return Facts(product, record, True, Statement(), pinned.assistant, made if kept else None, **more)

    return make


def test_a_card_says_what_decides_an_answer(facts):
    guardrails = Guardrails(blocked_topics=(Pattern(name="salaries", pattern="salary"),), canaries=("hush-hush",))
    fallback = Endpoint(provider="openai", model="tiny", base_url="http://host/v1", price_prompt=0.5)
    made = config(1, generator=Generator(fallback=fallback), guardrails=guardrails)
    sources = {"docs": SourceFacts(3, 12, 1, "2026-01-01T00:00:00+00:00")}
    text = document.to_markdown(system_card(facts(made, sources=sources)))
    for expected in (
        "# System card: Questions about these documents",
        build_id(1),
        "12 chunks of 3 documents",
        "| docs | 3 | 12 | 1 | 2026-01-01T00:00:00+00:00 |",
        "| public | 12 | cccccccccccc |",
        "all-MiniLM-L6-v2-int8",
        "6 at most",
        "| answer | 1 |",
        "| Fallback | tiny (openai at http://host/v1), temperature 0, 0.5 and 0 USD a million tokens in and out |",
        "| Blocked topics | salaries |",
        "| Canaries | 1 |",
        "60% of its content words",
        "| groundedness | 0.9500 |",
        "| retrieval | passed | 0.9000 | 0.8000 |",
        "developer-experience-primary",
        "Not stated by the owners (system-card.yaml)",
    ):
        assert expected in text, expected
    assert "hush-hush" not in text


def test_every_section_is_there_when_configuration_and_build_were_collected(facts):
    full = [section.title for section in system_card(facts())]
    sections = system_card(facts(kept=False, passed=False))
    assert [section.title for section in sections] == full
    text = document.to_markdown(sections)
    assert text.count("Only digests are known") == 3
    assert "record is not there any more" in text
    assert "| retrieval | FAILED |" in text
