"""Readiness: can this service answer a prediction now, and if not, why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from plinth.errors import PlinthError
from plinth.serving.inference_log import InferenceLog
from plinth.serving.releases import ReleaseHolder


class Health:
    """Answers /readyz.

    Args:
        releases: Ready only with a release loaded.
        log: Reported, not required: a full disk stops no prediction.
        probe: Reads the online store; raises when it cannot be read.
    """

    def __init__(self, releases: ReleaseHolder, log: InferenceLog, probe: Callable[[], None]) -> None:
        self._releases = releases
        self._log = log
        self._probe = probe

    def state(self) -> dict[str, Any]:
        """`ready`, `reasons` (why not), `warnings` (serving, but look), `release`, `generation`, `inference_log`.

        Reads the online store; call it outside the event loop.
        """
        release = self._releases.current
        reasons: list[str] = []
        warnings: list[str] = []
        problem = self._releases.problem
        if release is None:
            reasons.append(problem or "no release is loaded")
        elif problem:
            warnings.append(f"the last good release serves on: {problem}")
        if release is not None:
            try:
                self._probe()
            except PlinthError as error:
                reasons.append(str(error))
            except Exception as error:  # noqa: BLE001  (whatever the store throws, the answer is "not ready")
                reasons.append(f"the online store cannot be read: {error}")
        stats = self._log.stats()
        if stats["failing"]:
            warnings.append(f"the inference log cannot be written: {stats['failing']}")
        return {
            "ready": not reasons,
            "reasons": reasons,
            "warnings": warnings,
            "release": release.digest if release else None,
            "generation": release.generation if release else None,
            "inference_log": stats,
        }
