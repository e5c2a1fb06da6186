"""The checks and the collection say the same on SQLite and on PostgreSQL."""

import os
import time

import pytest

from ledgers import PRODUCT, live
from plinth.core.findings import violations
from plinth.errors import RefusedByPolicy
from plinth.ledger.artifacts import ArtifactStore
from plinth.ledger.invariants import READABLE, RULES, check_ledger
from plinth.ledger.store import Ledger
from plinth.runtime.fsck import check_artifacts
from plinth.runtime.retention import collect


@pytest.fixture
def ledger(ledger_url):
    ledger = Ledger(ledger_url)
    yield ledger
    ledger.close()


def test_every_invariant_holds_after_a_long_life(ledger, make_manifest):
    live(ledger, make_manifest)
    found = check_ledger(ledger)
    assert [finding.invariant for finding in found] == [READABLE, *(rule.name for rule in RULES.all)]
    assert {finding.level for finding in found} == {"ok"}


def test_an_edit_is_seen(ledger, make_manifest):
    live(ledger, make_manifest)
    with ledger.write() as connection:
        connection.exec_driver_sql("UPDATE promotion SET reason = 'a nicer one' WHERE generation = 1")
        connection.exec_driver_sql("UPDATE audit SET actor = 'eve' WHERE seq = 5")
    assert {finding.invariant for finding in violations(check_ledger(ledger))} == {
        "audit.chain", "generation.audited", "release.audited",
    }  # fmt: skip


def test_a_ledger_that_is_not_there_is_a_finding(ledger_url):
    away = ledger_url.replace("127.0.0.1", "127.0.0.2") if "postgresql" in ledger_url else f"{ledger_url}/x/y.db"
    ledger = Ledger(away, create=False)
    (finding,) = check_ledger(ledger)
    assert (finding.invariant, finding.level) == (READABLE, "violation")
    ledger.close()


def test_garbage_is_collected_and_everything_still_holds(ledger, make_manifest, tmp_path):
    store = ArtifactStore(tmp_path / "artifacts")
    digests = []
    for number in range(1, 9):
        artifacts = {"model.onnx": store.put_bytes(b"model %d" % number)}
        digests.append(ledger.register_release(make_manifest(number, artifacts=artifacts), "ada"))
        ledger.promote(PRODUCT, digests[-1], expected_generation=number - 1, actor="ada", reason="")
    for path in store.root.glob("??/*"):
        os.utime(path, (0, 0))
    done = collect(ledger, store, {}, actor="janitor", apply=True, now=time.time() + 30 * 86_400)
    assert {bundle.digest for bundle in done.retired} == set(digests[:5])
    assert len(list(store.stored())) == 3
    assert violations([*check_ledger(ledger), *check_artifacts(ledger, store)]) == []
    with pytest.raises(RefusedByPolicy, match="were collected"):
        ledger.promote(PRODUCT, digests[0], expected_generation=8, actor="ada", reason="", kind="rollback")
