"""What changed between two versions of a contract, and whom it breaks. Pure.

A contract stands between a producer and its consumers, so a change can break either side:

* it *loosens* when the new contract admits data that the old one ruled out (a wider enumeration, a nullable column, a
  dropped key, older data): a consumer that relied on the promise may fail;
* it *tightens* when data that kept the old contract is refused by the new one (a required column, a narrower
  enumeration): a producer that kept its promise is quarantined.

Either is breaking and needs a new major version. That is the rule of full compatibility in schema registries
(Confluent, "Schema Evolution and Compatibility": FULL is BACKWARD and FORWARD together); the two directions are also
how datacontract-cli 1.2 grades changes, by perspective. One change to the data is compatible: a new column that may be
null, because a reader that doesn't know it is not disturbed and its producer adds it together with the version.
Everything that describes and does not rule (descriptions, owner, consumers, a rule of severity warning) is compatible.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from plinth.contracts.model import Column, Contract, Quality

Side = Literal["consumers", "producers"]
Bump = Literal["none", "patch", "minor", "major"]
_ORDER: tuple[Bump, ...] = ("none", "patch", "minor", "major")

_LOOSENS: tuple[Side, ...] = ("consumers",)
_TIGHTENS: tuple[Side, ...] = ("producers",)
_BOTH: tuple[Side, ...] = ("consumers", "producers")

_UPPER = ("maximum", "exclusive_maximum", "max_length")
_LOWER = ("minimum", "exclusive_minimum", "min_length")


@dataclass(frozen=True)
class Change:
    """One change. `breaks` names the sides it breaks; `minimum` is the smallest version step it needs."""

    kind: str
    path: str
    breaking: bool
    reason: str
    breaks: tuple[Side, ...] = ()
    minimum: Bump = "patch"

    def as_dict(self) -> dict[str, Any]:
        """The change as stable JSON."""
        return asdict(self)


def diff(old: Contract, new: Contract) -> list[Change]:
    """Every change from `old` to `new`, breaking ones first, each with its reason."""
    changes = [
        *_identity(old, new),
        *_columns(old, new),
        *_key(old, new),
        *_quality(old.quality, new.quality),
        *_freshness(old, new),
        *_documentation(old, new),
    ]
    if not changes and old.digest != new.digest and old.version == new.version:
        changes.append(Change("document-changed", "document", False, "the document differs in what is not checked"))
    return sorted(changes, key=lambda change: (not change.breaking, change.path, change.kind))


def bump(changes: Iterable[Change]) -> Bump:
    """The version step the changes need: the largest of theirs (semantic versioning 2.0.0)."""
    return max((change.minimum for change in changes), key=_ORDER.index, default="none")


def version_problem(old: str, new: str, changes: Sequence[Change]) -> str | None:
    """Why the step from version `old` to `new` does not fit the changes, or None when it does."""
    needed = bump(changes)
    before, after = _parts(old), _parts(new)
    if before is None or after is None:
        return f"{old if before is None else new!r} is no semantic version (major.minor.patch)"
    if after < before:
        return f"the version goes back from {old} to {new}"
    step: Bump = "none"
    for index, name in enumerate(("major", "minor", "patch")):
        if after[index] != before[index]:
            step = name  # type: ignore[assignment]
            break
    if _ORDER.index(step) >= _ORDER.index(needed):
        return None
    wanted = {
        "major": f"{before[0] + 1}.0.0",
        "minor": f"{before[0]}.{before[1] + 1}.0",
        "patch": f"{before[0]}.{before[1]}.{before[2] + 1}",
    }[needed]
    return f"the changes need a {needed} version: {wanted} instead of {new}"


def _parts(version: str) -> tuple[int, int, int] | None:
    match = re.match(r"v?(\d+)\.(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def _breaking(kind: str, path: str, breaks: tuple[Side, ...], reason: str) -> Change:
    return Change(kind, path, True, reason, breaks, "major")


def _moved(kind: str, path: str, *, tighter: bool, old: Any, new: Any) -> Change:
    """A rule whose bound moved, appeared (`old` None) or went away (`new` None)."""
    step = "added" if old is None else "removed" if new is None else "narrowed" if tighter else "widened"
    detail = {"added": f"now {new}", "removed": f"was {old}"}.get(step, f"from {old} to {new}")
    why = (
        "data that kept the old contract may be refused"
        if tighter
        else "consumers may meet data they were promised not to"
    )
    return _breaking(f"{kind}-{step}", path, _TIGHTENS if tighter else _LOOSENS, f"{detail}: {why}")


def _identity(old: Contract, new: Contract) -> list[Change]:
    return [
        _breaking(f"{what}-changed", what, _BOTH, f"from {before} to {after}: consumers find it under another name")
        for what, before, after in (("id", old.id, new.id), ("dataset", old.dataset, new.dataset))
        if before != after
    ]


def _columns(old: Contract, new: Contract) -> list[Change]:
    changes: list[Change] = []
    added = [column for column in new.columns if old.column(column.name) is None]
    for column in old.columns:
        path = f"columns.{column.name}"
        successor = new.column(column.name)
        if successor is not None:
            changes += _column(column, successor, path)
            continue
        twin = next((item for item in added if replace(item, name=column.name, key=column.key) == column), None)
        if twin is None:
            changes.append(_breaking("column-removed", path, _LOOSENS, "consumers that read it fail"))
        else:
            added.remove(twin)
            reason = f"renamed to {twin.name}: consumers that read the old name fail, batches with it are refused"
            changes.append(_breaking("column-renamed", path, _BOTH, reason))
    for column in added:
        path = f"columns.{column.name}"
        if column.required:
            reason = "batches that kept the old contract lack it and are refused"
            changes.append(_breaking("required-column-added", path, _TIGHTENS, reason))
        else:
            reason = "may be null: readers that don't know it are not disturbed"
            changes.append(Change("column-added", path, False, reason, minimum="minor"))
    return changes


def _column(old: Column, new: Column, path: str) -> list[Change]:
    changes: list[Change] = []
    for what in ("logical_type", "physical_type"):
        before, after = getattr(old, what), getattr(new, what)
        if before != after:
            changes.append(_breaking("type-changed", path, _BOTH, f"from {before} to {after}: values read differently"))
    if old.logical_type != new.logical_type:
        return changes  # the bounds of two types can't be compared
    if old.unit != new.unit:
        changes.append(
            _breaking("unit-changed", path, _LOOSENS, f"from {old.unit} to {new.unit}: values mean something else")
        )
    for what in ("required", "unique"):
        if getattr(old, what) != getattr(new, what):
            tighter = getattr(new, what)
            changes.append(
                _moved(what, path, tighter=tighter, old=None if tighter else what, new=what if tighter else None)
            )
    for what in (*_LOWER, *_UPPER):
        changes += _bound(what.replace("_", "-"), path, getattr(old, what), getattr(new, what), upper=what in _UPPER)
    for what in ("pattern", "multiple_of"):
        before, after = getattr(old, what), getattr(new, what)
        if before == after:
            continue
        if before is None or after is None:
            changes.append(_moved(what.replace("_", "-"), path, tighter=before is None, old=before, new=after))
        else:
            reason = f"from {before} to {after}: which of them admits more cannot be told"
            changes.append(_breaking(f"{what.replace('_', '-')}-changed", path, _BOTH, reason))
    changes += _enumeration(path, old.values, new.values)
    if old.description != new.description or old.classification != new.classification:
        changes.append(Change("documentation-changed", path, False, "description or classification"))
    return changes


def _bound(kind: str, path: str, old: Any, new: Any, *, upper: bool) -> list[Change]:
    if old == new:
        return []
    if old is None or new is None:
        return [_moved(kind, path, tighter=old is None, old=old, new=new)]
    return [_moved(kind, path, tighter=new < old if upper else new > old, old=old, new=new)]


def _enumeration(path: str, old: Any, new: Any) -> list[Change]:
    if old is None or new is None:
        if old is new:
            return []
        sizes = [None if values is None else f"one of {len(values)} values" for values in (old, new)]
        return [_moved("enumeration", path, tighter=old is None, old=sizes[0], new=sizes[1])]
    changes = []
    gone, come = [value for value in old if value not in new], [value for value in new if value not in old]
    if gone:
        reason = f"{_listed(gone)} no longer allowed: data that kept the old contract may be refused"
        changes.append(_breaking("enumeration-narrowed", path, _TIGHTENS, reason))
    if come:
        reason = f"{_listed(come)} now allowed: consumers may meet values they don't know"
        changes.append(_breaking("enumeration-widened", path, _LOOSENS, reason))
    return changes


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(str(value) for value in values[:5]) + (f" and {len(values) - 5} more" if len(values) > 5 else "")


def _key(old: Contract, new: Contract) -> list[Change]:
    before, after = set(old.key), set(new.key)
    if before == after:
        return []
    written = [", ".join(key) or None for key in (old.key, new.key)]
    if not before or (after and after < before):
        return [_moved("primary-key", "key", tighter=True, old=written[0], new=written[1])]
    if not after or before < after:
        return [_moved("primary-key", "key", tighter=False, old=written[0], new=written[1])]
    return [_breaking("primary-key-changed", "key", _BOTH, f"from {written[0]} to {written[1]}")]


def _quality(old: Sequence[Quality], new: Sequence[Quality]) -> list[Change]:
    before = {_quality_key(rule): rule for rule in old}
    after = {_quality_key(rule): rule for rule in new}
    changes: list[Change] = []
    for key in dict.fromkeys([*before, *after]):
        path, first, second = f"quality.{key}", before.get(key), after.get(key)
        hard = [rule for rule in (first, second) if rule is not None and rule.severity == "error"]
        if (
            first is not None
            and second is not None
            and replace(first, description="") == replace(second, description="")
        ):
            continue
        if not hard:
            changes.append(Change("warning-changed", path, False, "a rule that warns does not rule", minimum="minor"))
        elif first is None or first.severity != "error":
            changes.append(_moved("rule", path, tighter=True, old=None, new=hard[0].bound))
        elif second is None or second.severity != "error":
            changes.append(_moved("rule", path, tighter=False, old=first.bound, new=None))
        else:
            changes += _rule(path, first, second)
    return changes


def _quality_key(rule: Quality) -> str:
    """A rule's identity across versions: its name, or what it measures where names are derived."""
    return ".".join(filter(None, (rule.column, rule.name)))


