"""Ledgers with a past, for several suites: promotions, rollouts that ended in every way, approvals, a lease."""

from plinth.core.rollout_policy import DEFAULT_GATES
from plinth.core.rollouts import Plan, RolloutVerdict, Stage, State
from plinth.ledger.leases import Candidate
from plinth.ledger.rollouts import Rollouts

PRODUCT = "flight-delays"
PLAN = Plan(
    strategy="canary",
    stages=(Stage(kind="canary", percent=10, bake=60.0), Stage(kind="full", percent=100, bake=60.0)),
    patience=600.0,
    approvals=0,
    own_approval=True,
    gates=DEFAULT_GATES[:1],
)
VERDICT = RolloutVerdict(gate="errors", outcome="pass", reason="0 of 500", evidence={"points": 500})


def begin(rollouts, candidate, *, plan=PLAN, product=PRODUCT, actor="ada"):
    """A rollout, as somebody who has just looked starts it."""
    generation = rollouts.ledger.current(product).generation
    return rollouts.start(
        product, candidate, plan, policy="p" * 64, expected_generation=generation, actor=actor, reason="better"
    )


def move(rollouts, rollout, *phases, **options):
    """Moves through phases, with the stage that fits each."""
    for phase in phases:
        stage = 1 if phase in {"full", "promoting", "done"} else rollout.state.stage
        rollout = rollouts.save(
            rollout, State(phase, stage), actor="controller", reason=phase, verdicts=[VERDICT], **options
        )
    return rollout


def project(ledger, product=PRODUCT):
    """What a controller does with the outbox."""
    for effect in ledger.pending_effects(product):
        ledger.effect_done(effect, "controller")


def live(ledger, make_manifest):
    """A long life. Returns the digests of the releases by name."""
    rollouts = Rollouts(ledger)
    named = {f"r{n}": ledger.register_release(make_manifest(n), "ada") for n in range(1, 6)}
    named["bad"] = ledger.register_release(make_manifest(6, passed=False), "ada")
    named["drill"] = ledger.register_release(make_manifest(7), "ada", drill=True)
    ledger.promote(PRODUCT, named["r1"], expected_generation=0, actor="ada", reason="first")
    move(rollouts, begin(rollouts, named["r2"]), "full", "promoting", "done")
    move(rollouts, begin(rollouts, named["r3"]), "aborting", "rolled-back")
    drill = PLAN.model_copy(update={"drill": True})
    move(rollouts, begin(rollouts, named["drill"], plan=drill), "aborting", "rolled-back")
    overtaken = begin(rollouts, named["r4"])
    back = ledger.current(PRODUCT).generation
    ledger.promote(
        PRODUCT, named["r1"], expected_generation=back, actor="bob", reason="too many complaints", kind="rollback"
    )
    move(rollouts, rollouts.get(overtaken.id), "rolled-back")
    project(ledger)
    rollouts.approve(PRODUCT, named["r3"], "p" * 64, actor="bob", reason="looked at it")
    begin(rollouts, named["r3"])
    Candidate(ledger, "controller", "host/1").hold()
    return named
