"""A stack that loses every volume and its working files comes back from a backup, clean by fsck. Played last."""

import json
import shutil

from test_faults import ASSISTANT, MODEL, Caller, clean, served, until  # noqa: F401  (served is a fixture)


def test_a_stack_that_lost_everything_is_restored_to_a_clean_fsck(served, tmp_path):  # noqa: F811
    callers = {product: Caller(served, product) for product in (MODEL, ASSISTANT)}
    before = {product: caller.ask()[1] for product, caller in callers.items()}
    folder = tmp_path / "backup"
    made = json.loads(served.plinth("backup", str(folder), "--json").stdout)
    names = {part["name"] for part in made["parts"]}
    assert {"postgres", "objects", "valkey", "state"} <= names
    assert all(part["entries"] for part in made["parts"]), made
    assert served.plinth("backup", str(folder), "--verify").returncode == 0
    history = json.loads(served.plinth("release", "list", MODEL, "--json").stdout)

    served.compose("down", "--volumes")
    for path in served.state.iterdir():
        if not path.name.startswith("."):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert served.plinth("init", "compose").returncode == 0  # as on a new machine: the folders, and no other secrets
    served.compose("up", "--detach", "--wait")
    lost = json.loads(served.plinth("release", "list", MODEL, "--json").stdout)
    assert not lost["releases"], "it has really lost everything"

    restored = served.plinth("restore", str(folder), "--yes", "--json")
    assert restored.returncode == 0, restored.stdout + restored.stderr
    assert json.loads(served.plinth("release", "list", MODEL, "--json").stdout) == history
    for product, caller in callers.items():
        until(lambda caller=caller: caller.ask()[0] == 200, 90, f"an answer of {product}")
        after = caller.ask()[1]
        assert after["release"] == before[product]["release"]
    assert callers[MODEL].ask()[1]["predictions"] == before[MODEL]["predictions"], "with the same features"
    assert served.plinth("audit", "verify").returncode == 0
    clean(served)


def test_a_backup_that_was_touched_is_not_restored_and_nothing_is_stopped(served, tmp_path):  # noqa: F811
    folder = tmp_path / "backup"
    made = served.plinth("backup", str(folder), "--json")
    assert made.returncode == 0, made.stdout + made.stderr
    path = folder / "postgres" / "ledger.dump"
    *most, last = path.read_bytes()
    path.write_bytes(bytes([*most, last ^ 1]))
    refused = served.plinth("restore", str(folder), "--yes", "--json")
    assert refused.returncode == 1
    assert json.loads(refused.stdout)["error"]["kind"] == "Corrupt"
    assert Caller(served).ask()[0] == 200
