"""`plinth trace`: from an answer back to release, index, documents, prompts, guardrails, approver and cost."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from plinth.cli.command import Groups

if TYPE_CHECKING:
    from rich.tree import Tree

    from plinth.cli.output import Output


def register(groups: Groups) -> None:
    """Declare the command."""
    command = groups.command(
        "trace",
        trace,
        help="Everything an answer was made of: release, chunks, documents, prompts, guardrails, approver, cost.",
        example="plinth trace 0f3a9c5e",
    )
    command.add_argument("request_id", metavar="REQUEST_ID", help="as the answer names it")
    command.add_argument("--product", metavar="NAME", help="the assistant; default all of them")


def trace(args: Namespace, out: Output) -> None:
    """Handler."""
    from plinth.assistants.trace import trace as walk
    from plinth.cli.ask import assistant
    from plinth.wiring import Platform

    platform = Platform.from_settings()
    if args.product:
        names = [assistant(platform, args.product).name]
    else:
        names = [loaded.spec.name for loaded in platform.products.all() if loaded.spec.assistant is not None]
    found = walk(args.request_id, {name: platform.settings.product_dir(name) for name in names}, platform.ledger)
    out.data(found)
    if not out.json_mode:
        _print(_tree(found), out)


def _print(tree: Tree, out: Output) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False, width=160)
    with console.capture() as shown:  # written by us: rich exits with 1 where the reader went away
        console.print(tree)
    out.text(shown.get().rstrip())


def _tree(found: dict[str, Any]) -> Tree:
    from rich.text import Text
    from rich.tree import Tree

    from plinth.cli.output import harmless

    def add(node: Tree, line: str) -> Tree:
        return node.add(Text(harmless(line)))

    root = Tree(Text(f"answer {found['request_id']} of {found['product']}, {found['at']}"))
    add(root, f"question: {found['question']}")
    said = add(root, f"answer: {found['answer']}")
    for label in ("refused", "stale"):
        if found[label]:
            add(said, f"{label}: {found[label]}")
    add(said, f"support {found['support']:.2f}, tenant {found['tenant']}")
    _release(add(root, f"release {found['release']['digest']}"), found["release"], add)
    index = found["index"]
    node = add(root, f"index build {index['build']}, made {index['made_at'] or 'at a time that is not known'}")
    for name, as_of in index.get("sources", {}).items():
        add(node, f"source {name}, as of {as_of}")
    node = add(root, f"{len(found['retrieved'])} chunks found")
    for hit in found["retrieved"]:
        sides = ", ".join(f"{side} {hit[side]:.3f}" for side in ("dense", "sparse") if hit[side] is not None)
        cited = f"[{hit['cited_as']}] " if hit["cited_as"] else ""
        add(node, f"{cited}{hit['document']} chunk {hit['chunk'][:8]}, score {hit['score']:.3f} ({sides})")
    node = add(root, "documents")
    for document in found["documents"]:
        add(node, f"{document['document']} version {document['version'][:12]}{', cited' * document['cited']}")
    node = add(root, "prompts")
    for prompt in found["prompts"]:
        add(node, f"{prompt['name']} version {prompt['version']}, sha256 {(prompt['sha256'] or '')[:12]}")
    node = add(
        root, f"guardrails {(found['guardrails']['policy'] or '')[:12]}, {len(found['guardrails']['hits'])} hits"
    )
    for hit in found["guardrails"]["hits"]:
        add(node, f"{hit['stage']}: {hit['rule']}, {hit['action']}")
    cost = found["cost"]
    generator = found["generator"] or "nothing was generated"
    add(root, f"{generator}: {cost['prompt_tokens']} + {cost['completion_tokens']} tokens, cost {cost['cost']:g}")
    steps = ", ".join(f"{step} {took:g}" for step, took in found["steps_ms"].items())
    add(root, f"{found['latency_ms']:g} ms: {steps}")
    if found["trace_id"]:
        add(root, f"OpenTelemetry trace {found['trace_id']}")
    return root


def _release(node: Tree, release: dict[str, Any], add: Any) -> None:
    if not release["known"]:
        add(node, "not in this ledger")
        return
    add(node, f"made by {release['made_by']} at {release['made_at']}, run {release['pipeline_run']}")
    add(node, f"code {release['code'][:12]}")
    gates = release["gates"]
    add(node, f"{sum(gate['passed'] for gate in gates)} of {len(gates)} gates passed")
    decision = release["decision"]
    if decision:
        how = f"generation {decision['generation']}: {decision['kind']} by {decision['actor']} at {decision['at']}"
        add(node, f"{how} ({decision['reason']})")
    if release["rollout"]:
        add(node, f"rollout {release['rollout']}, arm {release['arm']}")
    for approval in release["approved_by"]:
        add(node, f"approved by {approval['actor']} at {approval['at']} ({approval['reason']})")
