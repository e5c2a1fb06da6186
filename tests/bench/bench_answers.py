"""How long a question waits for the first sentence: the service of docs-assistant over its own documents, over HTTP.

A real index of this repository's documents, the extractive generator, and the golden questions that the documents
answer, asked one after the other with `stream: true`. What is timed is the client's: from sending the request to the
first event of the stream.
"""

import http.client
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
PRODUCT = "docs-assistant"
ROUNDS = 5


def ask(port, text):
    """Seconds to the first event and to the end, and the whole answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    started = time.perf_counter()
    body = json.dumps({"question": text, "stream": True})
    connection.request("POST", "/ask", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    first, whole = None, None
    for line in response:
        if line.startswith(b"data:"):
            first = first or time.perf_counter() - started
            whole = json.loads(line[5:])
    connection.close()
    return first, time.perf_counter() - started, whole


def run():
    """Lines for the page of `make bench`."""
    from synthetic_state import ServiceProcess

    from plinth.assistants.golden import load_golden
    from story import PLINTH, ROOT, environment

    golden = load_golden(ROOT / "services" / PRODUCT / "golden.jsonl")
    questions = [item.question for item in golden if item.kind == "answerable"]
    with tempfile.TemporaryDirectory() as folder:
        env = environment(folder)

        def plinth(*words):
            done = subprocess.run([PLINTH, *words, "--json"], cwd=ROOT, env=env, check=True, capture_output=True)
            return json.loads(done.stdout)

        plinth("index", "build", PRODUCT, "--inline")
        plinth("release", "promote", PRODUCT, plinth("release", "list", PRODUCT)["releases"][0]["digest"])
        port = json.loads(env["PLINTH_SERVICE_PORTS"])[PRODUCT]
        command = [sys.executable, "-m", "docs_assistant.service", "--port", str(port)]
        service = ServiceProcess(Path(folder), port, command=command, **env).wait_ready()
        try:
            for text in questions:
                ask(port, text)
            cpu = service_seconds(service)
            seen = [ask(port, text) for _ in range(ROUNDS) for text in questions]
            cpu = service_seconds(service) - cpu
        finally:
            service.stop()
    answered = [(first, whole) for first, whole, answer in seen if not answer["refused"]]
    first, whole = (np.array(times) * 1000 for times in zip(*answered, strict=True))
    p50, p95 = np.percentile(first, [50, 95])
    return [
        {
            "target": 0, "measure": "first sentence of an extractive answer, p95", "unit": "ms", "peer": None,
            "ours": p95, "floor": None, "ratio": None, "bound": "<= 100 ms", "reached": bool(p95 <= 100),
            "note": f"p50 {p50:.1f} ms; the whole answer {np.median(whole):.1f} ms; {len(answered)} answers of "
            f"{len(seen)} questions, {1000 * cpu / len(seen):.1f} ms of the service's CPU each",
        }
    ]  # fmt: skip


def service_seconds(service):
    """CPU seconds of the service's process."""
    import psutil

    used = psutil.Process(service.process.pid).cpu_times()
    return used.user + used.system


if __name__ == "__main__":
    print(json.dumps(run(), indent=1, default=float))
