"""The ports of one profile, by its settings.

Each port is built when it is first asked for, so a command imports only the tools it uses.
"""

from __future__ import annotations

import getpass
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plinth.core import failpoints
from plinth.core.environment import load_settings
from plinth.core.products import Product
from plinth.errors import InvalidInput, NotFound
from plinth.ledger.artifacts import ArtifactStore
from plinth.ledger.rollouts import Rollouts
from plinth.ledger.store import Ledger
from plinth.settings import Settings
from plinth.wiring.mlflow import mlflow_connection, mlflow_files

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plinth.features.feast import FeastFeatures
    from plinth.features.online import Online
    from plinth.features.reader import Reader
    from plinth.ledger.obstore import Objects
    from plinth.ledger.port import Artifacts
    from plinth.models.mlflow_evaluation import MlflowEvaluations
    from plinth.models.port import Registry
    from plinth.pipelines.port import Runner
    from plinth.rollouts.projection import Aliases
    from plinth.serving.port import Backend
    from plinth.serving.tokens import Credentials
    from plinth.telemetry.signals import SignalSource
    from plinth.wiring.assistants import AssistantPorts


@dataclass(frozen=True)
class LoadedProduct:
    """A product's manifest, and the folder it stands in."""

    spec: Product
    folder: Path


class Products:
    """The products of a workspace: the folders of `services/` that hold a `product.yaml`."""

    def __init__(self, services: Path) -> None:
        self.services = services

    def names(self) -> list[str]:
        """Folder names that hold a manifest, sorted."""
        return sorted(path.parent.name for path in self.services.glob("*/product.yaml"))

    def named(self, name: str) -> str:
        """The name, if there is such a product. Its manifest is not read: a bad one must hold up no rollback.

        Raises:
            NotFound: No such folder or manifest.
        """
        self._manifest(name)
        return name

    def get(self, name: str) -> LoadedProduct:
        """One product.

        Raises:
            NotFound: No such folder or manifest.
            InvalidInput: The manifest does not fit its schema (with line numbers).
            RefusedByPolicy: The product is unowned, or has no service level or budget.
        """
        from plinth.core.documents import read_text
        from plinth.core.manifests import parse_product

        path = self._manifest(name)
        spec = parse_product(read_text(path), str(path))
        if spec.name != name:
            raise InvalidInput(
                f"the manifest's name is {spec.name!r} but its folder is {name!r}",
                where=str(path),
                hint="make them equal",
            )
        return LoadedProduct(spec, path.parent)

    def _manifest(self, name: str) -> Path:
        path = self.services / name / "product.yaml"
        if not self.services.is_dir():
            raise NotFound(
                f"no product {name!r}: this is no workspace",
                where=str(self.services.parent),
                hint="run plinth inside the workspace, or set PLINTH_HOME to it",
            )
        if not path.is_file():
            known = ", ".join(self.names()) or "none"
            raise NotFound(
                f"no product {name!r}",
                where=str(self.services),
                hint=f"known products: {known}; `plinth product new` adds one",
            )
        return path

    def all(self) -> list[LoadedProduct]:
        """Every product; raises as `get` does on the first bad one."""
        return [self.get(name) for name in self.names()]


