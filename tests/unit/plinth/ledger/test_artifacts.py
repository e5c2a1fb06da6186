import pytest

from plinth.core.digests import digest_bytes
from plinth.errors import Corrupt, InvalidInput, NotFound, Unavailable
from plinth.ledger.artifacts import ArtifactStore


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(tmp_path / "artifacts")


def test_content_is_stored_under_its_digest_and_comes_back(store, tmp_path):
    (tmp_path / "model").write_bytes(b"weights")
    digest = store.put_file(tmp_path / "model")
    assert digest == digest_bytes(b"weights")
    assert store.path(digest).read_bytes() == b"weights"


def test_storing_twice_is_one_file(store):
    assert store.put_bytes(b"x") == store.put_bytes(b"x")
    assert len([path for path in store.root.rglob("*") if path.is_file()]) == 1


@pytest.mark.parametrize("damage", [b"", b"weightz", b"weights and more"], ids=["truncated", "changed", "appended"])
def test_damaged_content_is_refused_and_restored_by_storing_again(store, damage):
    digest = store.put_bytes(b"weights")
    target = store.path(digest)
    target.chmod(0o644)
    target.write_bytes(damage)
    with pytest.raises(Corrupt, match="does not match its digest"):
        store.path(digest)
    assert store.put_bytes(b"weights") == digest
    assert store.path(digest).read_bytes() == b"weights"


def test_what_is_not_stored_is_not_found(store):
    assert not store.exists("0" * 64)
    with pytest.raises(NotFound, match="not stored"):
        store.path("0" * 64)


@pytest.mark.parametrize("bad", ["../../etc/passwd", "", "A" * 64, "0" * 63])
def test_a_name_that_is_no_digest_is_refused(store, bad):
    with pytest.raises(InvalidInput, match="no sha256"):
        store.path(bad)


def test_a_store_that_cannot_be_written_is_unavailable_and_keeps_no_half_file(tmp_path):
    (tmp_path / "artifacts").write_text("a file where the folder should be")
    with pytest.raises(Unavailable, match="cannot be written"):
        ArtifactStore(tmp_path / "artifacts").put_bytes(b"x")
