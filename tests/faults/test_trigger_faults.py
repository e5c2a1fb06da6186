"""Row 15: whatever drift does and however many look at once, at most one retraining a cool-down."""

from datetime import UTC, datetime, timedelta

from faults.forking import fork_context
from patience import PATIENCE
from plinth.core.products import Monitoring
from plinth.ledger.store import Ledger
from plinth.monitoring.performance import Calibration
from plinth.monitoring.trigger import EVENT, Signals, retract, trigger

PROCESSES, ROUNDS = 20, 10
BOUNDS = Monitoring(
    drift_psi=0.2, drifted_features=2, calibration_window="14d", calibration_gap=0.03, minimum_labels=500,
    cool_down="7d",
)  # fmt: skip
BAD = Signals(calibration=Calibration("2013-07-01", 14, 1000, -0.05, 0.01, 0.5, 1.0))
START = datetime(2013, 7, 1, tzinfo=UTC)


def report(url, number, barrier, answers):
    """One process: a drift report a round, all at the same moment, each with a clock a little off."""
    ledger = Ledger(url)
    for turn in range(ROUNDS):
        barrier.wait(PATIENCE)
        now = START + timedelta(days=turn * 8, milliseconds=number)
        answers.put((turn, trigger(ledger, "flight-delays", BAD, BOUNDS, now).fire))
    ledger.close()


def test_row_15_of_twenty_drift_reports_at_once_one_triggers_each_cool_down(ledger_url):
    ledger = Ledger(ledger_url)
    ledger.events("flight-delays", EVENT)
    context = fork_context(["plinth.monitoring.trigger"])
    barrier, answers = context.Barrier(PROCESSES), context.Queue()
    processes = [
        context.Process(target=report, args=(ledger_url, number, barrier, answers), daemon=True)
        for number in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    fired = [answers.get(timeout=PATIENCE) for _ in range(PROCESSES * ROUNDS)]
    for process in processes:
        process.join(PATIENCE)
        assert process.exitcode == 0
    assert sorted(turn for turn, fire in fired if fire) == list(range(ROUNDS))
    assert len(ledger.events("flight-delays", EVENT)) == ROUNDS
    ledger.close()


def test_row_15_a_trigger_that_was_taken_back_lets_one_more_fire(ledger_url):
    ledger = Ledger(ledger_url)
    first = trigger(ledger, "flight-delays", BAD, BOUNDS, START)
    retract(ledger, "flight-delays", first, BOUNDS, "no server")
    again = [trigger(ledger, "flight-delays", BAD, BOUNDS, START + timedelta(hours=hour)).fire for hour in (1, 2)]
    assert again == [True, False]
    ledger.close()
