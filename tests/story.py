"""The products' stories, each told once a session: `plinth demo PRODUCT --keep-up` in a state folder of its own."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLINTH = Path(sys.executable).with_name("plinth")


@dataclass(frozen=True)
class Story:
    """Where the story was told, and what it printed."""

    env: dict
    state: Path
    output: str
    product: str = "flight-delays"

    @property
    def summary(self):
        return json.loads((self.state / "demo" / self.product / "summary.json").read_text())

    @property
    def url(self):
        return f"http://127.0.0.1:{json.loads(self.env['PLINTH_SERVICE_PORTS'])[self.product]}"

    def plinth(self, *words, **options):
        """Run a command in the story's environment."""
        return subprocess.run(
            [PLINTH, *words], cwd=ROOT, env=self.env, capture_output=True, text=True, timeout=300, **options
        )

    def json(self, *words):
        done = self.plinth(*words, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)


def free_ports(count):
    """Ports that nothing listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def environment(state):
    """An environment whose settings share nothing with a platform that may run on this machine."""
    products = sorted(path.parent.name for path in ROOT.glob("services/*/product.yaml"))
    prefect, mlflow, controller, *services = free_ports(3 + len(products))
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PLINTH_", "PREFECT_", "MLFLOW_"))
    }
    return kept | {
        "PLINTH_STATE": str(state),
        "PLINTH_PREFECT_PORT": str(prefect),
        "PLINTH_MLFLOW_PORT": str(mlflow),
        "PLINTH_CONTROLLER_PORT": str(controller),
        "PLINTH_SERVICE_PORTS": json.dumps(dict(zip(products, services, strict=True))),
        "PLINTH_ACTOR": "tester",
    }


def tell(state, product="flight-delays", *options):
    """Tell a story and leave its services running; the caller ends them."""
    env = environment(state)
    words = [PLINTH, "demo", product, "--keep-up", *options]
    try:
        done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=1800)
    except BaseException:  # the test's time is over, or somebody interrupts: what it started would stay
        Story(env, state, "", product).plinth("down")
        raise
    story = Story(env, state, done.stdout + done.stderr, product)
    if done.returncode != 0:
        story.plinth("down")
        raise AssertionError(f"the demo failed with {done.returncode}:\n{story.output}")
    return story