def _rule(path: str, old: Quality, new: Quality) -> list[Change]:
    same = replace(new, operator=old.operator, threshold=old.threshold, description=old.description) == old
    if not same or old.percent != new.percent:
        return [
            _breaking("rule-changed", path, _BOTH, "what it measures changed: which version admits more cannot be told")
        ]
    low_old, high_old = _interval(old)
    low_new, high_new = _interval(new)
    if None in (low_old, low_new):
        return [_breaking("rule-changed", path, _BOTH, f"from {old.bound} to {new.bound}")]
    changes = []
    if low_new > low_old or high_new < high_old:
        changes.append(_moved("bounds", path, tighter=True, old=old.bound, new=new.bound))
    if low_new < low_old or high_new > high_old:
        changes.append(_moved("bounds", path, tighter=False, old=old.bound, new=new.bound))
    return changes or [_breaking("rule-changed", path, _BOTH, f"from {old.bound} to {new.bound}")]


def _interval(rule: Quality) -> tuple[Any, Any]:
    """The numbers a rule admits as an interval; (None, None) where they are no interval."""
    first = rule.threshold[0]
    match rule.operator:
        case "mustBe":
            return first, first
        case "mustBeGreaterThan" | "mustBeGreaterOrEqualTo":
            return first, float("inf")
        case "mustBeLessThan" | "mustBeLessOrEqualTo":
            return float("-inf"), first
        case "mustBeBetween":
            return min(rule.threshold), max(rule.threshold)
    return None, None


def _freshness(old: Contract, new: Contract) -> list[Change]:
    before, after = old.freshness, new.freshness
    if before == after:
        return []
    written = [None if item is None else f"{item.seconds / 3600:g} h on {item.column}" for item in (before, after)]
    if before is not None and after is not None and before.column != after.column:
        return [_breaking("freshness-changed", "freshness", _BOTH, f"from {written[0]} to {written[1]}")]
    tighter = before is None or (after is not None and after.seconds < before.seconds)
    kind = "freshness-tightened" if tighter else "freshness-loosened"
    moved = _moved("freshness", "freshness", tighter=tighter, old=written[0], new=written[1])
    return [replace(moved, kind=kind)]


def _documentation(old: Contract, new: Contract) -> list[Change]:
    changes = []
    for what in ("owner", "consumers", "status", "name", "description"):
        before, after = getattr(old, what), getattr(new, what)
        if before != after:
            minimum: Bump = "patch" if what in ("description", "name") else "minor"
            changes.append(
                Change(f"{what}-changed", what, False, f"from {before or 'none'} to {after or 'none'}", minimum=minimum)
            )
    return changes
