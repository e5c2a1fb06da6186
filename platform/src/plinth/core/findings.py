"""What a check of the platform finds, and the invariants it looks at by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

Level = Literal["ok", "warning", "violation", "repaired"]
T = TypeVar("T")


@dataclass(frozen=True)
class Finding:
    """One thing that a check saw.

    Attributes:
        invariant: Name of the invariant, such as `generation.sequence`.
        level: ok: it holds; warning: look at it, nothing is wrong yet; violation: it does not hold; repaired: it did
            not hold, and does now.
        subject: What it is about: a product, a release, a rollout, a file; "" for all of them.
        what: What was seen.
        next: What to do about it.
    """

    invariant: str
    level: Level
    subject: str
    what: str
    next: str = ""


@dataclass(frozen=True)
class Trouble:
    """Where an invariant does not hold, before it has the invariant's name."""

    subject: str
    what: str
    next: str = ""
    level: Level = "violation"


@dataclass(frozen=True)
class Invariant(Generic[T]):
    """Something that always holds of a `T`, and how to see where it does not."""

    name: str
    holds: str
    look: Callable[[T], Iterable[Trouble]]

    def check(self, state: T) -> Iterator[Finding]:
        """One finding for each trouble, or one that says that it holds."""
        whole = True
        for trouble in self.look(state):
            whole = whole and trouble.level == "ok"
            yield Finding(self.name, trouble.level, trouble.subject, trouble.what, trouble.next)
        if whole:
            yield Finding(self.name, "ok", "", self.holds)


class Invariants(Generic[T]):
    """A list of invariants, each declared over the function that looks for its breaches."""

    def __init__(self) -> None:
        self.all: list[Invariant[T]] = []

    def named(
        self, name: str, holds: str
    ) -> Callable[[Callable[[T], Iterable[Trouble]]], Callable[[T], Iterable[Trouble]]]:
        """Declares an invariant: its name, and one sentence of what holds."""

        def declare(look: Callable[[T], Iterable[Trouble]]) -> Callable[[T], Iterable[Trouble]]:
            self.all.append(Invariant(name, holds, look))
            return look

        return declare

    def check(self, state: T) -> list[Finding]:
        """Every invariant's findings, in the order of declaration."""
        return [finding for invariant in self.all for finding in invariant.check(state)]


def violations(findings: Iterable[Finding]) -> list[Finding]:
    """Those that say that something is wrong."""
    return [finding for finding in findings if finding.level == "violation"]


Progress = Callable[[str, int, int], None]
"""Called with what is looked at, how many of it are done, and how many there are."""


def silent(_what: str, _done: int, _total: int) -> None:
    """Progress that nobody is told of."""


def without(holds: Mapping[str, str], found: Iterable[Finding]) -> list[Finding]:
    """An ok for each invariant of `holds` (name to what holds) that no finding is about."""
    seen = {finding.invariant for finding in found}
    return [Finding(name, "ok", "", text) for name, text in holds.items() if name not in seen]
