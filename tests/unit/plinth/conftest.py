"""A ledger with a past: promotions, rollouts that ended in every way, one that runs, approvals and a lease."""

import json
import shutil
from types import SimpleNamespace

import pytest

from ledgers import PRODUCT, live
from plinth.ledger.rollouts import Rollouts
from plinth.ledger.store import Ledger


@pytest.fixture
def past(tmp_path, tmp_path_factory, make_manifest):
    """The ledger, its file, and the digests of its releases by name. Lived through once, then copied."""
    template, path = tmp_path_factory.getbasetemp() / "past.db", tmp_path / "ledger.db"
    if not template.exists():
        ledger = Ledger(f"sqlite:///{path}")
        named = live(ledger, make_manifest)
        ledger.close()
        shutil.copyfile(path, template)
        template.with_suffix(".json").write_text(json.dumps(named))
    shutil.copyfile(template, path)
    named = json.loads(template.with_suffix(".json").read_text())
    ledger = Ledger(f"sqlite:///{path}")
    rollouts = Rollouts(ledger)
    yield SimpleNamespace(ledger=ledger, rollouts=rollouts, path=path, named=named, running=rollouts.active(PRODUCT))
    ledger.close()
