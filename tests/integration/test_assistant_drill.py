"""Drills of an assistant on its real service, under a real controller: what misbehaves is found and taken back."""

import contextlib
import json
import subprocess
import sys
import time

import pytest

from assistant_workspace import PAGES, PRODUCT, environment, make_workspace, run
from patience import PATIENCE
from plinth.core.findings import violations
from plinth.errors import InvalidInput
from plinth.rollouts import release
from plinth.runtime.drill import drill
from plinth.runtime.fsck import check
from plinth.runtime.traffic import get_json

pytestmark = pytest.mark.timeout(300)
ASKED = {
    "tomatoes": ("When are tomatoes watered?", "second day"), "roses": ("When are roses cut back?", "March"),
    "compost": ("How often is compost turned?", "month"), "bees": ("Where do the bees live?", "shed"),
    "pond": ("How deep is the pond?", "two metres"), "tools": ("When are tools oiled?", "November"),
}  # fmt: skip


def golden():
    for page, (question, fact) in ASKED.items():
        assert fact in PAGES[page]
        yield {
            "id": page, "question": question, "kind": "answerable", "split": "dev", "documents": [f"{page}.md"],
            "must_contain": [[fact]],
        }  # fmt: skip
    yield {"id": "moon", "question": "How far is the moon?", "kind": "unanswerable", "split": "test"}


@contextlib.contextmanager
def running(platform):
    """The product's service and a controller."""
    folder, url = platform.settings.home, platform.service_urls(PRODUCT)[0]
    commands = (
        ["docs_assistant.service", "--host", platform.settings.host, "--port", url.rpartition(":")[2]],
        ["plinth.runtime.controller"],
    )
    with (folder / "processes.log").open("ab") as log:
        processes = [
            subprocess.Popen(
                [sys.executable, "-P", "-m", *command], env=environment(platform), cwd=folder, stdout=log, stderr=log
            )
            for command in commands
        ]
    try:
        until = time.monotonic() + PATIENCE
        while get_json(url, "/readyz")[0] != 200:
            assert time.monotonic() < until, (folder / "processes.log").read_text()[-3000:]
            time.sleep(0.2)
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(timeout=PATIENCE)


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    """An assistant that serves; its service and a controller run."""
    platform = make_workspace(tmp_path_factory.mktemp("drill") / "home")
    folder = platform.settings.home / "services" / PRODUCT
    text = (folder / "product.yaml").read_text()
    text = text.replace('DocsAssistant"', 'DocsAssistant", traffic: "docs_assistant.traffic:requests"')
    (folder / "product.yaml").write_text(text.replace("  - {kind: retrieval, metric: recall@10, floor: 0.5}\n", ""))
    (folder / "golden.jsonl").write_text("".join(json.dumps(line) + "\n" for line in golden()))
    digest = run(platform, "build").release
    if platform.ledger.current(PRODUCT) is None:
        release.promote(
            platform.ledger, platform.aliases_for(PRODUCT), PRODUCT, digest, actor="tester", reason="the first one"
        )
    with running(platform):
        yield platform
    platform.ledger.close()


@pytest.mark.parametrize(
    ("fault", "gate"), [("errors", "compare-errors"), ("latency", "compare-latency"), ("bad-index", "compare-scores")]
)
def test_a_release_that_misbehaves_is_found_by_its_gate_and_rolled_back(platform, fault, gate):
    before, builds = platform.ledger.current(PRODUCT), platform.assistants.store(PRODUCT).builds()
    found = drill(platform, platform.products.get(PRODUCT), fault, bake="5s", rate=10.0)
    assert found["detected"], found
    assert found["rolled_back"], found
    assert gate in {verdict["gate"] for verdict in found["verdicts"] if verdict["outcome"] == "fail"}, found
    assert 0 < found["requests_harmed"] < found["requests_total"]
    now = platform.ledger.current(PRODUCT)
    assert (now.digest, now.generation) == (before.digest, before.generation + 2)
    assert platform.ledger.release(found["release"]).status == "drill"
    assert platform.assistants.store(PRODUCT).builds() == builds, "the drill's build is dropped"
    assert violations(check(platform)) == []


def test_a_fault_of_models_is_refused(platform):
    with pytest.raises(InvalidInput, match="no fault 'skew'"):
        drill(platform, platform.products.get(PRODUCT), "skew", bake="5s", rate=10.0)
