from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from plinth.errors import InvalidInput, NotFound
from plinth.monitoring.reference import Reference


def build() -> Reference:
    rng = np.random.default_rng(0)
    matrix = np.column_stack([rng.normal(size=500), rng.integers(0, 5, 500)]).astype(np.float32)
    matrix[0, 0] = np.nan
    return Reference.build(matrix, ["delay", "hour"], rng.random(500))


def test_a_reference_comes_back_from_its_file_and_has_stable_bytes(tmp_path: Path) -> None:
    reference = build()
    path = tmp_path / "reference.json"
    path.write_bytes(reference.to_json())
    assert Reference.load(path) == reference
    assert build().to_json() == reference.to_json()


def test_a_missing_reference_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no drift reference"):
        Reference.load(tmp_path / "reference.json")


@pytest.mark.parametrize("data", [b"", b"[]", b'{"schema": 2}', b'{"schema": 1, "score": null}', b"\xff"])
def test_a_reference_that_is_none_is_refused_with_a_way_out(data: bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        Reference.from_json(data)
    assert "again" in caught.value.hint or "retrain" in caught.value.hint
