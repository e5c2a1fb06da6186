"""`plinth fsck`: the one checker of what must hold in every store, for operators, CI and the tests that kill processes.

Each part can be checked without a platform: the ledger, the artefacts, the registries, the online features, what
assistants pin, the running services, the logs. What was looked at while somebody moved it is looked at again before it
is called wrong.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from plinth.core.findings import Finding, Progress, silent, violations, without
from plinth.errors import PlinthError
from plinth.features.online import Online, filled_through, online_store
from plinth.ledger import intact, invariants
from plinth.ledger.intact import check_artifacts
from plinth.ledger.invariants import check_ledger
from plinth.ledger.port import Artifacts
from plinth.ledger.store import Ledger
from plinth.rollouts import agreement
from plinth.rollouts.agreement import check_registry, check_services
from plinth.runtime import assistant_check, log_archive
from plinth.runtime.assistant_check import check_assistants

if TYPE_CHECKING:
    from plinth.wiring import Platform

__all__ = [
    "INVARIANTS", "Finding", "check", "check_artifacts", "check_assistants", "check_features", "check_ledger",
    "check_logs", "check_registry", "check_services", "violations",
]  # fmt: skip

FEATURE_HOLDS = {
    "features.plan": "The read plan of what serves is the one that its feature service names, and can be used.",
    "features.tables": "The online store, where there is one, has every table that the read plan reads, and what was "
    "written to it.",
}
LOG_HOLDS = {"log.readable": "Every file of the request and inference logs can be opened."}

INVARIANTS: dict[str, str] = {
    invariants.READABLE: invariants.READABLE_HOLDS,
    **{rule.name: rule.holds for rule in invariants.RULES.all},
    **intact.HOLDS,
    **agreement.REGISTRY_HOLDS,
    **FEATURE_HOLDS,
    **assistant_check.HOLDS,
    **agreement.SERVICE_HOLDS,
    **LOG_HOLDS,
    **log_archive.HOLDS,
}
"""Every invariant by name, and what it says."""


def check(
    platform: Platform, *, repair: bool = False, thorough: bool = True, on_progress: Progress | None = None
) -> list[Finding]:
    """Check everything.

    Args:
        platform: What to check.
        repair: Mend what can be mended without loss (plinth.runtime.repair), each with an audit entry.
        thorough: Hash every artefact, look through every page of the ledger, open every log file.
        on_progress: Told what is looked at.

    Returns:
        At least one finding for every invariant that could be looked at.

    Raises:
        InvalidInput: The setting of the ledger's address does not fit. Whatever else is wrong is a finding.
        MissingExtra: The driver of the ledger's database is not installed.
    """
    from plinth.runtime.repair import Repairs

    tell = on_progress or silent
    settings = platform.settings
    if settings.ledger_url is None and not (settings.state_dir / "ledger.db").is_file():
        return [Finding(invariants.READABLE, "ok", "", "there is no ledger yet: nothing was released")]
    tell("ledger", 0, 1)
    # Not the platform's own: that one would bring an older schema up to date, and a check changes nothing.
    ledger = platform.ledger if repair else Ledger(settings.database_url, create=False)
    found = check_ledger(ledger, thorough=thorough)
    if violations(found) and found[0].level != "ok":
        return found
    repairs = Repairs(platform, trusted=not violations(found)) if repair else None

    def part(look: Callable[[], list[Finding]], mend: Callable[[], list[Finding]] | None = None) -> None:
        seen = look()
        if mend is not None and any(finding.level in {"warning", "violation"} for finding in seen):
            done = mend()
            seen = [*done, *(look() if any(finding.level == "repaired" for finding in done) else seen)]
        found.extend(seen)

    products = serving_products(ledger)
    folders = {product: settings.product_dir(product) for product in products}
    part(
        lambda: check_artifacts(ledger, platform.artifacts, thorough=thorough, on_progress=tell),
        repairs.artifacts if repairs else None,
    )
    tell("model registry", 0, 1)
    part(lambda: _registry(platform, ledger, products), repairs.registry if repairs else None)
    tell("features", 0, 1)

    def features() -> list[Finding]:
        return check_features(ledger, platform.artifacts, folders, platform.online)

    part(features, (lambda: repairs.features(features())) if repairs else None)
    part(lambda: _assistants(platform, ledger, thorough), repairs.keys if repairs else None)
    tell("services", 0, 1)
    part(lambda: _services(platform, ledger, products))
    if thorough:
        part(lambda: check_logs(folders, on_progress=tell))
    part(lambda: log_archive.check_archive(platform, thorough=thorough), repairs.archive if repairs else None)
    if not repair:
        ledger.close()
    return found


def serving_products(ledger: Ledger) -> list[str]:
    """Products that have ever served, by name."""
    from plinth.ledger import schema

    with ledger.read() as connection:
        return [row.product for row in connection.execute(schema.serving.select().order_by(schema.serving.c.product))]


def _registry(platform: Platform, ledger: Ledger, products: list[str]) -> list[Finding]:
    from plinth.runtime.repair import registry_gone

    if products and registry_gone(platform):
        store = platform.settings.mlflow_store.removeprefix("sqlite:///")
        return [
            Finding("registry.readable", "violation", store, "the model registry's database is gone",
                    "restore it from a backup")
        ]  # fmt: skip
    return check_registry(ledger, platform.aliases_for, products)


def _assistants(platform: Platform, ledger: Ledger, thorough: bool) -> list[Finding]:
    from plinth.runtime.repair import registry_gone

    ports, settings = platform.assistants, platform.settings
    prompts = None if registry_gone(platform) else lambda: ports.prompts
    return check_assistants(ledger, platform.artifacts, ports.store, prompts, settings.product_dir, thorough=thorough)


def _services(platform: Platform, ledger: Ledger, products: list[str]) -> list[Finding]:
    known = {*platform.products.names(), *platform.settings.service_ports}
    here = [product for product in products if product in known]  # a ledger may have more than this workspace
    return check_services(platform.backend, ledger, here)


# Features -------------------------------------------------------------------------------------------------------------


def check_features(
    ledger: Ledger, store: Artifacts, folders: Mapping[str, Path], online: Callable[[str], Online] | None = None
) -> list[Finding]:
    """Whether what serves can read its features.

    Args:
        ledger: Says what serves.
        store: The artefacts.
        folders: Product to its state folder.
        online: Product to its online store; by default SQLite in its folder.
    """
    found: list[Finding] = []
    for product, folder in folders.items():
        try:
            opened = online(product) if online else online_store(folder, product)
            found += _features(ledger, store, product, opened, filled_through(folder))
        except PlinthError as error:
            found.append(Finding("features.plan", "violation", product, error.what, error.hint))
    return found + without(FEATURE_HOLDS, found)


def _features(
    ledger: Ledger, store: Artifacts, product: str, online: Online, through: datetime | None
) -> Iterator[Finding]:
    from plinth.features.readplan import ReadPlan

    serving = ledger.current(product)
    if serving is None:
        return
    manifest = ledger.release(serving.digest).manifest
    if manifest.feature_service is None:  # an assistant reads no features
        return
    digest = manifest.artifacts.get("read_plan.json")
    if digest != manifest.feature_service.digest:
        yield Finding(
            "features.plan", "violation", product, f"release {serving.digest[:12]} carries another read plan than its "
            f"feature service {manifest.feature_service.name} names", f"plinth rollback {product}",
        )  # fmt: skip
    if digest is None:
        return
    try:
        text = store.path(digest).read_text()
    except (PlinthError, OSError, UnicodeDecodeError):
        return  # artifact.present and artifact.intact say so
    try:
        plan = ReadPlan.from_dict(json.loads(text))
    except (PlinthError, ValueError) as error:
        yield Finding("features.plan", "violation", product, f"the read plan cannot be used: {error}",
                      f"plinth rollback {product}")  # fmt: skip
        return
    try:
        problem = online.problem(plan, through)
    except PlinthError as error:
        problem = error.what
    if problem:
        hint = "plinth fsck --repair" if through else f"materialize it again: plinth pipeline run {product} train"
        yield Finding("features.tables", "violation", product, problem, hint)


# Logs -----------------------------------------------------------------------------------------------------------------


def check_logs(folders: Mapping[str, Path], *, on_progress: Progress | None = None) -> list[Finding]:
    """Whether the files of the request and inference logs open. One that does not is a warning: it only loses rows.

    Args:
        folders: Product to its state folder, which holds `requests/` and `inference/`.
        on_progress: Told how many files were opened.
    """
    tell = on_progress or silent
    files = [
        path
        for folder in folders.values()
        for pattern in ("requests/generation=*/*.parquet", "inference/date=*/*.parquet")
        for path in sorted(folder.glob(pattern))
    ]
    found = []
    for done, path in enumerate(files):
        tell("logs", done, len(files))
        problem = _unreadable(path)
        if problem:
            found.append(Finding("log.readable", "warning", str(path), problem, "move it away: its rows are lost"))
    return found + without(LOG_HOLDS, found)


def _unreadable(path: Path) -> str:
    """What is wrong with a Parquet file's beginning, end and description; "" when nothing is."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        pq.read_metadata(path)
    except FileNotFoundError:
        return ""  # collected meanwhile
    except (OSError, pa.ArrowException) as error:
        return str(error).splitlines()[0][:200]
    return ""
