"""Releases of assistants: what is pinned, what alone may change, and what never comes back by itself."""

import pytest

from assistant_releases import PRODUCT, config, manifest
from plinth.assistants import releases
from plinth.core.assistants import Chunking, Prompt, Retrieval
from plinth.core.gates import ContractPassed, IndexChecks
from plinth.core.releases import CodeRef, ContractRef
from plinth.errors import Corrupt, NotFound, RefusedByPolicy
from plinth.governance import lineage
from plinth.ledger.artifacts import ArtifactStore
from plinth.ledger.store import Ledger
from plinth.rollouts import release as moves

GOOD = {"contracts": [{"batch": "chunks", "passed": True}], "index": [{"check": "count", "passed": True, "reason": ""}]}


class Aliases:
    def set_alias(self, name, version, alias): ...

    def delete_alias(self, name, alias): ...

    def by_alias(self, name, alias): ...


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield ledger
    ledger.close()


@pytest.fixture
def artifacts(tmp_path):
    return ArtifactStore(tmp_path / "artifacts")


class Judge:
    """The part of a product that releases are judged by."""

    name = PRODUCT
    gates = (ContractPassed(kind="contract"), IndexChecks(kind="index-checks"))


def make(ledger, artifacts, made, evidence=GOOD):
    return releases.make_release(
        ledger, artifacts, Judge(), made, evidence, contracts=[ContractRef(id="chunks", version="1", digest="d" * 64)],
        code=CodeRef(commit="0" * 40, dirty=False), actor="tester", run="run",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"retrieval": Retrieval(limit=9)}, "retrieval"),
        ({"index": config(2).index}, "index"),
        (
            {"prompts": [Prompt(name="answer", version="7", template="{{ question }}!", variables=("question",))]},
            "prompts",
        ),
    ],
)
def test_what_changes_alone_is_all_that_the_release_does_not_share(change, part):
    serving = config(1)
    ours, theirs = releases.reference(releases.candidate(serving, **change)), releases.reference(serving)
    assert {name for name in type(ours).model_fields if getattr(ours, name) != getattr(theirs, name)} == {part}


def test_only_another_index_is_a_change_of_content():
    assert releases.content_only(config(2), config(1))
    assert releases.content_only(config(1), config(1))
    assert not releases.content_only(config(2, prompt=2), config(1))
    assert not releases.content_only(config(2, retrieval=Retrieval(limit=9)), config(1))


def test_row_18_an_index_of_another_model_or_chunking_is_refused():
    index = config(2).index
    with pytest.raises(RefusedByPolicy, match="embedded with model"):
        releases.candidate(config(1), index=index.model_copy(update={"embedding": "f" * 64}))
    with pytest.raises(RefusedByPolicy, match="another chunking"):
        releases.candidate(config(1), index=index.model_copy(update={"chunking": Chunking(max_tokens=99).digest}))


def test_a_prompt_that_the_release_does_not_have_is_refused():
    with pytest.raises(RefusedByPolicy, match="no prompt other"):
        releases.candidate(config(1), prompts=[Prompt(name="other", version="1", template="x", variables=())])


def test_a_release_holds_the_whole_configuration_and_its_lineage(ledger, artifacts):
    digest = make(ledger, artifacts, config(1), {**GOOD, "metrics": {"golden_mrr": 0.5}})
    record = ledger.release(digest)
    assert record.status == "accepted"
    assert record.manifest.metrics == {"golden_mrr": 0.5}
    assert releases.config_of(artifacts, record.manifest) == config(1)
    assert record.manifest.assistant == releases.reference(config(1))
    assert len(ledger.events(PRODUCT, lineage.EVENT_KIND)) == 1


@pytest.mark.parametrize(
    "evidence",
    [
        {},
        {"contracts": GOOD["contracts"]},
        {**GOOD, "index": []},
        {**GOOD, "index": [{"check": "count", "passed": False, "reason": "one is missing"}]},
    ],
)
def test_row_16_a_build_that_failed_its_checks_makes_a_release_that_is_never_promoted(ledger, artifacts, evidence):
    digest = make(ledger, artifacts, config(1), evidence)
    assert ledger.release(digest).status == "rejected"
    with pytest.raises(RefusedByPolicy, match="index-checks"):
        moves.promote(ledger, Aliases(), PRODUCT, digest, actor="tester", reason="")


def test_a_configuration_that_is_gone_or_damaged_is_told(ledger, artifacts):
    digest = make(ledger, artifacts, config(1))
    made = ledger.release(digest).manifest
    path = artifacts.path(made.artifacts[releases.CONFIG])
    path.chmod(0o644)
    path.write_bytes(b"{}")
    with pytest.raises(Corrupt):
        releases.config_of(artifacts, made)
    path.unlink()
    with pytest.raises(NotFound):
        releases.config_of(artifacts, made)


@pytest.fixture
def three(ledger):
    """Three releases with an index each; the first two served, one after the other."""
    digests = [ledger.register_release(manifest(number), "tester") for number in (1, 2, 3)]
    for digest in digests[:2]:
        moves.promote(ledger, Aliases(), PRODUCT, digest, actor="tester", reason="")
    return digests


def builds(*numbers):
    return [config(number).index.build for number in numbers]


def test_a_build_that_was_rolled_back_is_known_and_no_other(ledger, three):
    assert [releases.taken_back(ledger, PRODUCT, build) for build in builds(1, 2, 3)] == ["", "", ""]
    moves.rollback(ledger, Aliases(), PRODUCT, actor="tester", reason="it is wrong")
    one, two, other = [releases.taken_back(ledger, PRODUCT, build) for build in builds(1, 2, 3)]
    assert "it is wrong" in two
    assert one == other == ""


def test_who_promotes_it_by_hand_all_the_same_is_believed(ledger, three):
    moves.rollback(ledger, Aliases(), PRODUCT, actor="tester", reason="it is wrong")
    moves.promote(ledger, Aliases(), PRODUCT, three[1], actor="tester", reason="it was right")
    assert releases.taken_back(ledger, PRODUCT, builds(2)[0]) == ""


def test_a_candidate_without_a_change_is_the_same_configuration():
    assert releases.candidate(config(1)) == config(1)
