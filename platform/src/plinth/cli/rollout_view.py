"""How `plinth rollout status` looks: text from the document of `plinth.rollouts.status`, once or again and again."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from plinth.core.rollouts import ENDED, RUNNING
from plinth.errors import Unavailable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from plinth.cli.output import Output

EVERY = 1.0
"""Seconds between two looks."""
QUIET = 15.0
"""Seconds without a write after which no controller seems to run: one writes every 2 s while traffic moves."""

GATE_COLUMNS = ("gate", "verdict", "points", "candidate", "serving", "detectable", "reason")
"""`points` are those of both, candidate first; `detectable` is the smallest effect that the test could have found."""

Document = dict[str, Any]
Look = Callable[[], Document]


def lines(document: Document) -> list[str]:
    """The document as text for people, without the table of gates."""
    product = document["product"]
    if document["serving"] is None:
        told = [f"{product} serves nothing yet"]
    elif document["rollout"] is None:
        told = [f"{product} has had no rollout yet", _serves(document)]
    else:
        told = _rollout(document)
    told += [f"  service    {_service(service)}" for service in document["services"]]
    told += [f"  next       {command}" for command in document["next"]]
    return [printable(line) for line in told]


def _rollout(document: Document) -> list[str]:
    what = "drill" if document["drill"] else "rollout"
    told = [
        f"{document['product']}: {what} {document['rollout']} of {document['candidate'][:12]} over "
        f"{document['replaces'][:12]} is {document['phase']}"
    ]
    told.append(f"  why        {document['reason']}")
    told.append(f"  way        {document['strategy']}: {' -> '.join(map(_step, document['steps']))}")
    told.append(f"  started    {document['started_at'][:19].replace('T', ' ')} UTC by {document['started_by']}")
    if document["ended_at"]:
        told.append(f"  ended      {document['ended_at'][:19].replace('T', ' ')} UTC")
    told.append(_serves(document))
    stage = document["stage"]
    if stage is not None:
        told.append(f"  time       {_time(document, stage)}")
    if document["approvals"]["needed"]:
        told.append(f"  approvals  {_approvals(document)}")
    told += [f"  budget     {line}" for line in _budget(document)]
    quiet = _quiet(document)
    if quiet is not None:
        told.append(f"  note       nothing was written for {_span(quiet)}: does a controller run? (`plinth up`)")
    return told


def _serves(document: Document) -> str:
    traffic, generation = document["traffic"], document["generation"]
    if traffic is None or not (traffic["candidate_percent"] or traffic["shadow"]):
        return f"  traffic    all to {document['serving'][:12]}, generation {generation}"
    if traffic["shadow"]:
        return (
            f"  traffic    all to {document['serving'][:12]}, {document['candidate'][:12]} in its shadow, "
            f"generation {generation}"
        )
    return (
        f"  traffic    {traffic['candidate_percent']:g}% to {document['candidate'][:12]}, "
        f"{traffic['serving_percent']:g}% to {document['serving'][:12]}, generation {generation}"
    )


def _step(step: Document) -> str:
    name = {"shadow": "shadow", "full": "all"}.get(step["kind"], f"{step['percent']}%")
    return f"[{name}]" if step["state"] == "here" else f"!{name}" if step["state"] == "stopped" else name


def _time(document: Document, stage: Document) -> str:
    spent = f"{_span(stage['waited_seconds'])} in this step"
    if document["phase"] == "paused":
        return f"{spent}, paused"
    after = stage["then"]
    then = (
        ("the verdict" if document["drill"] else "all of it for good")
        if after is None
        else "all traffic" if after["kind"] == "full" else f"{after['percent']}%"
    )  # fmt: skip
    if stage["bake_left_seconds"] > 0:
        return f"{spent}, {_span(stage['bake_left_seconds'])} to {then}, if the gates agree"
    waits = ", ".join(stage["held_by"]) or (
        "the services to follow, and requests" if stage["judged"] else "the first verdicts"
    )
    left = _span(stage["patience_left_seconds"])
    return f"{spent}, baked; {then} waits for {'proof: ' if stage['held_by'] else ''}{waits} (for {left} at most)"


def _approvals(document: Document) -> str:
    approvals = document["approvals"]
    who = ", ".join(item["actor"] for item in approvals["given"]) or "nobody"
    told = f"{len(approvals['given'])} of {approvals['needed']}: {who}"
    if document["manifest_changed"] and document["phase"] == "waiting":
        told += "; product.yaml changed since the start, which voids approvals"
    return told


def _budget(document: Document) -> list[str]:
    """Each service level's line: what the candidate left of it."""
    if document["error_budget"] is None:
        return [f"not known: {document['evidence_problem']}"] if document["evidence_problem"] else []
    return [
        f"{level['name']} {level['objective']:.4g}: {level['left']:.0%} left by the candidate, "
        f"{level['bad']:,} of {level['good'] + level['bad']:,} requests bad"
        for level in document["error_budget"]
    ]


