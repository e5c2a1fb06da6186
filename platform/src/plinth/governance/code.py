"""Which code a release was made by: the commit of the workspace, and whether it was changed since."""

from __future__ import annotations

import subprocess
from pathlib import Path

from plinth.core.releases import CodeRef

UNVERSIONED = "unversioned"


def code_ref(workspace: Path) -> CodeRef:
    """The workspace's git commit; `unversioned` (and dirty) where there is no git or no commit.

    Untracked files count as changes too, except those git ignores: they may decide behaviour.
    """
    commit = _git(workspace, "rev-parse", "HEAD")
    if commit is None:
        return CodeRef(commit=UNVERSIONED, dirty=True)
    # None, where git failed, counts as changed: nobody can say that it was not.
    return CodeRef(commit=commit.strip(), dirty=_git(workspace, "status", "--porcelain") != "")


def _git(workspace: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=workspace, capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
