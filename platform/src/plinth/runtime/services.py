"""Which processes the embedded profile runs: the servers, the worker of the pipelines, one service a product."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from plinth.core.products import Product
from plinth.runtime import mlflow, prefect
from plinth.runtime.port import Service
from plinth.settings import Settings
from plinth.wiring import Platform


def embedded_services(platform: Platform) -> list[Service]:
    """Every service of the embedded profile, in the order they are started and shown.

    Raises:
        InvalidInput: A product's manifest does not fit.
    """
    settings = platform.settings
    return [
        prefect.server(settings),
        mlflow.service(settings),
        *(product_service(settings, product.spec) for product in platform.products.all()),
        prefect.worker(settings),
        controller(settings),
    ]


def product_service(settings: Settings, product: Product) -> Service:
    """How a product's service is started: its module, with address and port."""
    port = settings.service_port(product.name, product.serving.port)
    module = product.serving.service.partition(":")[0]
    url = f"http://{settings.host}:{port}"
    return Service(
        name=product.name,
        argv=(sys.executable, "-P", "-m", module, "--host", settings.host, "--port", str(port)),
        url=url,
        health=f"{url}/healthz",
        port=port,
        setting=f"PLINTH_SERVICE_PORTS (as JSON: {json.dumps({product.name: port})})",
        env={"DO_NOT_TRACK": "1", "BENTOML_DO_NOT_TRACK": "True"},
    )


CONTROLLER_READY = "controller.ready"


def controller(settings: Settings) -> Service:
    """How the controller of the rollouts is started (runtime/controller.py). Its port has metrics; its page is its log.

    It is well once its file is there: without its port it moves rollouts all the same.
    """
    return Service(
        name="controller",
        argv=(sys.executable, "-P", "-m", "plinth.runtime.controller"),
        url=(settings.state_dir / "logs" / "controller.log").as_uri(),
        health=CONTROLLER_READY,
        port=settings.controller_port,
        setting="PLINTH_CONTROLLER_PORT",
        env={"DO_NOT_TRACK": "1"},
    )


def environment(settings: Settings) -> dict[str, str]:
    """The settings as `PLINTH_*` variables, so that every process of the profile reads the same ones.

    Secrets are left out: what starts a process may write these down, and processes inherit them anyway.
    """
    values: dict[str, Any] = {name: getattr(settings, name) for name in type(settings).model_fields}
    values = {name: value for name, value in values.items() if not isinstance(value, SecretStr)}
    values["state"] = settings.state_dir
    return {f"PLINTH_{name.upper()}": _text(value) for name, value in values.items() if value is not None}


def _text(value: Any) -> str:
    if isinstance(value, (dict, list, tuple, bool)):
        return json.dumps(value)
    return str(value) if isinstance(value, Path) else f"{value}"
