"""The rule files of Prometheus: recorded series, service levels, and the rest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import yaml

from plinth.core.products import Product
from plinth.telemetry import recorded
from plinth.telemetry.alerts import assistants, levels, models, pipelines, platform, products
from plinth.telemetry.alerts.model import Alert

HEAD = "# Made by `plinth dashboard render` from the products' manifests and plinth.telemetry; not to be edited.\n"


def of_product(product: Product) -> list[Alert]:
    """All alerts of a product but those of its service levels."""
    kind = assistants if product.assistant is not None else models
    return [*products.alerts(product), *kind.alerts(product), *pipelines.alerts(product)]


def every(specs: Iterable[Product]) -> list[Alert]:
    """All alerts."""
    own = [alert for product in specs for alert in (*levels.alerts(product), *of_product(product))]
    return [*own, *platform.alerts()]


def render(specs: Sequence[Product]) -> dict[str, str]:
    """The files, by name, as YAML.

    Args:
        specs: The products, in the order their groups are to stand.
    """
    recording = [_group(f"recorded-{one.name}", map(_recorded, recorded.rules(one)), "30s") for one in specs]
    burning = [_group(f"levels-{one.name}", map(_alert, levels.alerts(one))) for one in specs]
    others = [_group(f"product-{one.name}", map(_alert, of_product(one))) for one in specs]
    return {
        "recording.yml": _file(recording),
        "service-levels.yml": _file(burning),
        "platform.yml": _file([*others, _group("platform", map(_alert, platform.alerts()))]),
    }


def _recorded(rule: recorded.Rule) -> dict[str, Any]:
    made: dict[str, Any] = {"record": rule.record.name, "expr": rule.expression}
    return {**made, "labels": dict(rule.labels)} if rule.labels else made


def _alert(alert: Alert) -> dict[str, Any]:
    return {
        "alert": alert.name,
        "expr": alert.expression,
        "for": alert.hold,
        "labels": {"severity": alert.severity, **dict(alert.labels)},
        "annotations": {
            "summary": alert.summary,
            "description": alert.description,
            "runbook_url": alert.runbook_url,
        },
    }


def _group(name: str, rules: Iterable[dict[str, Any]], interval: str = "") -> dict[str, Any]:
    return {"name": name, **({"interval": interval} if interval else {}), "rules": list(rules)}


def _file(groups: list[dict[str, Any]]) -> str:
    return HEAD + yaml.safe_dump({"groups": groups}, sort_keys=False, width=120, allow_unicode=True)