class Platform:
    """The ports of one profile."""

    def __init__(self, settings: Settings) -> None:
        if settings.failpoint:
            failpoints.arm(settings.failpoint)
        self.settings = settings
        self._online: dict[str, Online] = {}

    @classmethod
    def from_settings(cls, settings: Settings | None = None) -> Platform:
        """The platform of these settings; by default those of the environment. Raises as `load_settings`."""
        if settings is not None:
            return cls(settings)
        return cls(load_settings())

    @property
    def actor(self) -> str:
        """Who acts, for the audit log."""
        if self.settings.actor:
            return self.settings.actor
        try:
            return getpass.getuser()
        except (KeyError, OSError):  # a container's user id without a name
            return f"uid-{os.getuid()}"

    @cached_property
    def products(self) -> Products:
        """The workspace's products."""
        return Products(self.settings.home / "services")

    @cached_property
    def ledger(self) -> Ledger:
        """The ledger."""
        return Ledger(self.settings.database_url)

    @cached_property
    def objects(self) -> Objects | None:
        """The bucket of the setting `object_store`; None where everything is in the state folder.

        Raises:
            InvalidInput: The bucket's or the server's address is none.
        """
        settings = self.settings
        if not settings.object_store:
            return None
        from plinth.ledger.obstore import Objects

        return Objects(settings.object_store, settings.object_endpoint, settings.object_key, settings.object_secret)

    @cached_property
    def artifacts(self) -> Artifacts:
        """The artefact store: the bucket where there is one, else a folder. Raises as `objects`."""
        state = self.settings.state_dir
        if self.objects is None:
            return ArtifactStore(state / "artifacts" / "sha256")
        from plinth.ledger.object_artifacts import ObjectArtifacts

        return ObjectArtifacts(self.objects, state / "cache" / "artifacts")

    @cached_property
    def rollouts(self) -> Rollouts:
        """The rollouts of the ledger."""
        return Rollouts(self.ledger)

    @cached_property
    def backend(self) -> Backend:
        """What routes are applied on: the profile's services, which pull them from the ledger."""
        from plinth.serving.http import HttpBackend

        return HttpBackend(self.service_urls, headers=self.service_headers)

    def service_urls(self, product: str) -> list[str]:
        """Base addresses of a product's service: one copy in each profile. Raises as `Products.get`."""
        if elsewhere := self.settings.service_urls.get(product):
            return [elsewhere.rstrip("/")]
        port = self.settings.service_ports.get(product) or self.products.get(product).spec.serving.port
        return [f"http://{self.settings.host}:{port}"]

    @cached_property
    def _credentials(self) -> Credentials:
        from plinth.serving.tokens import Credentials

        return Credentials(self.settings.token_key.get_secret_value(), self.actor)

    def service_headers(self, product: str) -> dict[str, str]:
        """What a request to a product's service has to carry: a token of whoever acts, where services ask for one.

        Raises:
            InvalidInput: The key of the tokens is too short, or the actor's name does not do.
        """
        return self._credentials.headers(product)

    @cached_property
    def signals(self) -> SignalSource:
        """Where a rollout's evidence is read from, by the setting `signals`."""
        if self.settings.signals == "prometheus":
            from plinth.telemetry.promql import PrometheusSignals

            return PrometheusSignals(self.settings.prometheus_url)
        from plinth.telemetry.duckdb import RequestLog

        return RequestLog(self.settings.product_dir)

    @cached_property
    def assistants(self) -> AssistantPorts:
        """What assistants are made of."""
        from plinth.wiring.assistants import AssistantPorts

        return AssistantPorts(self.settings)

    @cached_property
    def registry(self) -> Registry:
        """The model registry."""
        from plinth.models.mlflow import MlflowRegistry

        return MlflowRegistry(mlflow_connection(self.settings), mlflow_files(self.settings))

    @cached_property
    def evaluations(self) -> MlflowEvaluations:
        """Where evaluations of assistants are kept."""
        from plinth.models.mlflow_evaluation import MlflowEvaluations

        return MlflowEvaluations(mlflow_connection(self.settings), mlflow_files(self.settings))

    def aliases_for(self, product: str) -> Aliases:
        """Where the ledger's decisions about a product are carried over to; each store is built when it is needed."""
        from plinth.rollouts.targets import Targets

        return Targets(lambda: self.registry, lambda: self.assistants.store(product), lambda: self.assistants.prompts)

    def features(self, product: str) -> FeastFeatures:
        """The feature store of a product.

        Raises:
            NotFound: The product declares no features.
            RefusedByPolicy: It is an assistant.
            InvalidInput: A setting does not fit.
            MissingExtra: Feast is not installed.
        """
        from plinth.wiring.features import make_features

        return make_features(self.settings, self.products.get(product))

    def online(self, product: str) -> Online:
        """The online store of a product, to be read; its connections live as long as the platform.

        Raises:
            InvalidInput: The setting of its address does not fit.
            MissingExtra: Its client is not installed.
        """
        from plinth.wiring.features import make_online

        if product not in self._online:
            self._online[product] = make_online(self.settings, product)
        return self._online[product]

    def open_reader(self, product: str, plan: Mapping[str, Any]) -> Reader:
        """A reader of a compiled plan for a service: it waits neither for a lock nor for a server.

        Raises:
            Corrupt: The plan cannot be used.
        """
        from plinth.features.readplan import ReadPlan

        return self.online(product).open(ReadPlan.from_dict(plan), patient=False)

    def runner(self, product: str, *, inline: bool = False) -> Runner:
        """What runs a product's pipelines: flows of the standing Prefect server, or steps in this process."""
        state = self.settings.product_dir(product)
        cache = self.settings.state_dir / "cache" / "steps"
        if inline:
            from plinth.pipelines.inline import InlineRunner

            return InlineRunner(product=product, state=state, cache=cache, ports=self)
        from plinth.pipelines.prefect import PrefectRunner

        return PrefectRunner(
            product=product,
            state=state,
            cache=cache,
            ports=self,
            api_url=self.settings.prefect_api_url,
            home=self.settings.state_dir / "prefect",
            auth=self.settings.prefect_auth,
        )
