"""Making the embedding model: killed at any time, and by several processes at once."""

import os
import random
import subprocess
import sys
import time

from patience import PATIENCE
from plinth.retrieval import minilm

SEED = int(os.environ.get("PLINTH_SEED", random.randrange(2**31)))
MAKE = (
    "import sys; from pathlib import Path; from plinth.retrieval.minilm import make_minilm as m; m(Path(sys.argv[1]))"
)


def start(folder):
    return subprocess.Popen([sys.executable, "-c", MAKE, str(folder)])


def test_processes_that_make_the_model_at_once_leave_one_whole_model(tmp_path):
    running = [start(tmp_path) for _ in range(3)]
    assert [process.wait(PATIENCE) for process in running] == [0, 0, 0]
    (only,) = tmp_path.iterdir()
    assert minilm._whole(only)


def test_a_killed_process_leaves_no_half_model(tmp_path):
    print(f"PLINTH_SEED={SEED}")
    chance = random.Random(SEED)
    for _ in range(4):
        process = start(tmp_path)
        time.sleep(chance.uniform(0.2, 3.0))
        process.kill()
        process.wait()
        named = [path for path in tmp_path.iterdir() if not path.name.startswith(".")]
        assert all(minilm._whole(path) for path in named)
    folder = minilm.make_minilm(tmp_path)
    assert minilm._whole(folder)
    past = time.time() - 7200
    for left in tmp_path.glob(".*"):
        os.utime(left, (past, past))
    (folder / "model.onnx").write_bytes(b"damaged")
    assert minilm.make_minilm(tmp_path) == folder
    assert list(tmp_path.iterdir()) == [folder]
