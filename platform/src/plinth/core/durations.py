"""Durations as manifests write them: `30s`, `5m`, `6h`, `28d`, `12w`."""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints

Duration = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]*[smhdw]$")]

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def seconds(duration: str) -> int:
    """A duration such as `28d` or `30m` in seconds."""
    return int(duration[:-1]) * SECONDS[duration[-1]]