def _service(service: Document) -> str:
    if service["generation"] is None:
        return f"{service['where']}: {service['problem'] or 'serves nothing'}"
    follows = "follows" if service["follows"] else "is behind"
    told = f"{service['where']} {follows}: generation {service['generation']}, step {service['step']}"
    if service["candidate"]:
        share = "in the shadow" if service["shadow"] else f"{service['candidate_percent']:g}%"
        told += f", {service['candidate'][:12]} {share}"
    return f"{told}; {service['problem']}" if service["problem"] else told


def gate_rows(document: Document) -> list[list[str]]:
    """The verdicts with their key evidence, a row a gate."""
    return [
        [
            gate["gate"],
            gate["outcome"],
            *_evidence(gate["evidence"]),
            printable(gate["reason"]),
        ]
        for gate in document["gates"] or ()
    ]


def _evidence(evidence: Document) -> list[str]:
    """Points, both observed values and the detectable effect; what a gate does not have is empty."""
    points, observed = evidence.get("points"), evidence.get("observed")
    if isinstance(points, dict):
        points = f"{points['candidate']:,} / {points['serving']:,}"
    both = observed if isinstance(observed, dict) else {"candidate": observed}
    least = evidence.get("minimum_detectable_effect")
    return ["" if points is None else str(points), *map(_number, (both.get("candidate"), both.get("serving"), least))]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _quiet(document: Document) -> float | None:
    if document["phase"] not in RUNNING:
        return None
    seconds = (datetime.now(UTC) - datetime.fromisoformat(document["changed_at"])).total_seconds()
    return seconds if seconds > QUIET else None


def _span(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def printable(text: str) -> str:
    """The text without control characters: a reason that somebody wrote must not steer the reader's terminal."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)


# Watching -----------------------------------------------------------------------------------------------------------


def watch(look: Look, out: Output) -> Document:
    """Show the rollout until it has ended: live on a terminal, else a line whenever something changes.

    Args:
        look: Reads the document.
        out: Where lines go; in JSON mode nothing is shown.

    Returns:
        The last document.
    """
    if out.json_mode or not sys.stdout.isatty():
        return _watch_lines(look, out)
    return _watch_live(look)


def over(document: Document) -> bool:
    """Whether there is nothing (more) to watch."""
    return document["rollout"] is None or document["phase"] in ENDED


def _watch_lines(look: Look, out: Output) -> Document:
    said = ""
    document = look()
    while True:
        line = change_line(document)
        if line != said:
            out.text(f"{datetime.now(UTC):%H:%M:%S} {line}")
            sys.stdout.flush()
            said = line
        if over(document):
            return document
        time.sleep(EVERY)
        try:
            document = look()
        except Unavailable as error:  # the ledger is busy or away for a moment
            out.note(f"note: {error.what}")


def change_line(document: Document) -> str:
    """What a log wants to know: it changes when the rollout does, and not with every second."""
    if document["rollout"] is None:
        return printable(f"{document['product']} has had no rollout yet")
    stage, phase = document["stage"], document["phase"]
    told = f"{phase}"
    if stage is not None:
        told += f", step {document['step']} of {len(document['steps'])}, {document['traffic']['candidate_percent']:g}%"
    told += f": {document['reason']}"
    if stage is not None and document["gates"]:
        outcomes = (f"{gate['gate']} {gate['outcome']}" for gate in document["gates"])
        told += f" ({', '.join(outcomes)})"
    behind = [service for service in document["services"] if not service["follows"]]
    if behind:
        told += f"; {len(behind)} of {len(document['services'])} services do not follow"
    return printable(told)


def _watch_live(look: Look) -> Document:
    from rich.console import Console
    from rich.live import Live

    document = look()
    console = Console(highlight=False, markup=False)
    with Live(picture(document), console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while not over(document):
            time.sleep(EVERY)
            note = ""
            try:
                document = look()
            except Unavailable as error:
                note = error.what
            live.update(picture(document, note), refresh=True)
        live.update(picture(document), refresh=True)
    return document


def picture(document: Document, note: str = "") -> RenderableType:
    """The whole view, for rich."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = [Text("\n".join(lines(document)))]
    rows = gate_rows(document)
    if rows:
        table = Table(*GATE_COLUMNS, box=box.SIMPLE_HEAD, pad_edge=False)
        for row in rows:
            table.add_row(*row)
        parts.append(table)
    if note:
        parts.append(Text(printable(f"note: {note}")))
    return Group(*parts)
