"""What always holds in a ledger, whatever was killed when. Each invariant has a name and says where it is broken.

They compare the tables with each other and with the audit chain, so that an edit of one of them shows in the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from plinth.core.findings import Finding, Invariants, Trouble
from plinth.core.rollouts import ACTIVE, ENDED, first_state
from plinth.errors import PlinthError
from plinth.ledger.snapshot import Snapshot, take
from plinth.ledger.store import Ledger

READABLE = "ledger.readable"
READABLE_HOLDS = "The ledger's database can be reached and read."
BACKUP = "find out who could write to the ledger's database, and restore it from a backup"

RULES: Invariants[Snapshot] = Invariants()


def check_ledger(ledger: Ledger, *, thorough: bool = True) -> list[Finding]:
    """Every invariant of the ledger alone. Changes nothing, and never raises a PlinthError.

    Args:
        ledger: The ledger.
        thorough: Have SQLite look through every page of its file as well.
    """
    try:
        snapshot = take(ledger, thorough=thorough)
    except PlinthError as error:
        return [Finding(READABLE, "violation", error.where, error.what, error.hint)]
    return [Finding(READABLE, "ok", "", READABLE_HOLDS), *RULES.check(snapshot)]


@RULES.named("ledger.sound", "SQLite finds no damaged page and no row that refers to a missing one.")
def _sound(at: Snapshot) -> Iterator[Trouble]:
    for line in at.database:
        yield Trouble("database", line, "restore the database from a backup")


@RULES.named("audit.chain", "Every audit entry's hash covers the entry before it, up to the remembered end.")
def _chain(at: Snapshot) -> Iterator[Trouble]:
    if at.audit.broken is not None:
        yield Trouble(
            f"entry {at.audit.broken}", "the audit log was edited, shortened or lengthened from this entry on", BACKUP
        )


# Releases -------------------------------------------------------------------------------------------------------


@RULES.named("release.manifest", "A release's digest is the sha256 of its manifest.")
def _manifests(at: Snapshot) -> Iterator[Trouble]:
    for digest, manifest in at.manifests.items():
        if manifest is None:
            yield Trouble(digest, "its manifest cannot be read", BACKUP)
        elif manifest.digest != digest:
            yield Trouble(digest, f"its manifest's digest is {manifest.digest[:12]}", BACKUP)
        elif manifest.product != at.releases[digest].product:
            yield Trouble(digest, f"it is kept for another product than {manifest.product}", BACKUP)


@RULES.named("release.status", "Accepted are the releases whose gates all passed, and retired ones were retired.")
def _statuses(at: Snapshot) -> Iterator[Trouble]:
    for digest, row in at.releases.items():
        manifest = at.manifests[digest]
        if manifest is None:
            continue
        if row.status in {"accepted", "rejected"} and (row.status == "accepted") != manifest.accepted:
            yield Trouble(digest, f"it is {row.status}, and its gates say otherwise", BACKUP)
        if (row.status == "drill") and digest not in at.audit.drills:
            yield Trouble(digest, "it is a drill's now, and was not registered so", BACKUP)
        if row.status in {"accepted", "rejected"} and digest in at.audit.drills:
            yield Trouble(digest, f"it is {row.status} now, and was made for a drill", BACKUP)
        if (row.status == "retired") != (digest in at.audit.retired):
            yield Trouble(digest, f"it is {row.status}, and the audit log says otherwise", BACKUP)


@RULES.named("release.audited", "Every release was registered in the audit log, by who made it, and the reverse.")
def _registered(at: Snapshot) -> Iterator[Trouble]:
    for digest, row in at.releases.items():
        entry = at.audit.registered.get(digest)
        if entry is None:
            yield Trouble(digest, "no audit entry registers it", BACKUP)
        elif entry.actor != row.created_by:
            yield Trouble(digest, f"made by {row.created_by}, and entry {entry.seq} says {entry.actor}", BACKUP)
    for digest in at.audit.registered.keys() - at.releases.keys():
        yield Trouble(digest, "an audit entry registers it, and it is gone", BACKUP)


# Generations ----------------------------------------------------------------------------------------------------


@RULES.named("generation.sequence", "The generations of a product are 1, 2, 3 and so on, without a gap.")
def _sequence(at: Snapshot) -> Iterator[Trouble]:
    for product, rows in at.promotions.items():
        numbers = [row.generation for row in rows]
        if numbers != list(range(1, len(numbers) + 1)):
            odd = next(i for i, number in enumerate(numbers, start=1) if number != i)
            yield Trouble(product, f"generation {odd} is missing or double", BACKUP)


@RULES.named("generation.serving", "A product serves what its newest generation says.")
def _serving(at: Snapshot) -> Iterator[Trouble]:
    for product in sorted(at.serving.keys() | at.promotions.keys()):
        row, rows = at.serving.get(product), at.promotions.get(product)
        if row is None or not rows:
            yield Trouble(product, "it has generations and serves nothing" if rows else "it serves without a history")
            continue
        newest = rows[-1]
        if (row.generation, row.digest) != (newest.generation, newest.digest):
            yield Trouble(
                product, f"it serves {row.digest[:12]} of generation {row.generation}, and its newest generation "
                f"{newest.generation} is {newest.digest[:12]}", BACKUP,
            )  # fmt: skip


@RULES.named("generation.audited", "Every generation has its audit entry with the same decision, and the reverse.")
def _generations_audited(at: Snapshot) -> Iterator[Trouble]:
    action = {"promote": "release.promote", "rollback": "release.rollback", "start": "rollout.start"}
    kept = Counter(
        (product, row.generation, row.digest, action.get(row.kind, row.kind), row.actor, row.reason)
        for product, rows in at.promotions.items()
        for row in rows
    )
    said = Counter((e.subject, e.generation, e.digest, e.action, e.actor, e.reason) for e in at.audit.moves)
    for product, generation, digest, what, actor, _ in kept - said:
        yield Trouble(product, f"no audit entry says that {actor} did {what} to {digest[:12]}, generation {generation}",
                      BACKUP)  # fmt: skip
    for product, number, digest, what, actor, _ in said - kept:
        yield Trouble(product, f"the audit log says that {actor} did {what} to {digest[:12]}, generation {number}, "
                      "and the history does not", BACKUP)  # fmt: skip


@RULES.named("generation.allowed", "Only accepted releases of the product ever served it, none after it was retired.")
def _allowed(at: Snapshot) -> Iterator[Trouble]:
    retired = at.audit.retired
    for entry in at.audit.moves:
        if entry.seq > retired.get(entry.digest, entry.seq):
            yield Trouble(entry.subject, f"generation {entry.generation} serves {entry.digest[:12]}, retired before")
    for product, rows in at.promotions.items():
        for row in rows:
            release, manifest = at.releases.get(row.digest), at.manifests.get(row.digest)
            if release is None or manifest is None:
                continue  # release.manifest and ledger.sound say so
            where = f"generation {row.generation} is {row.digest[:12]}"
            if release.status in {"rejected", "drill"} or not manifest.accepted or row.digest in at.audit.drills:
                yield Trouble(product, f"{where}, which may never serve", f"plinth rollback {product}")
            elif release.product != product:
                yield Trouble(product, f"{where}, a release of {release.product}", f"plinth rollback {product}")
        serves = at.serving.get(product)
        release = at.releases.get(serves.digest) if serves else None
        if release is not None and release.status == "retired":
            yield Trouble(product, f"it serves {release.digest[:12]}, which was retired", f"plinth rollback {product}")


@RULES.named("generation.rollback", "A rollback goes to a release that served before.")
def _rollbacks(at: Snapshot) -> Iterator[Trouble]:
    for product, rows in at.promotions.items():
        served: set[str] = set()
        for row in rows:
            if row.kind == "rollback" and row.digest not in served:
                yield Trouble(product, f"generation {row.generation} rolls back to {row.digest[:12]}: it never served")
            served.add(row.digest)


# Rollouts -------------------------------------------------------------------------------------------------------


def _name(row: Any) -> str:
    return f"{row.product}, rollout {row.id}"


@RULES.named("rollout.state", "A rollout's plan, phase, stage and end fit together; at most one of a product is open.")
def _states(at: Snapshot) -> Iterator[Trouble]:
    for row in at.rollouts:
        plan = at.plans[row.id]
        if plan is None:
            yield Trouble(_name(row), "its plan cannot be read", BACKUP)
        elif not 0 <= row.stage < len(plan.stages):
            yield Trouble(_name(row), f"it is at stage {row.stage}, and its plan has {len(plan.stages)}", BACKUP)
        if bool(row.active) != (row.phase in ACTIVE):
            yield Trouble(_name(row), f"it is {row.phase} and {'open' if row.active else 'not open'}", BACKUP)
        if (row.ended_at is not None) != (row.phase in ENDED):
            yield Trouble(_name(row), f"it is {row.phase} and {'has' if row.ended_at else 'has not'} ended", BACKUP)
        if (row.resumes is not None) != (row.phase == "paused"):
            yield Trouble(_name(row), f"it is {row.phase} and would resume {row.resumes}", BACKUP)
        if plan is not None and plan.drill and row.phase in {"promoting", "done"}:
            yield Trouble(_name(row), "a drill promoted its release", f"plinth rollback {row.product}")
    for product, count in Counter(row.product for row in at.rollouts if row.active).items():
        if count > 1:
            yield Trouble(product, f"{count} rollouts are open", BACKUP)


@RULES.named("rollout.generation", "A rollout began a generation that serves what served, and every start has one.")
def _starts(at: Snapshot) -> Iterator[Trouble]:
    begun = set()
    for row in at.rollouts:
        begun.add((row.product, row.generation))
        start = at.promotion(row.product, row.generation)
        if start is None or (start.kind, start.digest) != ("start", row.serving):
            yield Trouble(_name(row), f"generation {row.generation} is not its start", BACKUP)
        before = at.promotion(row.product, row.generation - 1)
        if before is None or before.digest != row.serving:
            yield Trouble(_name(row), f"{row.serving[:12]} did not serve before it", BACKUP)
        serving = at.serving.get(row.product)
        if row.active and (serving is None or (serving.generation, serving.digest) != (row.generation, row.serving)):
            now = f"generation {serving.generation}, {serving.digest[:12]}" if serving else "nothing"
            yield Trouble(_name(row), f"it is open at generation {row.generation}, and {now} serves", BACKUP)
    for product, rows in at.promotions.items():
        for row in rows:
            if row.kind == "start" and (product, row.generation) not in begun:
                yield Trouble(product, f"generation {row.generation} is the start of no rollout", BACKUP)


@RULES.named("rollout.outcome", "A rollout's outcome is the generation after it: its release, or a rollback.")
def _outcomes(at: Snapshot) -> Iterator[Trouble]:
    for row in at.rollouts:
        after = at.promotion(row.product, row.generation + 1)
        if row.phase in {"promoting", "done"}:
            if after is None or (after.kind, after.digest) != ("promote", row.candidate):
                yield Trouble(_name(row), f"it is {row.phase}, and the generation after it is not its release", BACKUP)
        elif row.phase in {"aborting", "rolled-back"} and (after is None or after.kind != "rollback"):
            # To which release is free: a person's rollback overtakes a rollout and may go further back.
            yield Trouble(_name(row), f"it is {row.phase}, and the generation after it is no rollback", BACKUP)


@RULES.named("rollout.audited", "A rollout's plan and its newest move are in the audit log.")
def _rollouts_audited(at: Snapshot) -> Iterator[Trouble]:
    for row in at.rollouts:
        planned, step, plan = at.audit.planned.get(row.id), at.audit.steps.get(row.id), at.plans[row.id]
        if planned is None or step is None:
            yield Trouble(_name(row), "no audit entry has its plan", BACKUP)
            continue
        if (planned.subject, planned.actor, planned.generation, planned.digest) != (
            row.product, row.started_by, row.generation, row.candidate,
        ):  # fmt: skip
            yield Trouble(_name(row), f"it is not what audit entry {planned.seq} says", BACKUP)
        if step.action == "rollout.plan" and plan is not None:
            begin = first_state(plan)
            fits = (row.phase, row.stage) == (begin.phase, begin.stage)
        else:
            fits = (f"rollout.{row.phase}", row.stage) == (step.action, step.stage)
        if not fits:
            yield Trouble(
                _name(row), f"it is {row.phase} in stage {row.stage}, and audit entry {step.seq} says {step.action} "
                f"{'' if step.stage is None else step.stage}".rstrip(), BACKUP,
            )  # fmt: skip
    for number in at.audit.planned.keys() - {row.id for row in at.rollouts}:
        yield Trouble(f"rollout {number}", "the audit log has its plan, and it is gone", BACKUP)


@RULES.named("rollout.candidate", "A rollout that has not ended is of a release that may be rolled out.")
def _candidates(at: Snapshot) -> Iterator[Trouble]:
    for row in at.rollouts:
        release, plan = at.releases.get(row.candidate), at.plans[row.id]
        if row.ended_at is not None or release is None or plan is None:
            continue
        wanted = "drill" if plan.drill else "accepted"
        if release.status != wanted or release.product != row.product:
            yield Trouble(
                _name(row), f"its release {row.candidate[:12]} is {release.status}, of {release.product}",
                f"plinth rollout abort {row.product}",
            )  # fmt: skip


@RULES.named("rollout.verdicts", "Recorded verdicts belong to a revision that their rollout has had.")
def _verdicts(at: Snapshot) -> Iterator[Trouble]:
    revisions = {row.id: row.revision for row in at.rollouts}
    for row in at.verdicts:
        if row.revision > revisions.get(row.rollout, 0):
            yield Trouble(f"rollout {row.rollout}", f"verdict of {row.gate} in revision {row.revision}", BACKUP)


# Effects, approvals, leases -------------------------------------------------------------------------------------


@RULES.named("outbox.generation", "Every generation has its effect in the outbox, for its release, and the reverse.")
def _effects(at: Snapshot) -> Iterator[Trouble]:
    seen = set()
    for row in at.outbox:
        seen.add((row.product, row.generation))
        promotion = at.promotion(row.product, row.generation)
        if promotion is None:
            yield Trouble(
                row.product, f"effect {row.effect} is of generation {row.generation}, which never was", BACKUP
            )
        elif promotion.digest not in row.payload:
            yield Trouble(row.product, f"effect {row.effect} of generation {row.generation} is for another release",
                          BACKUP)  # fmt: skip
    for product, rows in at.promotions.items():
        for row in rows:
            if (product, row.generation) not in seen:
                yield Trouble(product, f"generation {row.generation} has no effect in the outbox", BACKUP)


@RULES.named("outbox.order", "No effect waits that a newer one has overtaken.")
def _order(at: Snapshot) -> Iterator[Trouble]:
    newest: dict[str, int] = {}
    for row in at.outbox:
        if row.done_at is not None:
            newest[row.product] = max(row.generation, newest.get(row.product, 0))
    for row in at.outbox:
        if row.done_at is None and row.generation < newest.get(row.product, 0):
            yield Trouble(
                row.product, f"effect {row.effect} of generation {row.generation} waits, and that of "
                f"{newest[row.product]} is done", "plinth fsck --repair", level="warning",
            )  # fmt: skip


@RULES.named("outbox.audited", "Every effect that is done is in the audit log, and the reverse.")
def _effects_audited(at: Snapshot) -> Iterator[Trouble]:
    done = {(row.product, row.effect, row.generation) for row in at.outbox if row.done_at is not None}
    for product, effect, generation in sorted(done - at.audit.effects):
        yield Trouble(product, f"no audit entry says that {effect} of generation {generation} was done", BACKUP)
    for product, effect, generation in sorted(at.audit.effects - done):
        yield Trouble(product, f"the audit log says that {effect} of generation {generation} was done, "
                      "and the outbox does not", BACKUP)  # fmt: skip


@RULES.named("approval.audited", "Approvals are of the product's own releases and in the audit log, and the reverse.")
def _approvals(at: Snapshot) -> Iterator[Trouble]:
    kept = {(row.product, row.digest, row.policy, row.actor) for row in at.approvals}
    for product, digest, _, actor in sorted(kept):
        release = at.releases.get(digest)
        if release is not None and release.product != product:
            yield Trouble(product, f"{actor} approved {digest[:12]}, a release of {release.product}", BACKUP)
    for product, digest, _, actor in sorted(kept - at.audit.approvals):
        yield Trouble(product, f"no audit entry says that {actor} approved {digest[:12]}", BACKUP)
    for product, digest, _, actor in sorted(at.audit.approvals - kept):
        yield Trouble(product, f"the audit log says that {actor} approved {digest[:12]}, and nothing else does", BACKUP)


@RULES.named("lease.counters", "A lease's token and beat only grow.")
def _leases(at: Snapshot) -> Iterator[Trouble]:
    for row in at.leases:
        if row.token < 1 or row.beat < 0:
            yield Trouble(f"lease {row.name}", f"token {row.token}, beat {row.beat}", BACKUP)
