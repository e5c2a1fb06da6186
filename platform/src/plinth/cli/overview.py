"""What `plinth --help` prints, without building the command tree: no argparse, no module of a command.

The tree takes 30 ms to import and build, three times what Python itself takes to start. A test holds this page equal
to the tree (tests/unit/plinth/cli/test_overview.py).
"""

DESCRIPTION = "One reference platform for AI products: contracts, features, models, releases, serving, monitoring."
PROFILES = ("embedded", "compose")
PROFILE_HELP = "where the platform runs: embedded (processes), compose (containers)"
EPILOG = "Start with: plinth demo flight-delays"

# First word of the command line: the module that declares it, and its help.
COMMANDS = {
    "up": (
        "platform",
        "Start the platform: the Prefect and MLflow servers and the products' services, watched and restarted.",
    ),
    "status": ("platform", "How each service is."),
    "logs": ("platform", "What a service said, newest last."),
    "down": ("platform", "Stop the platform; nothing keeps running."),
    "doctor": (
        "platform",
        "Check the machine, versions, ports, disk and services, and say what to do about each finding.",
    ),
    "product": ("product", "Products, the unit of ownership: list, show, validate, new."),
    "contract": ("contract", "Data contracts (ODCS v3): check data, compare versions."),
    "pipeline": ("pipeline", "Pipelines: run one, list them."),
    "model": ("model", "Registered models: list, show, and the model card."),
    "prompt": ("prompt", "Prompt templates of assistants: list, show, diff, register."),
    "predict": (
        "predict",
        "Ask a product's running service for predictions: one given by KEY=VALUE, many from a file.",
    ),
    "ask": ("ask", "Ask an assistant's running service; the answer comes with citations."),
    "trace": (
        "trace",
        "Everything an answer was made of: release, chunks, documents, prompts, guardrails, approver, cost.",
    ),
    "tenant": ("tenant", "Tenants of an assistant: add, list, delete."),
    "token": ("token", "Tokens that open the products' services: issue one, check one."),
    "index": ("index", "Index builds of an assistant: build, list, status, promote, diff."),
    "eval": ("evaluate", "Evaluation: retrieval on collections, answers on golden questions."),
    "drift": ("drift", "Drift, performance and calibration of what serves."),
    "release": ("release", "Immutable releases: list, show, diff, card, promote, roll back."),
    "rollback": (
        "release",
        "Take a bad release away at once: abort the rollout that runs, else serve the release before again.",
    ),
    "rollout": ("rollout", "Rollouts that judge themselves: start, status, pause, resume, abort, drill."),
    "approve": (
        "rollout",
        "Approve a release of a product: on tier 1 its rollout waits for somebody else's consent.",
    ),
    "controller": (
        "controller",
        "Move rollouts on, in the foreground: judge them, carry decisions out. `plinth up` runs one already.",
    ),
    "backup": ("backup", "Write what the servers of the compose profile hold into a folder, with digests."),
    "restore": ("backup", "Put a backup back, in place of what the servers hold now."),
    "fsck": ("fsck", "Check every invariant across ledger, artefacts, registry, features, services and logs."),
    "gc": (
        "fsck",
        "Retire old releases, delete what none needs; says what it would do, until --apply.",
    ),
    "audit": ("audit", "The audit log, a hash chain over every decision and effect: tail, verify, export."),
    "init": ("init", "Prepare a profile: `plinth init compose` writes .env, with random secrets."),
    "open": ("open", "Open a tool's or product's page, or print its address, and where its credentials are."),
    "reset": ("reset", "Remove a profile's data for good: `plinth reset compose`."),
    "dashboard": ("dashboard", "Dashboards and alerts, made from code: list, render, push."),
    "demo": ("demo", "Run a product's story: train, serve, watch, retrain, release, roll back."),
}
COLUMN = 18  # where argparse begins the help, behind "  --profile NAME"
MODULES = tuple(dict.fromkeys(module for module, _ in COMMANDS.values()))


def help_text(width: int = 80) -> str:
    """The page."""
    usage = "usage: plinth [-h] [--profile NAME] [--version] COMMAND ..."
    lines = [usage, "", *_wrapped(DESCRIPTION, 0, width), "", "options:"]
    lines += ["  -h, --help      show this help message and exit"]
    first, *rest = _wrapped(PROFILE_HELP, COLUMN, width)
    lines += [f"  --profile NAME  {first.strip()}", *rest, "  --version       show program's version number and exit"]
    lines += ["", "commands:", "  COMMAND"]
    for word, (_, text) in COMMANDS.items():
        first, *rest = _wrapped(text, COLUMN, width)
        # As argparse does it: what is longer than its column stands on a line of its own.
        lines += [f"    {word:<14}{first.strip()}"] if len(word) <= 12 else [f"    {word}", first]
        lines += rest
    return "\n".join([*lines, "", EPILOG, ""])


def _wrapped(text: str, indent: int, width: int) -> list[str]:
    # textwrap would import `re`, which costs as much as the rest of this page.
    lines, line = [], ""
    for word in text.split():
        if line and indent + len(line) + 1 + len(word) > width - 2:
            lines.append(" " * indent + line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    return [*lines, " " * indent + line]
