"""Everything that is made from code for Grafana and Prometheus, as files of `infra/`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from plinth.core.files import write_whole
from plinth.core.products import Product
from plinth.errors import Unavailable
from plinth.telemetry.alerts import rules
from plinth.telemetry.dashboards import infrastructure, overview, pipelines, product, provisioning, rag
from plinth.telemetry.dashboards.model import Board

DASHBOARDS = "grafana/dashboards"
RULES = "prometheus/rules"
TARGETS = "prometheus/products.yml"
"""What Prometheus scrapes; it reads this file again when it changes."""


def boards(products: Sequence[Product]) -> list[Board]:
    """Every dashboard: the platform's, and one a product. That of assistants needs one to be there."""
    own = [product.board(one) for one in products]
    assistants = [rag.board()] if any(one.assistant is not None for one in products) else []
    return [overview.board(), *own, *assistants, pipelines.board(), infrastructure.board()]


def files(products: Sequence[Product]) -> dict[str, str]:
    """Text of each file, by its path below `infra/`.

    Raises:
        MissingExtra: The SDK of Grafana is not installed.
    """
    from plinth.telemetry.dashboards import grafana

    made = {f"{DASHBOARDS}/{board.slug}.json": grafana.to_json(board) for board in boards(products)}
    made[TARGETS] = _targets(products)
    made["grafana/provisioning/datasources/plinth.yaml"] = provisioning.data_sources_file()
    made["grafana/provisioning/dashboards/plinth.yaml"] = provisioning.dashboards_file()
    return {**made, **{f"{RULES}/{name}": text for name, text in rules.render(products).items()}}


def stale(products: Sequence[Product], infra: Path) -> list[str]:
    """Files that are not as they would be rendered now: changed, missing, or of a product that is no more."""
    wanted = files(products)
    kept = {str(path.relative_to(infra)) for path in _rendered(infra)}
    changed = {name for name, text in wanted.items() if _text(infra / name) != text}
    return sorted(changed | (kept - wanted.keys()))


def write(products: Sequence[Product], infra: Path) -> list[str]:
    """Write what is stale and delete what no product has any more; says which.

    Raises:
        MissingExtra: The SDK of Grafana is not installed.
        Unavailable: A file cannot be written.
    """
    wanted = files(products)
    names = stale(products, infra)
    try:
        for name in names:
            path = infra / name
            if name in wanted:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(path, wanted[name].encode())
            else:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise Unavailable(
            f"a dashboard cannot be written: {error.strerror}", where=str(error.filename or infra),
            hint="check the folder's permissions and the disk",
        ) from error  # fmt: skip
    return names


def _targets(products: Sequence[Product]) -> str:
    """A line a product: in containers its service has its name, and listens on the port of its manifest."""
    lines = [f"- targets: [{product.name}:{product.serving.port}]" for product in products]
    head = "# Written by `plinth dashboard render`: one line a product, its compose service and port."
    return "\n".join([head, *lines, ""])


def _rendered(infra: Path) -> list[Path]:
    return [*(infra / DASHBOARDS).glob("*.json"), *(infra / RULES).glob("*.yml")]


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None
