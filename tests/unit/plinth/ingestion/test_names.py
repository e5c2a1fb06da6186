"""Row 34: what must not be shown is in no name of a file either, and the file is still read."""

import pytest

from plinth.core.assistants import Chunking, SourceSpec
from plinth.errors import NotFound, RefusedByPolicy
from plinth.ingestion.names import HarmlessNames
from plinth.ingestion.read import Ingestor
from plinth.ingestion.sources import FolderSource, UrlSource
from plinth.ingestion.text import TextParser
from plinth.privacy.personal import PersonalData
from plinth.privacy.secrets import Secrets

MAIL = "mail.person@canarymail.io"
TOKEN = "ghp" + "_" + "aB3dE5gH7jK9mN2pQ4sT6vX8zA1cD0fGaB3d"
SPEC = SourceSpec(name="docs", kind="folder", path="docs")


def harmless(folder):
    return HarmlessNames(FolderSource("docs", folder, ["**/*.txt"]), PersonalData(), Secrets())


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "letters").mkdir()
    for name in ("plain.txt", f"letters/{MAIL} one.txt", f"letters/{MAIL} two.txt", f"{TOKEN}.txt"):
        (tmp_path / name).write_text(f"Roses are cut in March, says number {len(name)}.")
    return tmp_path


def test_names_are_redacted_kept_apart_and_read(folder):
    source = harmless(folder)
    paths = [listed.path for listed in source.list()]
    assert len(set(paths)) == 4
    assert MAIL not in str(paths)
    assert TOKEN not in str(paths)
    assert "plain.txt" in paths
    letters = [path for path in paths if path.startswith("letters/[email] ") and path.endswith(".txt")]
    assert len(letters) == 2
    assert all(source.read(path).startswith(b"Roses") for path in [*letters, "plain.txt"])
    assert paths == [listed.path for listed in harmless(folder).list()], "the same in another process"


def test_a_file_with_a_secret_in_its_path_is_refused_and_not_named(folder):
    source = harmless(folder)
    (path,) = [listed.path for listed in source.list() if listed.path.startswith("[github-token]")]
    with pytest.raises(RefusedByPolicy, match="its path holds a secret of kind github-token") as refused:
        source.read(path)
    assert TOKEN not in str(refused.value)


def test_an_error_does_not_name_it_either(folder):
    source = harmless(folder)
    (path,) = [listed.path for listed in source.list() if " one" in listed.path]
    (folder / "letters" / f"{MAIL} one.txt").unlink()
    with pytest.raises(NotFound) as gone:
        source.read(path)
    assert MAIL not in str(gone.value)
    assert path in str(gone.value)


def test_nothing_of_it_is_in_what_a_run_gives_and_the_next_run_knows_the_files(folder):
    ingestor = Ingestor(
        [(SPEC, harmless(folder))], [TextParser()], Chunking(), lambda text: len(text.split()), PersonalData(),
        Secrets(),
    )  # fmt: skip
    first = ingestor.run()
    assert len(first.chunks) == 3
    assert [(refused.kind, refused.path[:14]) for refused in first.refused] == [("policy", "[github-token]")]
    for canary in (MAIL, "canarymail", TOKEN):
        assert canary not in repr(first)
    second = ingestor.run(first.documents)
    assert second.read == 0
    assert second.chunks == first.chunks


def test_an_address_with_a_key_is_not_fetched_and_not_named(tmp_path):
    class Fetcher:
        def head(self, url):
            raise NotFound("gone") if "gone" in url else RefusedByPolicy("no", where=url)

        def get(self, url):
            raise AssertionError("it must not be asked for")

    (tmp_path / "urls.txt").write_text(f"https://pages.example/?token={TOKEN}\n")
    source = HarmlessNames(UrlSource("pages", tmp_path / "urls.txt", Fetcher()), PersonalData(), Secrets())
    (listed,) = source.list()
    assert listed.path.startswith("https://pages.example/?token=[github-token]~")
    with pytest.raises(RefusedByPolicy, match="its path holds a secret"):
        source.read(listed.path)
