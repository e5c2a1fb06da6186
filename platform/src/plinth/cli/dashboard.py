"""`plinth dashboard`: dashboards and alerts, made from code: list, render, push."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from typing import TYPE_CHECKING

from plinth.cli.command import Groups

if TYPE_CHECKING:
    from plinth.cli.output import Output
    from plinth.core.products import Product
    from plinth.settings import Settings
    from plinth.telemetry.dashboards.push import Credential

REFUSED = 3


def register(groups: Groups) -> None:
    """Declare the commands."""
    group = groups.group("dashboard", help="Dashboards and alerts, made from code: list, render, push.")
    group.command(
        "list", show, help="Every dashboard, with its panels and its identity.", example="plinth dashboard list"
    )
    command = group.command(
        "render",
        render,
        help="Write dashboards, data sources, recording rules and alerts into infra/, from the products' manifests.",
        example="plinth dashboard render",
    )
    command.add_argument(
        "--check", action="store_true", help="write nothing; exit with 3 when a file is not what would be written"
    )
    command = group.command(
        "push",
        push,
        help="Put the dashboards into a Grafana that exists; doing it twice changes nothing. Its password is read from "
        "GRAFANA_ADMIN_PASSWORD (environment or .env), a token from GRAFANA_TOKEN or standard input.",
        example="plinth dashboard push --url http://127.0.0.1:3000",
    )
    command.add_argument("--url", metavar="URL", help="its address; default the setting grafana_url")
    command.add_argument("--user", default="admin", help="the user that the password is of (default admin)")
    command.add_argument(
        "--token-stdin", action="store_true", help="read a service account's token from standard input"
    )
    command.add_argument("--datasources", action="store_true", help="make or change its data sources, too")
    for name, port in (("prometheus", 9090), ("loki", 3100), ("tempo", 3200)):
        command.add_argument(
            f"--{name}", metavar="URL", help=f"where that Grafana finds {name} (default http://{name}:{port})"
        )


def show(args: Namespace, out: Output) -> None:
    """Handler of `dashboard list`."""
    from plinth.telemetry.dashboards.render import boards

    _, products = _workspace()
    found = [
        {"uid": board.uid, "title": board.title, "file": f"infra/grafana/dashboards/{board.slug}.json",
         "rows": len(board.rows), "panels": len(board.panels()), "description": board.description}
        for board in boards(products)
    ]  # fmt: skip
    out.data({"dashboards": found})
    out.table(["uid", "title", "panels"], [[item["uid"], item["title"], item["panels"]] for item in found])


def render(args: Namespace, out: Output) -> int:
    """Handler of `dashboard render`: 3 with `--check` when something is stale."""
    from plinth.telemetry.dashboards.render import files, stale, write

    settings, products = _workspace()
    infra = settings.home / "infra"
    changed = stale(products, infra) if args.check else write(products, infra)
    out.data({"changed": changed, "files": sorted(files(products)), "written": not args.check})
    for name in changed:
        out.text(f"{'stale' if args.check else 'wrote'} infra/{name}")
    if not changed:
        out.text("every file is as it should be")
    return REFUSED if args.check and changed else 0


def push(args: Namespace, out: Output) -> None:
    """Handler of `dashboard push`."""
    from plinth.telemetry.dashboards.push import push as push_all
    from plinth.telemetry.dashboards.render import boards

    settings, products = _workspace()
    given = {name: getattr(args, name) for name in ("prometheus", "loki", "tempo") if getattr(args, name)}
    done = push_all(
        args.url or settings.grafana_url,
        _credential(args, settings),
        boards(products),
        addresses=given if args.datasources else None,
        on_pushed=lambda one: out.note(f"{one.kind} {one.uid}: {one.result}"),
    )
    out.data({"pushed": [{"kind": one.kind, "uid": one.uid, "title": one.title, "result": one.result} for one in done]})
    changed = sum(one.result != "unchanged" for one in done)
    out.text(f"{len(done)} things are in Grafana as they should be, {changed} of them changed now")


def _workspace() -> tuple[Settings, list[Product]]:
    from plinth.wiring import Platform

    platform = Platform.from_settings()
    return platform.settings, [product.spec for product in platform.products.all()]


def _credential(args: Namespace, settings: Settings) -> Credential:
    """From standard input, the environment, or the workspace's .env: never from the command line, which others see.

    Raises:
        InvalidInput: There is none.
    """
    from plinth.errors import InvalidInput
    from plinth.telemetry.dashboards.push import Credential

    token = sys.stdin.readline().strip() if args.token_stdin else _secret("GRAFANA_TOKEN", settings)
    password = "" if token else _secret("GRAFANA_ADMIN_PASSWORD", settings)
    if not token and not password:
        raise InvalidInput(
            "there is no token or password for Grafana", where="environment",
            hint="set GRAFANA_ADMIN_PASSWORD or GRAFANA_TOKEN, or give a token with --token-stdin",
        )  # fmt: skip
    return Credential(token, args.user, password)


def _secret(name: str, settings: Settings) -> str:
    from dotenv import dotenv_values

    file = settings.home / ".env"
    return os.environ.get(name) or (dotenv_values(file).get(name) if file.is_file() else "") or ""
