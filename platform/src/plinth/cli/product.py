"""`plinth product`: the products of the workspace: list, show, validate, start a new one."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plinth.cli.command import Groups

if TYPE_CHECKING:
    from plinth.cli.output import Output
    from plinth.core.products import Product
    from plinth.core.rollout_policy import RolloutGate, RolloutPolicy


def register(groups: Groups) -> None:
    """Declare the commands."""
    group = groups.group("product", help="Products, the unit of ownership: list, show, validate, new.")
    group.command("list", list_products, help="The products of the workspace.", example="plinth product list")
    command = group.command(
        "show",
        show,
        help="One product: owner, service levels, budget, parts.",
        example="plinth product show flight-delays",
    )
    command.add_argument("product")
    command = group.command(
        "validate",
        validate,
        help="Check product manifests and the contracts they name; problems come with their lines.",
        example="plinth product validate flight-delays",
    )
    command.add_argument("product", nargs="*", help="names, or paths of product.yaml; default every product")
    command = group.command(
        "new",
        new,
        help="Start a product from the template: manifest, contract, pipeline, service, sample data.",
        example="plinth product new fraud-alerts --team payments-ml",
    )
    command.add_argument("name", help="lower-case words joined by hyphens")
    command.add_argument("--team", help="team that owns it; default NAME-team")
    command.add_argument("--contact", help="where the team is reached; default TEAM@example.com")
    command.add_argument("--port", type=int, help="port of its service; default the next free one from 3001")
    group.command("schema", schema, help="The JSON Schema of product.yaml.", example="plinth product schema")


def list_products(args: Namespace, out: Output) -> None:
    """Handler of `product list`: a broken manifest is named and does not hide the others."""
    from plinth.errors import PlinthError
    from plinth.wiring import Platform

    products = Platform.from_settings().products
    rows: list[dict[str, Any]] = []
    for name in products.names():
        try:
            rows.append(_summary(products.get(name).spec))
        except PlinthError as error:
            rows.append({"name": name, "valid": False, "problem": error.as_dict()})
            out.note(f"{name} does not validate: plinth product validate {name}")
    out.data({"products": rows})
    if not rows:
        out.text("no products yet: `plinth product new NAME` starts one")
        return
    out.table(
        ["product", "title", "tier", "team", "on call", "budget a month", "port"],
        [
            [row["name"], row["title"], row["tier"], row["team"], row["on_call"], row["budget"], row["port"]]
            if row["valid"]
            else [row["name"], "(does not validate)", "", "", "", "", ""]
            for row in rows
        ],
    )


def _summary(spec: Product) -> dict[str, Any]:
    return {
        "name": spec.name,
        "valid": True,
        "title": spec.title,
        "tier": spec.tier,
        "team": spec.owner.team,
        "on_call": spec.owner.on_call,
        "budget": f"{spec.budget.monthly:g} {spec.budget.currency}",
        "port": spec.serving.port,
    }


def show(args: Namespace, out: Output) -> None:
    """Handler of `product show`: the manifest, and `rollout_policy`, its rollout part with the tier's defaults."""
    from plinth.wiring import Platform

    product = Platform.from_settings().products.get(args.product)
    spec = product.spec
    policy = spec.rollout_policy
    manifest = spec.model_dump(mode="json", by_alias=True)
    out.data({"folder": str(product.folder), **manifest, "rollout_policy": policy.model_dump(mode="json")})
    out.text(f"{spec.name}: {spec.title} (tier {spec.tier})")
    out.text(f"{spec.description}\n")
    facts = [
        ("owner", f"{spec.owner.team}, {spec.owner.contact}, on call: {spec.owner.on_call}"),
        ("budget", f"{spec.budget.monthly:g} {spec.budget.currency} a month"),
        ("contracts", ", ".join(spec.contracts)),
        ("pipelines", ", ".join(f"{item.name} ({item.schedule or 'by hand'})" for item in spec.pipelines)),
        *_made_of(spec),
        ("serving", f"{spec.serving.service} on port {spec.serving.port}"),
        ("gates", ", ".join(gate.kind for gate in spec.gates)),
        ("rollout", _way(spec, policy)),
        ("", f"judged by {', '.join(_gate(gate) for gate in policy.gates or ())}"),
        ("folder", str(product.folder)),
    ]
    for name, value in facts:
        out.text(f"  {name:<10} {value}")
    out.table(
        ["service level", "indicator", "objective", "window", "bad when"],
        [
            [level.name, level.indicator, f"{level.objective:.1%}", level.window, _bad_when(level)]
            for level in spec.service_levels
        ],
    )


