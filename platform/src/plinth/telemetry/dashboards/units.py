"""Grafana's names of the units that panels use, and the thresholds that go with them."""

from __future__ import annotations

from plinth.telemetry.dashboards.model import Bound

COUNT = "short"
SHARE = "percentunit"
SECONDS = "s"
BYTES = "bytes"
PER_SECOND = "reqps"
TOKENS_PER_SECOND = "cps"
CORES = "none"
NUMBER = "none"
LINES = "none"

BAD_ABOVE_0 = (Bound(1, "red"),)
"""Something that should not be."""
GOOD_FROM_1 = (Bound(1, "green"),)
"""Something that should be; the base is red."""


def money(currency: str) -> str:
    """The unit of an ISO 4217 code."""
    return f"currency{currency}" if currency in {"USD", "EUR", "GBP", "CHF", "JPY", "SEK", "NOK", "DKK"} else "short"
