"""What is a folder's own; tests/contract/test_artifacts.py has what every store does."""

import pytest

from plinth.errors import Unavailable
from plinth.ledger.artifacts import ArtifactStore


def test_storing_twice_is_one_file(tmp_path):
    store = ArtifactStore(tmp_path / "artifacts")
    assert store.put_bytes(b"x") == store.put_bytes(b"x")
    assert len([path for path in store.root.rglob("*") if path.is_file()]) == 1


def test_a_store_that_cannot_be_written_is_unavailable_and_keeps_no_half_file(tmp_path):
    (tmp_path / "artifacts").write_text("a file where the folder should be")
    with pytest.raises(Unavailable, match="cannot be written"):
        ArtifactStore(tmp_path / "artifacts").put_bytes(b"x")
