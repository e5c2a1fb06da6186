"""A folder's files: which are listed, which are refused, and when absence is proven."""

import os

import pytest

from plinth.errors import InvalidInput, NotFound, RefusedByPolicy, Unavailable
from plinth.ingestion.fetch import Page
from plinth.ingestion.limits import TooLarge
from plinth.ingestion.sources import FolderSource, UrlSource


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "docs"
    for path in ("b.md", "a.md", "deep/er/c.md", "deep/d.TXT", ".git/x.md", ".hidden.md", "node_modules/y.md", "e.bin"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(path)
    return root


def paths(folder, *include, exclude=()):
    return [listed.path for listed in FolderSource("docs", folder, include or ("**/*",), exclude).list()]


def test_files_are_listed_by_path_and_hidden_ones_are_left_out(folder):
    assert paths(folder) == ["a.md", "b.md", "deep/d.TXT", "deep/er/c.md", "e.bin"]


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        (("**/*.md",), (), ["a.md", "b.md", "deep/er/c.md"]),
        (("*.md",), (), ["a.md", "b.md"]),
        (("deep/**",), (), ["deep/d.TXT", "deep/er/c.md"]),
        (("**/*.txt",), (), ["deep/d.TXT"]),
        (("**/er/?.md",), (), ["deep/er/c.md"]),
        (("**/*.md",), ("deep",), ["a.md", "b.md"]),
        (("**/*.md",), ("**/c.*", "a.md"), ["b.md"]),
        (("[a].md",), (), []),
    ],
)
def test_patterns_choose_files(folder, include, exclude, expected):
    assert paths(folder, *include, exclude=exclude) == expected


def test_the_stamp_changes_with_the_content_and_only_then(folder):
    source = FolderSource("docs", folder)
    before = {listed.path: listed.stamp for listed in source.list()}
    assert before == {listed.path: listed.stamp for listed in source.list()}
    (folder / "a.md").write_text("longer than before")
    after = {listed.path: listed.stamp for listed in source.list()}
    assert {path for path in after if after[path] != before[path]} == {"a.md"}


def test_a_link_inside_is_followed_and_one_that_leads_outside_is_refused(folder, tmp_path):
    (tmp_path / "secret.md").write_text("outside")
    (folder / "inside.md").symlink_to("a.md")
    (folder / "outside.md").symlink_to("../secret.md")
    (folder / "away").symlink_to(tmp_path)
    source = FolderSource("docs", folder, ("**/*.md",))
    assert [listed.path for listed in source.list()][-2:] == ["inside.md", "outside.md"]
    assert "away" in {listed.path for listed in source.list()}
    assert source.read("inside.md") == b"a.md"
    for path in ("outside.md", "away", "../secret.md", str(tmp_path / "secret.md")):
        with pytest.raises(RefusedByPolicy, match="outside"):
            source.read(path)


def test_a_link_to_a_folder_inside_lists_nothing_twice(folder):
    (folder / "again").symlink_to("deep")
    assert "again/d.TXT" not in paths(folder)
    (folder / "deep" / "loop").symlink_to("..")
    assert len(paths(folder)) == 5


def test_what_is_no_file_is_refused_without_waiting(folder):
    os.mkfifo(folder / "pipe.md")
    with pytest.raises(RefusedByPolicy, match="regular"):
        FolderSource("docs", folder).read("pipe.md")


def test_a_file_beyond_the_limit_is_refused_unread(folder):
    source = FolderSource("docs", folder, max_bytes=100)
    (folder / "a.md").write_bytes(b"x" * 101)
    with pytest.raises(TooLarge):
        source.read("a.md")


def test_a_file_that_is_gone_is_not_found_and_one_that_cannot_be_followed_is_unreadable(folder):
    source = FolderSource("docs", folder)
    with pytest.raises(NotFound):
        source.read("gone.md")
    (folder / "loop.md").symlink_to("loop.md")
    with pytest.raises((InvalidInput, Unavailable)):
        source.read("loop.md")


def test_a_folder_that_is_gone_or_empty_proves_nothing(tmp_path):
    with pytest.raises(NotFound, match="not there"):
        list(FolderSource("docs", tmp_path / "gone").list())
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFound, match="empty"):
        list(FolderSource("docs", tmp_path / "empty").list())


class Pages:
    """A fetcher of a few pages."""

    def __init__(self, pages):
        self.pages = pages

    def head(self, url):
        return Page(self._page(url)[0])

    def get(self, url):
        return Page(*self._page(url))

    def _page(self, url):
        page = self.pages.get(url, NotFound("no such page"))
        if isinstance(page, Exception):
            raise page
        return page


def test_a_list_of_pages_is_read_in_order_with_the_stamps_of_their_servers(tmp_path):
    (tmp_path / "urls.txt").write_text(
        "# ours\nhttps://a.test/1\n\n https://a.test/2 \nhttps://a.test/1\nhttps://a.test/3\nhttps://a.test/gone\n"
    )
    fetcher = Pages(
        {
            "https://a.test/1": ({"etag": '"v1"', "last-modified": "Thu, 01 Jan 1970 00:01:00 GMT"}, b"one"),
            "https://a.test/2": ({"last-modified": "Thu, 01 Jan 1970 00:02:00 GMT"}, b"two"),
            "https://a.test/3": Unavailable("away"),
        }
    )
    source = UrlSource("pages", tmp_path / "urls.txt", fetcher)
    assert [(listed.path, listed.stamp, listed.modified) for listed in source.list()] == [
        ("https://a.test/1", '"v1"', 60.0),
        ("https://a.test/2", "Thu, 01 Jan 1970 00:02:00 GMT", 120.0),
        ("https://a.test/3", "", 0.0),
    ]
    assert source.read("https://a.test/2") == b"two"
    with pytest.raises(Unavailable):
        source.read("https://a.test/3")


def test_credentials_in_a_url_reach_no_id_and_are_refused(tmp_path):
    (tmp_path / "urls.txt").write_text("https://jane:hunter2@a.test/x\njane:hunter2@a.test/y\n")
    source = UrlSource("pages", tmp_path / "urls.txt")
    listed = list(source.list())
    assert "hunter2" not in repr(listed)
    for entry in listed:
        with pytest.raises(InvalidInput, match="credentials"):
            source.read(entry.path)


def test_a_list_that_is_not_there_proves_nothing(tmp_path):
    with pytest.raises(NotFound):
        list(UrlSource("pages", tmp_path / "urls.txt").list())
