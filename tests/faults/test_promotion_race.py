"""Row 3: many processes decide at the same moment; one wins, the others are told why, and the audit chain is one chain.

Real processes, forked from a server that has imported everything, each with connections of its own.
"""

import random
import time

import pytest

from faults.forking import fork_context
from faults.manifests import PRODUCT, make_manifest
from patience import PATIENCE
from plinth.core.rollouts import Plan, Stage
from plinth.errors import Conflict
from plinth.ledger.rollouts import Rollouts
from plinth.ledger.store import Ledger

PROCESSES, ROUNDS = 20, 100
PLAN = Plan(
    strategy="canary", stages=(Stage(kind="full", percent=100, bake=1),), patience=1, approvals=0, own_approval=False,
    gates=(),
)  # fmt: skip


def _promote(ledger, number, digest, generation):
    ledger.promote(PRODUCT, digest, expected_generation=generation, actor=f"racer-{number}", reason="race")


def _start(ledger, number, digest, generation):
    Rollouts(ledger).start(
        PRODUCT, digest, PLAN, policy="p" * 64, expected_generation=generation, actor=f"racer-{number}", reason="race"
    )


def _racer(url, number, attempt, barrier, orders, answers):
    """One process: waits for the starting shot of every round, decides, and says how it went."""
    ledger = Ledger(url)
    for digest, generation in iter(orders.get, None):
        barrier.wait(PATIENCE)
        try:
            attempt(ledger, number, digest, generation)
            answers.put((number, None))
        except Conflict as error:
            answers.put((number, str(error)))
        except Exception as error:  # noqa: BLE001 (the test has to hear of it)
            answers.put((number, f"unexpected: {error!r}"))
    ledger.close()


class Racers:
    """The processes of one race. Used as a context: they are ended when it is over."""

    def __init__(self, url, attempt):
        context = fork_context()
        self.barrier, self.answers = context.Barrier(PROCESSES), context.Queue()
        self.orders = [context.SimpleQueue() for _ in range(PROCESSES)]
        self.processes = [
            context.Process(
                target=_racer, args=(url, number, attempt, self.barrier, orders, self.answers), daemon=True
            )
            for number, orders in enumerate(self.orders)
        ]  # fmt: skip

    def __enter__(self):
        for process in self.processes:
            process.start()
        return self

    def __exit__(self, *_):
        for orders in self.orders:
            orders.put(None)
        for process in self.processes:
            process.join(10)
            process.kill()

    def round(self, digests, generation):
        """Let all go at once: the winners, and what each loser was told."""
        for orders, digest in zip(self.orders, digests, strict=True):
            orders.put((digest, generation))
        outcomes = [self.answers.get(timeout=PATIENCE) for _ in self.processes]
        return [number for number, told in outcomes if told is None], [told for _, told in outcomes if told is not None]


@pytest.fixture
def ledger(ledger_url):
    ledger = Ledger(ledger_url)
    yield ledger
    ledger.close()


@pytest.fixture
def digests(ledger):
    found = [ledger.register_release(make_manifest(number), "race") for number in range(PROCESSES + 1)]
    ledger.promote(PRODUCT, found[-1], expected_generation=0, actor="race", reason="begin")
    return found[:-1]


def test_row_3_of_twenty_processes_that_promote_at_once_exactly_one_wins_each_round(ledger, ledger_url, digests):
    seed = time.time_ns() % 2**32
    print(f"seed {seed}")
    dice = random.Random(seed)
    winners = []
    with Racers(ledger_url, _promote) as racers:
        for generation in range(1, ROUNDS + 1):
            dice.shuffle(digests)
            won, told = racers.round(digests, generation)
            assert len(won) == 1, told
            assert all(f"no longer at generation {generation}: somebody else promoted" in text for text in told), told
            serving = ledger.current(PRODUCT)
            assert (serving.generation, serving.digest) == (generation + 1, digests[won[0]])
            winners += won
    assert [entry.actor for entry in ledger.history(PRODUCT)][:-1] == [f"racer-{n}" for n in reversed(winners)]
    assert len(ledger.pending_effects(PRODUCT)) == ROUNDS + 1
    assert ledger.broken_entry() is None
    assert [entry.actor for entry in ledger.audit() if entry.action == "release.promote"][1:] == [
        f"racer-{n}" for n in winners
    ]
    assert len(set(winners)) > 1, "one process won every round: they did not race"


def test_row_3_of_twenty_processes_that_start_a_rollout_at_once_one_does(ledger, ledger_url, digests):
    rollouts = Rollouts(ledger)
    with Racers(ledger_url, _start) as racers:
        for _ in range(10):
            serving = ledger.current(PRODUCT)
            won, told = racers.round(digests, serving.generation)
            assert len(won) == 1, told
            # A loser came too late for the generation, or saw the winner's rollout: both say so.
            assert all("somebody else" in text or "is running" in text for text in told), told
            running = rollouts.active(PRODUCT)
            assert running.candidate == digests[won[0]]
            assert (ledger.current(PRODUCT).digest, running.serving) == (serving.digest, serving.digest)
            ledger.promote(
                PRODUCT,
                serving.digest,
                expected_generation=running.generation,
                actor="race",
                reason="",
                kind="rollback",
            )
            assert rollouts.active(PRODUCT) is None
    assert len(rollouts.of(PRODUCT)) == 10
    assert ledger.broken_entry() is None
