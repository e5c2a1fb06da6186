"""What an alert is, and the helpers to write many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from plinth.core.products import Product

Severity = Literal["page", "ticket", "info"]
"""page: somebody is called. ticket: somebody looks on a working day. info: a note."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One alerting rule.

    Attributes:
        name: As it is called in Alertmanager; the heading of its part of the runbook.
        expression: PromQL; every series it gives is an alert.
        hold: How long it has to stay so.
        severity: Whom it wakes.
        summary: What happened, and where: one line. May name labels as Prometheus's templates do.
        description: What it means and what to do first.
        runbook: Page of docs/runbooks, without its ending.
        labels: Beside the severity: the product, its team, the level.
    """

    name: str
    expression: str
    hold: str
    severity: Severity
    summary: str
    description: str
    runbook: str
    labels: tuple[tuple[str, str], ...] = ()

    @property
    def runbook_url(self) -> str:
        """Path of its part of the runbook, from the repository's root."""
        return f"docs/runbooks/{self.runbook}.md#{self.name.lower()}"


def owned(product: Product, **more: str) -> tuple[tuple[str, str], ...]:
    """Labels that route an alert to the product's team."""
    return (("product", product.name), ("team", product.owner.team), *more.items())
