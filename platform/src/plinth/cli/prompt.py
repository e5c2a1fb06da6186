"""`plinth prompt`: the versions of an assistant's prompts, and what changed between them."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from plinth.cli.command import Groups

if TYPE_CHECKING:
    from plinth.cli.output import Output
    from plinth.generation.prompts import PromptRegistry, Registered
    from plinth.wiring import Platform


def register(groups: Groups) -> None:
    """Declare the commands."""
    group = groups.group("prompt", help="Prompt templates of assistants: list, show, diff, register.")
    command = group.command(
        "list",
        list_prompts,
        help="Registered versions, newest first.",
        example="plinth prompt list docs-assistant",
    )
    command.add_argument("product")
    command = group.command(
        "show",
        show,
        help="One version with its text.",
        example="plinth prompt show docs-assistant answer",
    )
    command.add_argument("product")
    command.add_argument("name", help="name of the prompt in the product, such as answer")
    command.add_argument("--version", help="version; default the newest")
    command = group.command(
        "diff",
        diff,
        help="What changed between two versions, as a unified diff.",
        example="plinth prompt diff docs-assistant answer 1 2",
    )
    command.add_argument("product")
    command.add_argument("name", help="name of the prompt in the product, such as answer")
    command.add_argument("a", metavar="A", help="version")
    command.add_argument("b", metavar="B", help="version to compare with it")
    command = group.command(
        "register",
        register_prompt,
        help="Check a template and register it; the same text again is the same version. Serves nothing by itself.",
        example="plinth prompt register docs-assistant answer --message 'Shorter answers'",
    )
    command.add_argument("product")
    command.add_argument("name", help="name of the prompt in the product, such as answer")
    command.add_argument("--file", metavar="FILE", help="template; default the file that product.yaml names")
    command.add_argument("--message", default="", help="why: kept with the version")


def list_prompts(args: Namespace, out: Output) -> None:
    """Handler of `prompt list`."""
    registry = _registry(args.product)
    versions = registry.versions(args.product)
    serving = {name: registry.alias(name, "serving") for name in {version.name for version in versions}}
    out.data(
        {
            "product": args.product,
            "prompts": [{**found.as_dict(), "serving": serving[found.name] == found.version} for found in versions],
        }
    )
    if not versions:
        out.text(f"no prompt is registered yet: `plinth prompt register {args.product} answer` registers one")
        return
    out.table(
        ["prompt", "version", "", "registered (UTC)", "by", "sha256", "message"],
        [
            [
                found.name,
                found.version,
                "serving" if serving[found.name] == found.version else "",
                found.created_at[:19].replace("T", " "),
                found.actor,
                found.digest[:12],
                found.message,
            ]
            for found in versions
        ],
    )


def show(args: Namespace, out: Output) -> None:
    """Handler of `prompt show`."""
    registry = _registry(args.product)
    found = _version(registry, args.product, args.name, args.version)
    serving = registry.alias(found.name, "serving") == found.version
    out.data({**found.as_dict(), "serving": serving, "template": found.template})
    out.text(f"prompt    {found.name} version {found.version}{', serving' if serving else ''}")
    out.text(f"sha256    {found.digest}")
    out.text(f"variables {', '.join(found.variables)}")
    out.text(
        f"made      {found.created_at} by {found.actor or 'unknown'}{': ' if found.message else ''}{found.message}"
    )
    out.text()
    out.text(found.template.rstrip("\n"))


def diff(args: Namespace, out: Output) -> None:
    """Handler of `prompt diff`."""
    from difflib import unified_diff

    registry = _registry(args.product)
    before, after = (_version(registry, args.product, args.name, version) for version in (args.a, args.b))
    left, right = (f"{found.name} version {found.version}" for found in (before, after))
    lines = list(unified_diff(before.template.splitlines(), after.template.splitlines(), left, right, lineterm=""))
    if before.variables != after.variables:
        lines.append(f"variables: {', '.join(before.variables)} -> {', '.join(after.variables)}")
    out.data({"from": before.as_dict(), "to": after.as_dict(), "equal": before.digest == after.digest, "diff": lines})
    for line in lines or ["the versions are equal"]:
        out.text(line)


def register_prompt(args: Namespace, out: Output) -> None:
    """Handler of `prompt register`."""
    from pathlib import Path

    from plinth.core.documents import read_text
    from plinth.errors import NotFound
    from plinth.generation.prompts import prompt_name
    from plinth.generation.templates import check_prompt

    platform = _platform()
    loaded = platform.products.get(args.product)
    prompts = loaded.spec.answers().prompts
    spec = next((prompt for prompt in prompts if prompt.name == args.name), None)
    if spec is None:
        raise NotFound(
            f"{args.product} has no prompt {args.name!r}",
            where=str(loaded.folder / "product.yaml"),
            hint=f"its prompts: {', '.join(prompt.name for prompt in prompts)}",
        )
    template = read_text(Path(args.file) if args.file else loaded.folder / spec.file)
    check_prompt(spec.name, template, spec.variables)
    registry = platform.assistants.prompts
    name = prompt_name(args.product, spec.name)
    known = {found.version for found in registry.versions(args.product) if found.name == name}
    found = registry.register(name, template, spec.variables, message=args.message, actor=platform.actor)
    out.data({**found.as_dict(), "created": found.version not in known})
    out.text(f"{found.name} version {found.version}{' is this text already' if found.version in known else ''}")
    if found.version not in known:
        out.text("it serves nothing yet: the next release pins it, and its gates judge it")


def _platform() -> Platform:
    from plinth.wiring import Platform

    return Platform.from_settings()


def _registry(product: str) -> PromptRegistry:
    """The registry, if there is such a product and it has prompts. A bad manifest is said before anything is read."""
    platform = _platform()
    platform.products.get(product).spec.answers()
    return platform.assistants.prompts


def _version(registry: PromptRegistry, product: str, name: str, version: str | None) -> Registered:
    from plinth.errors import NotFound
    from plinth.generation.prompts import prompt_name

    full = prompt_name(product, name)
    if version is not None:
        return registry.get(full, version)
    found = next((entry for entry in registry.versions(product) if entry.name == full), None)
    if found is None:
        raise NotFound(
            f"no version of prompt {full!r} is registered",
            where=product,
            hint=f"plinth prompt register {product} {name}",
        )
    return found
