"""`plinth fsck --repair`: what can be mended without losing anything, each with an audit entry.

Releases, generations and the audit log are never touched: what is wrong there is evidence, and a backup's business.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from plinth.core.digests import digest_bytes, digest_file
from plinth.core.findings import Finding
from plinth.errors import PlinthError
from plinth.features.online import filled_through
from plinth.ledger.intact import Fault, artifact_faults, old_leftovers
from plinth.ledger.leases import Candidate
from plinth.ledger.port import Leftover
from plinth.rollouts.projection import EFFECT, LEASE, align, process_name

if TYPE_CHECKING:
    from plinth.wiring import Platform

PATIENCE_SECONDS = 5.0
"""As long as a controller waits for another one's sign of life."""


class Repairs:
    """The repairs of one platform.

    Args:
        platform: The platform.
        trusted: The ledger holds its own invariants; what it says may be written to other stores.
    """

    def __init__(self, platform: Platform, *, trusted: bool) -> None:
        self._platform = platform
        self._trusted = trusted

    # Artefacts --------------------------------------------------------------------------------------------------

    def artifacts(self) -> list[Finding]:
        """Remove what killed writers left, and fetch lost or corrupt files again where an intact copy is known."""
        ledger, store = self._platform.ledger, self._platform.artifacts
        try:
            done = self._leftovers()
            tried: set[str] = set()
            for fault in artifact_faults(ledger, store):
                if fault.digest not in tried and self._restored(fault):
                    what = f"{fault.name} ({fault.digest[:12]}) was {fault.kind}, and is restored from a copy"
                    name = "artifact.present" if fault.kind == "missing" else "artifact.intact"
                    done.append(Finding(name, "repaired", fault.digest, what))
                tried.add(fault.digest)
        except PlinthError as error:
            return [Finding("artifact.present", "violation", error.where, f"no repair: {error.what}", error.hint)]
        return done

    def _leftovers(self) -> list[Finding]:
        store = self._platform.artifacts
        removed: list[Leftover] = []
        back = store.put_back()
        done = [Finding("artifact.leftover", "repaired", "", f"{back} put back, to be collected anew")] if back else []
        for left in list(old_leftovers(store)):
            try:
                if store.discard(left):
                    removed.append(left)
            except PlinthError as error:
                return [Finding("artifact.leftover", "warning", left.where, f"it stays: {error.what}", error.hint)]
        if removed or back:
            names = [left.where.rpartition("/")[2] for left in removed]
            self._audit("fsck.leftovers", "artifacts", {"removed": names[:100], "count": len(names), "put_back": back})
        return [*done, *(Finding("artifact.leftover", "repaired", left.where, "removed") for left in removed)]

    def _restored(self, fault: Fault) -> bool:
        """Store a file again: from the store's own copy, or the model or a document of its training in the registry,
        when it has the very same content."""
        store = self._platform.artifacts
        data = store.copy_of(fault.digest)
        if data is None and not registry_gone(self._platform):
            data = self._copy(fault)
        if data is None or digest_bytes(data) != fault.digest:
            return False
        aside = store.set_aside(fault.digest) if fault.kind == "corrupt" else None
        store.put_bytes(data)
        self._audit(
            "fsck.restore", fault.bundle.digest, {"file": fault.name, "digest": fault.digest, "set_aside": aside}
        )
        return True

    def _copy(self, fault: Fault) -> bytes | None:
        if fault.bundle.model is None:  # an assistant's configuration is nowhere else
            return None
        model, version, run = fault.bundle.model
        registry = self._platform.registry
        try:
            path: Path = registry.model_file(model, version)
            if digest_file(path) == fault.digest:
                return path.read_bytes()
        except (PlinthError, OSError):
            pass  # the version may be gone while its run is there
        try:
            return registry.document(run, fault.name)
        except (PlinthError, OSError):
            return None

    # Registry ---------------------------------------------------------------------------------------------------

    def registry(self) -> list[Finding]:
        """Make the aliases what the ledger says, and record the effects that are done by it."""
        if registry_gone(self._platform):  # opening it would make an empty one, and hide that the true one is lost
            return []
        if not self._trusted:
            return [
                Finding("registry.serving", "warning", "", "no repair: the ledger itself is in doubt",
                        "mend the ledger first")
            ]  # fmt: skip
        ledger = self._platform.ledger
        candidate = Candidate(ledger, LEASE, process_name(), patience=PATIENCE_SECONDS)
        try:
            if not _hold(candidate):
                return [
                    Finding("registry.serving", "warning", "", "no repair: a controller runs, and mends it by itself",
                            "plinth fsck, in half a minute")
                ]  # fmt: skip
            try:
                return self._align(candidate)
            finally:
                candidate.release()
        except PlinthError as error:
            return [Finding("registry.readable", "violation", error.where, f"no repair: {error.what}", error.hint)]

    def _align(self, candidate: Candidate) -> list[Finding]:
        from plinth.runtime.fsck import serving_products

        ledger, done = self._platform.ledger, []
        for product in serving_products(ledger):
            effects = [effect for effect in ledger.pending_effects(product) if effect.effect == EFFECT]
            changed = align(ledger, self._platform.aliases_for(product), product, lambda: candidate.hold() is not None)
            for effect in effects:
                ledger.effect_done(effect, self._platform.actor)
            if changed:
                self._audit("fsck.aliases", product, {"changed": changed})
            what = [*changed, *([f"{len(effects)} effects recorded as done"] if effects else [])]
            if what:
                done.append(Finding("registry.serving", "repaired", product, "; ".join(what)))
        return done

    # Features ---------------------------------------------------------------------------------------------------

    def features(self, found: list[Finding]) -> list[Finding]:
        """Fill online stores that were emptied, from the feature tables, to the hour that they had been filled to."""
        done = []
        for product in [finding.subject for finding in found if finding.invariant == "features.tables"]:
            through = filled_through(self._platform.settings.product_dir(product)) if product else None
            if through is None:
                continue
            try:
                self._platform.features(product).restore()
            except PlinthError as error:
                done.append(Finding("features.tables", "violation", product, f"no repair: {error.what}", error.hint))
                continue
            self._audit("fsck.features", product, {"through": through.isoformat()})
            what = f"the online store is filled again through {through:%Y-%m-%d %H:%M}"
            done.append(Finding("features.tables", "repaired", product, what))
        return done

    # Keys -------------------------------------------------------------------------------------------------------

    def keys(self) -> list[Finding]:
        """Let nobody but the owner read the files with tenants' keys."""
        from plinth.runtime.assistant_check import readable_by_others

        done = []
        for folder in sorted((self._platform.settings.state_dir / "products").glob("*")):
            for path in readable_by_others(folder):
                path.chmod(0o600)
                self._audit("fsck.keys", folder.name, {"file": path.name})
                done.append(
                    Finding("tenants.private", "repaired", folder.name, f"only its owner reads {path.name} now")
                )
        return done

    # Logs -------------------------------------------------------------------------------------------------------

    def archive(self) -> list[Finding]:
        """Archive hours of the logs again that the bucket lost."""
        from plinth.runtime.log_archive import repair_archive

        done = repair_archive(self._platform)
        for finding in done:
            if finding.level == "repaired":
                self._audit("fsck.archive", finding.subject, {"what": finding.what})
        return done

    def _audit(self, action: str, subject: str, payload: dict[str, object]) -> None:
        self._platform.ledger.append_audit(self._platform.actor, action, subject, payload)


def registry_gone(platform: Platform) -> bool:
    """Whether the model registry's database is not there, although something was released. A server says it itself."""
    if platform.settings.mlflow_server:
        return False
    return not Path(platform.settings.mlflow_store.removeprefix("sqlite:///")).is_file()


def _hold(candidate: Candidate) -> bool:
    """Take the controller's lease unless somebody shows that he lives; watches for as long as that may take."""
    until = time.monotonic() + PATIENCE_SECONDS + 1.0
    while candidate.hold() is None:
        if time.monotonic() >= until:
            return False
        time.sleep(0.25)
    return True
