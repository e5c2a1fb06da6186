"""What the documentation says has to be there: paths, links, generated pages, commands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Tracked files and new ones that are not ignored: what a reader of this commit would find.
FILES = subprocess.run(
    ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
    cwd=ROOT, capture_output=True, text=True, check=True,
).stdout.split("\0")  # fmt: skip
PAGES = sorted(ROOT / name for name in FILES if name.endswith(".md") and (ROOT / name).is_file())
# A path as prose writes it: begins with a room of the house, has a slash, and no placeholder in it.
PATH = re.compile(r"`((?:platform|services|tests|docs|infra|notebooks|tools|locks)/[A-Za-z0-9_./-]+)`")
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_path_and_link_of_a_page_exists(page):
    text = page.read_text()
    missing = [path for path in PATH.findall(text) if not (ROOT / path).exists()]
    missing += [link for link in LINK.findall(text) if not (page.parent / link).exists()]
    assert missing == []


def test_generated_pages_are_current():
    result = subprocess.run([sys.executable, ROOT / "tools" / "docs.py", "--check"], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def commands(parser, prefix="plinth"):
    """Every command of the tree with its parser."""
    import argparse

    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                yield from commands(sub, f"{prefix} {name}")
    if parser.get_default("handler"):
        yield prefix, parser


def test_every_command_has_help_with_an_example_that_parses():
    from plinth.cli.main import build_parser

    root = build_parser()
    found = dict(commands(root))
    assert len(found) > 15
    for name, parser in found.items():
        assert parser.description, name
        assert "example:\n  plinth" in parser.epilog, name
        import shlex

        words = shlex.split(parser.epilog.split("example:\n")[1].splitlines()[0])
        words = words[: words.index("|")] if "|" in words else words
        assert root.parse_args(words[1:]).handler, name
        if words[1] == "--profile":
            del words[1:3]
        assert " ".join(words).startswith(name), (name, words)


def test_commands_that_pages_show_exist():
    from plinth.cli.main import build_parser

    known = {name for name, _ in commands(build_parser())}
    groups = {name.rsplit(" ", 1)[0] for name in known if name.count(" ") == 2}
    wrong = []
    for page in PAGES:
        for line in re.findall(r"^(?:\$ )?(plinth [a-z][^\n]*)", page.read_text(), re.MULTILINE):
            words = line.split()
            name = " ".join(words[:3]) if " ".join(words[:2]) in groups else " ".join(words[:2])
            if name not in known and "," not in words[1]:
                wrong.append((page.name, line))
    assert wrong == []


def test_no_file_names_a_package_registry_or_a_path_of_one_machine():
    hosts = "|".join(["pypi" + r"\.org", "python" + r"hosted\.org", "registry" + r"\.npmjs", "deb" + r"\.debian\.org"])
    homes = "|".join(["/" + "root/", "/" + "home/[a-z]", "/" + "work/"])
    pattern = re.compile(f"{hosts}|(?<![\\w.]){homes}")
    found = []
    for name in FILES:
        path = ROOT / name
        if not path.is_file() or path.suffix in {".png", ".ico"}:
            continue
        found += [(name, match.group()) for match in [pattern.search(path.read_text(errors="replace"))] if match]
    assert found == []


def test_the_folder_named_platform_never_shadows_the_standard_library():
    """An `__init__.py`, `conftest.py` or test there would make `import platform` find the folder."""
    forbidden = [name for name in FILES if re.fullmatch(r"platform/(__init__|conftest|test_\w*|\w*_test)\.py", name)]
    assert forbidden == []