def _made_of(spec: Product) -> list[tuple[str, str]]:
    """What answers: a model, or the parts of an assistant."""
    if spec.model is not None:
        return [("model", f"{spec.model.name}, features {spec.model.feature_service}")]
    parts = spec.answers()
    generator, fallback = parts.generator.primary, parts.generator.fallback
    return [
        (
            "sources",
            ", ".join(f"{source.name} ({source.kind} {source.path}, {source.tenant})" for source in parts.sources),
        ),
        ("embedding", f"{parts.embedding.model} ({parts.embedding.provider})"),
        ("retrieval", f"{parts.retrieval.mode}, {parts.retrieval.limit} of {parts.retrieval.candidates} candidates"),
        ("prompts", ", ".join(f"{prompt.name} ({prompt.file})" for prompt in parts.prompts)),
        ("generator", f"{generator.model} ({generator.provider}){f', else {fallback.model}' if fallback else ''}"),
        ("golden set", parts.golden),
    ]


def _way(spec: Product, policy: RolloutPolicy) -> str:
    """The way of a rollout by the resolved policy, in a line."""
    from plinth.core.rollouts import make_plan

    names = {"shadow": f"shadow {policy.shadow if policy.shadow != '0s' else policy.bake}", "full": "all"}
    stops = [names.get(stage.kind, f"{stage.percent}%") for stage in make_plan(spec).stages]
    approvals = f"{policy.approvals or 'no'} approval{'s' * (policy.approvals != 1)}"
    others = " by somebody else" if policy.approvals and not policy.own_approval else ""
    direct = "may be promoted directly" if policy.direct else "never promoted directly"
    return f"{policy.strategy}: {' -> '.join(stops)}, {policy.bake} each, {approvals}{others}, {direct}"


def _gate(gate: RolloutGate) -> str:
    metric = getattr(gate, "metric", None)
    return f"{gate.kind} {metric}" if metric else gate.kind


def _bad_when(level: Any) -> str:
    if level.threshold_ms is not None:
        return f"slower than {level.threshold_ms:g} ms"
    return f"beyond {level.threshold:g}" if level.threshold is not None else ""


def validate(args: Namespace, out: Output) -> int:
    """Handler of `product validate`: 0 when all are valid, 2 for a manifest that does not fit, 3 for an unowned one."""
    from plinth.errors import NotFound, PlinthError
    from plinth.wiring import Platform

    products = Platform.from_settings().products
    targets = args.product or products.names()
    if not targets:
        raise NotFound(
            "no product to validate", where=str(products.services), hint="plinth product new NAME starts one"
        )
    rows: list[dict[str, Any]] = []
    errors: list[PlinthError] = []
    for target in targets:
        try:
            rows.append({"product": target, "valid": True, **_check(target)})
            out.text(f"{target}: valid, {rows[-1]['contracts']} contracts")
        except PlinthError as error:
            errors.append(error)
            rows.append({"product": target, "valid": False, "problem": error.as_dict()})
            if not out.json_mode:
                out.error(error)
    out.data({"valid": not errors, "products": rows})
    return max((error.exit_code for error in errors), default=0)


def _check(target: str) -> dict[str, Any]:
    """The manifest of one product, by name or path, and the contracts it names."""
    from plinth.contracts.check import load_contracts
    from plinth.core.documents import read_text
    from plinth.core.manifests import parse_product
    from plinth.wiring import Platform

    path = Path(target)
    if path.suffix in (".yaml", ".yml") or path.is_dir():
        path = path / "product.yaml" if path.is_dir() else path
        spec, folder = parse_product(read_text(path), str(path)), path.parent
    else:
        product = Platform.from_settings().products.get(target)
        spec, folder = product.spec, product.folder
    return {"name": spec.name, "contracts": len(load_contracts(spec, folder))}


def new(args: Namespace, out: Output) -> None:
    """Handler of `product new`."""
    from plinth.core.scaffold import create_product
    from plinth.errors import PlinthError
    from plinth.wiring import Platform

    products = Platform.from_settings().products
    taken = set()
    for name in products.names():
        try:
            taken.add(products.get(name).spec.serving.port)
        except PlinthError:
            continue  # a broken neighbour is no reason not to start a new product
    team = args.team or f"{args.name}-team"
    files = create_product(
        args.name,
        products.services,
        team=team,
        contact=args.contact or f"{team.replace(' ', '-')}@example.com",
        port=args.port or next(port for port in range(3001, 65536) if port not in taken),
    )
    folder = products.services / args.name
    out.data({"product": args.name, "folder": str(folder), "files": [str(path.relative_to(folder)) for path in files]})
    out.text(f"made {folder} ({len(files)} files); next:")
    out.text(f"  plinth product validate {args.name}")
    out.text(f"  plinth contract check {args.name} --data {folder / 'data' / 'examples' / '2024-01.csv'}")
    out.text(f"  then follow {folder / 'README.md'}")


def schema(args: Namespace, out: Output) -> None:
    """Handler of `product schema`: JSON, with or without --json."""
    import json

    from plinth.core.products import json_schema

    document = json_schema()
    out.data(document)
    out.text(json.dumps(document, indent=2, ensure_ascii=False))
