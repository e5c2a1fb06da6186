from dataclasses import dataclass

import pytest
from pydantic import BaseModel

from plinth.errors import Corrupt, NotFound
from plinth.pipelines.files import FileRef, file_refs


@dataclass(frozen=True)
class Written:
    model: FileRef
    note: str


class Kept(BaseModel):
    parts: list[FileRef]


def test_a_reference_notices_a_changed_and_a_missing_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one")
    ref = FileRef.of(path)
    assert ref.checked() == path
    path.write_text("two")
    assert not ref.intact()
    with pytest.raises(Corrupt):
        ref.checked()
    path.unlink()
    assert not ref.intact()


def test_a_reference_to_nothing_is_refused(tmp_path):
    with pytest.raises(NotFound):
        FileRef.of(tmp_path / "missing")


def test_references_are_found_inside_containers_dataclasses_and_models(tmp_path):
    refs = []
    for name in "abcd":
        (tmp_path / name).write_text(name)
        refs.append(FileRef.of(tmp_path / name))
    value = {"x": [refs[0]], "y": (Written(refs[1], "n"), Kept(parts=refs[2:]))}
    assert list(file_refs(value)) == refs
