"""A product's definitions in Feast: applied, opened, and compiled to a read plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import feast
import yaml
from feast.errors import FeastObjectNotFoundException
from feast.infra.online_stores.helpers import compute_table_id

from plinth.errors import InvalidInput, NotFound
from plinth.features.feast_registry import Registry
from plinth.features.writer import Writer

ENTITY_KEY_VERSION = 3
DTYPES = {"Float32": "float32", "Float64": "float64", "Int64": "int64"}


class Repository:
    """Feast's repository of one product.

    Args:
        folder: Feast's folder in the product's state.
        project: Feast's project name, an identifier.
        service: Name of the feature service that training and serving read.
        definitions: Builds the Feast objects over the folder of feature tables.
        writer: The online store.
        registry: Feast's registry.
    """

    def __init__(
        self,
        folder: Path,
        project: str,
        service: str,
        definitions: Callable[[Path], Sequence[Any]],
        writer: Writer,
        registry: Registry,
    ) -> None:
        self.folder = folder
        self.project = project
        self.service = service
        self.definitions = definitions
        self.writer = writer
        self.registry = registry
        self._store: feast.FeatureStore | None = None

    def apply(self, tables: Path) -> None:
        """Registers the definitions over a folder of feature tables. Called under the registry's lock."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.writer.prepare()
        self._store = None
        config = self._config()
        if not self.registry.secret and not self.writer.secret:  # for people; Feast is given its own
            (self.folder / "feature_store.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        store = self._made(config)
        store.apply(list(self.definitions(tables)))
        self._store = store

    def opened(self) -> feast.FeatureStore:
        """Feast's store.

        Raises:
            NotFound: Nothing was applied.
        """
        if self._store is None:
            if not self.registry.ready():
                raise self._not_applied()
            self._store = self._made(self._config())
        self.writer.opened(self._store)
        return self._store

    def views(self) -> list[Any]:
        """Feast's views of the feature service.

        Raises:
            NotFound: Nothing was applied.
        """
        store = self.opened()
        try:
            service = store.get_feature_service(self.service)
        except FeastObjectNotFoundException as error:
            raise self._not_applied() from error
        return [store.get_feature_view(projection.name) for projection in service.feature_view_projections]

    def points_at(self, tables: Path) -> bool:
        """Whether the views read these tables; else somebody elsewhere applied them."""
        return all(Path(view.batch_source.path).parent == tables for view in self.views())

    def compile_plan(self) -> dict[str, Any]:
        """The feature service as a read plan (see readplan.py).

        Raises:
            NotFound: Nothing was applied.
            InvalidInput: A view has no TTL, or a feature a type that the read plan cannot read.
        """
        return {
            "schema": 1,
            "feature_service": self.service,
            "project": self.project,
            "entity_key_version": ENTITY_KEY_VERSION,
            "store": {"type": "sqlite"},  # whatever it is read from: see ReadPlan.from_dict
            "views": [self._plan_view(view) for view in self.views()],
        }

    def _plan_view(self, view: Any) -> dict[str, Any]:
        features = []
        for field in view.features:
            if str(field.dtype) not in DTYPES:
                raise InvalidInput(
                    f"feature {field.name} is {field.dtype}", where=view.name, hint=f"one of {', '.join(DTYPES)}"
                )
            default = float(field.tags.get("default", 0.0))
            features.append({"name": field.name, "dtype": DTYPES[str(field.dtype)], "default": default})
        if not view.ttl:
            raise InvalidInput("a feature view has no TTL", where=view.name, hint="set ttl=timedelta(...)")
        return {
            "name": view.name,
            "table": compute_table_id(self.project, view),
            "join_keys": sorted(view.join_keys),
            "ttl_seconds": int(view.ttl.total_seconds()),
            "features": features,
        }

    def _made(self, config: dict[str, Any]) -> feast.FeatureStore:
        try:
            store = feast.FeatureStore(config=feast.RepoConfig(repo_path=self.folder, **config))
        except ValueError:  # pydantic's, whose text holds what it was given, secrets too
            raise InvalidInput(
                "Feast does not take the addresses of its stores", where=f"{self.writer.online.where}, "
                f"{self.registry.where}", hint="check PLINTH_ONLINE_STORE and PLINTH_FEATURE_REGISTRY",
            ) from None  # fmt: skip
        with self.registry.opening():
            store.registry  # noqa: B018  (Feast opens it when it is first asked for)
        return store

    def _config(self) -> dict[str, Any]:
        return {
            "project": self.project,
            "provider": "local",
            "registry": self.registry.config(),
            "offline_store": {"type": "duckdb"},
            "online_store": self.writer.config(),
            "entity_key_serialization_version": ENTITY_KEY_VERSION,
        }

    def _not_applied(self) -> NotFound:
        return NotFound("the features have not been applied", where=self.registry.where, hint="run the features step")
