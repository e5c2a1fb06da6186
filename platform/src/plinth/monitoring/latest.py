"""The last drift report of a product as numbers, for the controller's page of metrics: `reports/drift.json`."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plinth.core.files import write_whole

if TYPE_CHECKING:
    from plinth.monitoring.assessment import Assessment

log = logging.getLogger(__name__)


def path_in(folder: Path) -> Path:
    """Where it is, in a product's state folder."""
    return folder / "reports" / "drift.json"


def keep(assessment: Assessment, folder: Path) -> None:
    """Leave a report as the last one. A disk that is full costs the numbers on a dashboard, not the report."""
    path = path_in(folder)
    document: dict[str, Any] = {"made_at": time.time(), **assessment.as_dict()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(document).encode())
    except OSError as error:
        log.warning("the report's numbers were not kept: %s (%s)", error.strerror, path)
