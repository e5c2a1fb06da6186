"""Latencies and scores of the real service, kept for the simulated rollouts: `python tests/bench/record_signals.py`.

Starts the flight-delays service on a synthetic state (synthetic_state.py), sends it single predictions at 20 requests
a second for four minutes, and writes the quantiles of what it took and what it answered to
tests/integration/recorded_signals.json. The simulation (tests/integration/test_rollout_simulation.py) draws from them.
"""

import argparse
import json
import platform
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import synthetic_state as synthetic

TARGET = Path(__file__).parent.parent / "integration" / "recorded_signals.json"
REQUESTS = 5000
RATE = 20.0
WARM_UP = 100
QUANTILES = 501


def record(requests, rate):
    """Seconds and scores of so many requests, one at a time and evenly spaced."""
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder)
        synthetic.fill(state)
        service = synthetic.ServiceProcess(state, synthetic.free_port()).wait_ready()
        try:
            flights = synthetic.flights(requests + WARM_UP, seed=1)
            seconds, scores, start = [], [], time.monotonic()
            for number, flight in enumerate(flights):
                time.sleep(max(0.0, start + number / rate - time.monotonic()))
                began = time.monotonic()
                status, answer, _ = service.ask("POST", "/predict", {"flights": [synthetic.as_json(flight)]})
                assert status == 200, answer
                seconds.append(time.monotonic() - began)
                scores.append(answer["predictions"][0]["probability"])
        finally:
            service.stop()
    return np.array(seconds[WARM_UP:]), np.array(scores[WARM_UP:])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=REQUESTS)
    args = parser.parse_args()
    seconds, scores = record(args.requests, RATE)
    grid = np.linspace(0, 1, QUANTILES)
    TARGET.write_text(
        json.dumps(
            {
                "made": datetime.now(UTC).date().isoformat(),
                "by": "tests/bench/record_signals.py",
                "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
                "requests": len(seconds),
                "rate": RATE,
                "about": "evenly spaced quantiles: client's seconds a request, and the probability answered",
                "seconds": [round(float(value), 6) for value in np.quantile(seconds, grid)],
                "scores": [round(float(value), 5) for value in np.quantile(scores, grid)],
            },
            indent=None,
        )
        + "\n"
    )
    print(
        f"{TARGET}: {len(seconds)} requests, median {np.median(seconds) * 1000:.2f} ms, mean score {scores.mean():.3f}"
    )


if __name__ == "__main__":
    main()
