"""A small workspace with an assistant of its own: real embedding model, real engine, a folder of ten documents."""

import json
import os
import shutil
import socket
from pathlib import Path

from plinth.rollouts import commands
from plinth.runtime import pipelines
from plinth.settings import Settings
from plinth.wiring import Platform

REPOSITORY = Path(__file__).parents[1]
PRODUCT = "docs-assistant"
MANIFEST = """\
apiVersion: plinth/v1
kind: Product
name: docs-assistant
title: Questions about a garden
description: Made for tests.
tier: 3
owner: {{team: tests, contact: tests@example.com, on_call: nobody}}
service_levels:
  - {{name: availability, indicator: availability, objective: 0.9, window: 28d}}
budget: {{monthly: 0, currency: USD}}
contracts: [contracts/chunks.odcs.yaml]
pipelines:
  - {{name: build, entry: "docs_assistant.pipeline:build", description: Build.}}
  - {{name: refresh, entry: "docs_assistant.pipeline:refresh", description: Refresh.}}
assistant:
  sources:
    - {{name: docs, kind: folder, path: docs, freshness: {freshness}}}
    - {{name: acme, kind: folder, path: acme, tenant: acme, freshness: {freshness}}}
  prompts:
    - {{name: answer, file: prompts/answer.jinja, variables: [question, sources]}}
    - {{name: source, file: prompts/source.jinja, variables: [number, title, headings, text]}}
  guardrails: {{min_support: {support}}}
  golden: golden.jsonl
serving: {{service: "docs_assistant.service:DocsAssistant", port: {port}}}
gates:
  - {{kind: contract}}
  - {{kind: index-checks}}
  - {{kind: retrieval, metric: recall@10, floor: 0.5}}
"""
PAGES = {
    "tomatoes": "Tomatoes are watered every second day in the morning. Ripe fruit is picked before noon.",
    "roses": "Roses are cut back in March. The cut is made above an outward bud at a slant.",
    "compost": "Compost is turned once a month. It is ready after nine months when it smells of forest soil.",
    "bees": "The bees live behind the shed. Their keeper is told before anybody mows the meadow.",
    "pond": "The pond is two metres deep. In winter a hole is kept open in the ice for the fish.",
    "tools": "Tools are oiled in November. The long saw hangs at the left wall of the shed.",
    "paths": "Paths are gravelled with forty buckets of stone. Weeds between the stones are burnt off.",
    "seeds": "Seeds are kept dry in glass jars. Each jar carries the year in which it was filled.",
}
SECRET_PAGES = {
    "plans": "The harvest of Acme will be sold to the baker at the harbour for nine hundred crowns in autumn.",
    "people": "Acme keeps the spare key of the greenhouse under the third blue flowerpot from the left door.",
}


def make_workspace(root, models=None, *, freshness="1h", port=None, support=0.6):
    """Write the workspace; `models` is a folder of embedding models to share. Returns its platform."""
    product = root / "services" / PRODUCT
    product.mkdir(parents=True)
    (root / "pyproject.toml").write_text("")
    for name in ("contracts", "prompts"):
        shutil.copytree(REPOSITORY / "services" / PRODUCT / name, product / name)
    port = port or free_port()
    (product / "product.yaml").write_text(MANIFEST.format(freshness=freshness, port=port, support=support))
    golden = [
        {
            "id": "water", "question": "When are tomatoes watered?", "kind": "answerable", "split": "test",
            "documents": ["tomatoes.md"], "must_contain": [["second day"]],
        },
        {"id": "moon", "question": "How far is the moon?", "kind": "unanswerable", "split": "test"},
    ]  # fmt: skip
    (product / "golden.jsonl").write_text("".join(json.dumps(line) + "\n" for line in golden))
    for folder, pages in (("docs", PAGES), ("acme", SECRET_PAGES)):
        (root / folder).mkdir()
        for name, text in pages.items():
            write_page(root / folder / f"{name}.md", name, text)
    if models is not None:
        (root / "state").mkdir(exist_ok=True)
        (root / "state" / "models").symlink_to(models)
    return Platform.from_settings(Settings(home=root, state=root / "state", traces=False, actor="tester"))


def write_page(path, title, text):
    path.write_text(f"# About {title}\n\n{text}\n")


def run(platform, pipeline, **params):
    """Run a pipeline in this process; returns what it ended with."""
    return pipelines.run(platform, PRODUCT, pipeline, params, inline=True).output


def begin(platform):
    """Make the first release, let it serve (a refresh begins nothing) and look once whether anything changed.

    Returns what the build ended with.
    """
    made = run(platform, "build")
    product = platform.products.get(PRODUCT).spec
    commands.promote(
        platform.ledger, platform.aliases_for(PRODUCT), product, made.release, actor="tester", reason="the first one"
    )
    run(platform, "refresh")
    return made


def environment(platform, **more):
    """For `plinth` in a process of its own on this workspace."""
    return {
        **os.environ, "PLINTH_HOME": str(platform.settings.home), "PLINTH_STATE": str(platform.settings.state_dir),
        "PLINTH_TRACES": "false", "PLINTH_ACTOR": "tester", "PLINTH_CONTROLLER_PORT": str(free_port()), **more,
    }  # fmt: skip


def state_of(platform):
    return platform.settings.product_dir(PRODUCT)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
