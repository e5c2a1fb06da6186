"""The feature stores of a profile, by its settings: where features are read, and what fills that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from plinth.errors import MissingExtra, NotFound
from plinth.settings import Settings

if TYPE_CHECKING:
    from plinth.features.feast import FeastFeatures
    from plinth.features.online import Online
    from plinth.wiring.platform import LoadedProduct


def project_of(product: str) -> str:
    """Feast's project of a product."""
    return product.replace("-", "_")


def make_online(settings: Settings, product: str) -> Online:
    """The online store of a product, to be read.

    Raises:
        InvalidInput: The setting does not fit.
        MissingExtra: Its client is not installed.
    """
    from plinth.features.online import online_store

    try:
        return online_store(
            settings.product_dir(product), project_of(product), settings.online_store.get_secret_value()
        )
    except ModuleNotFoundError as error:
        raise MissingExtra(error.name or "redis", "servers") from error


def make_features(settings: Settings, loaded: LoadedProduct) -> FeastFeatures:
    """The feature store of a product.

    Raises:
        NotFound: The product declares no features.
        RefusedByPolicy: It is an assistant.
        InvalidInput: A setting does not fit.
        MissingExtra: Feast is not installed.
    """
    try:
        from plinth.features.feast import FeastFeatures
    except ModuleNotFoundError as error:
        raise MissingExtra(error.name or "feast", "features") from error
    from plinth.features.feast_registry import SqlRegistry
    from plinth.pipelines.entry import load_entry

    model, _ = loaded.spec.tabular()
    if model.feature_definitions is None:
        raise NotFound(
            f"{loaded.spec.name} declares no features",
            where=str(loaded.folder / "product.yaml"),
            hint="add `feature_definitions: package.module:function` under `model`",
        )
    project = project_of(loaded.spec.name)
    writer = None
    if online := settings.online_store.get_secret_value():
        from plinth.features.feast_redis import RedisWriter

        writer = RedisWriter(online, project)
    registry = settings.feature_registry.get_secret_value()
    return FeastFeatures(
        settings.product_dir(loaded.spec.name),
        project,
        model.feature_service,
        cast(Callable[[Path], Sequence[Any]], load_entry(model.feature_definitions)),
        writer,
        SqlRegistry(registry) if registry else None,
    )
