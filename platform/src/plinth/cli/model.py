"""`plinth model`: what the registry holds, and the card of what was released."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from plinth.cli.card import arguments
from plinth.cli.command import Groups

if TYPE_CHECKING:
    from plinth.cli.output import Output
    from plinth.models.port import ModelVersion


def register(groups: Groups) -> None:
    """Declare the commands."""
    group = groups.group("model", help="Registered models: list, show, and the model card.")
    command = group.command(
        "list", list_models, help="Registered versions, newest first.", example="plinth model list flight-delays"
    )
    command.add_argument("product", nargs="?", help="only the versions of this product's model")
    command = group.command(
        "show",
        show,
        help="One version: metrics, parameters, data and code it came from.",
        example="plinth model show flight-delays --version 1",
    )
    command.add_argument("product")
    command.add_argument("--version", help="version; default the serving one, else the newest")
    command = group.command(
        "card",
        card,
        help="The model card of a release, as Markdown or one HTML page.",
        example="plinth model card flight-delays --html --output card.html",
    )
    arguments(command)


def list_models(args: Namespace, out: Output) -> None:
    """Handler of `model list`."""
    from plinth.wiring import Platform

    platform = Platform.from_settings()
    model = platform.products.get(args.product).spec.tabular().model.name if args.product else None
    versions = platform.registry.versions(model)
    out.data({"versions": [_summary(version) for version in versions]})
    if not versions:
        out.text("no model is registered yet: `plinth pipeline run flight-delays train` makes one")
        return
    out.table(
        ["model", "version", "aliases", "registered (UTC)", "sha256", "reasons"],
        [
            [
                version.name,
                version.version,
                ", ".join(version.aliases),
                version.created_at[:19].replace("T", " "),
                version.digest[:12],
                version.tags.get("reasons", ""),
            ]
            for version in versions
        ],
    )


def show(args: Namespace, out: Output) -> None:
    """Handler of `model show`."""
    from plinth.errors import NotFound
    from plinth.wiring import Platform

    platform = Platform.from_settings()
    model = platform.products.get(args.product).spec.tabular().model.name
    registry = platform.registry
    if args.version:
        version = registry.get(model, args.version)
    else:
        found = registry.by_alias(model, "serving") or next(iter(registry.versions(model)), None)
        if found is None:
            raise NotFound(
                f"no version of model {model!r} is registered",
                where=args.product,
                hint=f"plinth pipeline run {args.product} train",
            )
        version = found
    run = registry.run(version.run_id)
    out.data(
        {
            **_summary(version),
            "metrics": dict(run.metrics),
            "params": dict(run.params),
            "run_tags": dict(run.tags),
            "datasets": [vars(data) for data in run.datasets],
        }
    )
    out.text(f"model    {version.name} version {version.version}, aliases {', '.join(version.aliases) or 'none'}")
    out.text(f"sha256   {version.digest}")
    out.text(f"run      {version.run_id}, registered {version.created_at}")
    out.text(f"code     {run.tags.get('git_commit', '')}")
    if "reasons" in version.tags:
        out.text(f"rejected {version.tags['reasons']}")
    out.table(
        ["data", "role", "from", "to", "rows", "digest"],
        [[data.name, data.role, data.start, data.end, f"{data.rows:,}", data.digest[:12]] for data in run.datasets],
    )
    out.table(["metric", "value"], [[name, f"{value:.5g}"] for name, value in sorted(run.metrics.items())])
    out.table(["parameter", "value"], sorted(run.params.items()))


def card(args: Namespace, out: Output) -> None:
    """Handler of `model card`: `release card`, of products with a model."""
    from plinth.cli.card import write
    from plinth.wiring import Platform

    Platform.from_settings().products.get(args.product).spec.tabular()
    write(args, out)


def _summary(version: ModelVersion) -> dict[str, Any]:
    return {
        "name": version.name,
        "version": version.version,
        "aliases": list(version.aliases),
        "created_at": version.created_at,
        "sha256": version.digest,
        "run_id": version.run_id,
        "tags": dict(version.tags),
    }
