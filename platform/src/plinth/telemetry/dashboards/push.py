"""Hands the rendered boards to a Grafana that exists, through `grafana-client`. Doing it twice changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from plinth.errors import InvalidInput, MissingExtra, NotFound, PlinthError, RefusedByPolicy, Unavailable
from plinth.telemetry.dashboards import grafana, provisioning
from plinth.telemetry.dashboards.model import Board

TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Credential:
    """How to sign in: a service account's token, or a user with a password."""

    token: str = ""
    user: str = "admin"
    password: str = ""

    def __repr__(self) -> str:
        return "Credential(...)"  # never in a log or a traceback


@dataclass(frozen=True, slots=True)
class Pushed:
    """What became of one thing: `created`, `updated` or `unchanged`."""

    kind: str
    uid: str
    title: str
    result: str


def push(
    url: str,
    credential: Credential,
    boards: Sequence[Board],
    *,
    addresses: dict[str, str] | None = None,
    on_pushed: Callable[[Pushed], None] = lambda pushed: None,
) -> list[Pushed]:
    """Put the folder and the boards into a Grafana, each under its uid; and the data sources when `addresses` is given.

    Args:
        url: Its address; a path is kept as a prefix.
        credential: Who pushes.
        boards: What to push.
        addresses: Where Grafana finds `prometheus`, `loki` and `tempo`; None leaves its data sources alone.
        on_pushed: Told of each as it is done.

    Raises:
        InvalidInput: Grafana does not take what it is given.
        MissingExtra: The client is not installed.
        RefusedByPolicy: The credential is wrong, or may not do this.
        Unavailable: No Grafana answers there.
    """
    with _translated(url):
        api = _client(url, credential)
        done: list[Pushed] = []

        def keep(pushed: Pushed) -> None:
            done.append(pushed)
            on_pushed(pushed)

        for source in [] if addresses is None else provisioning.data_sources(addresses):
            keep(_data_source(api, source))
        keep(_folder(api))
        for board in boards:
            keep(_board(api, board))
        return done


def _client(url: str, credential: Credential) -> Any:
    try:
        from grafana_client.api import GrafanaApi
    except ModuleNotFoundError:
        raise MissingExtra("grafana-client", "dashboards") from None
    signed = credential.token or (credential.user, credential.password)
    return GrafanaApi.from_url(url.rstrip("/"), credential=signed, timeout=TIMEOUT)


def _folder(api: Any) -> Pushed:
    def shown(result: str) -> Pushed:
        return Pushed("folder", provisioning.FOLDER, "Plinth", result)

    if _found(lambda: api.folder.get_folder(provisioning.FOLDER)) is not None:
        return shown("unchanged")
    api.folder.create_folder("Plinth", uid=provisioning.FOLDER)
    return shown("created")


def _board(api: Any, board: Board) -> Pushed:
    wanted = json.loads(grafana.to_json(board))
    there = _found(lambda: api.dashboard.get_dashboard(board.uid))
    if there is not None and _same(there, wanted):
        return Pushed("dashboard", board.uid, board.title, "unchanged")
    # The uid decides which dashboard this is; `overwrite` is for one that somebody else changed meanwhile.
    api.dashboard.update_dashboard(
        {"dashboard": {**wanted, "id": None}, "folderUid": provisioning.FOLDER, "overwrite": True,
         "message": "plinth dashboard push"}
    )  # fmt: skip
    return Pushed("dashboard", board.uid, board.title, "created" if there is None else "updated")


def _same(there: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether Grafana has this board in this folder; `id` and `version` are its own count."""
    own = {"id", "version"}
    kept = {name: value for name, value in there.get("dashboard", {}).items() if name not in own}
    asked = {name: value for name, value in wanted.items() if name not in own}
    return kept == asked and there.get("meta", {}).get("folderUid") == provisioning.FOLDER


def _data_source(api: Any, source: dict[str, Any]) -> Pushed:
    there = _found(lambda: api.datasource.get_datasource_by_uid(source["uid"]))
    if there is None:
        api.datasource.create_datasource(source)
        return Pushed("data source", source["uid"], source["name"], "created")
    if all(there.get(name) == value for name, value in source.items() if name != "editable"):
        return Pushed("data source", source["uid"], source["name"], "unchanged")
    api.datasource.update_datasource_by_uid(source["uid"], source)
    return Pushed("data source", source["uid"], source["name"], "updated")


def _found(ask: Callable[[], Any]) -> Any | None:
    """The answer, or None where Grafana knows no such thing."""
    from grafana_client.client import GrafanaClientError

    try:
        return ask()
    except GrafanaClientError as error:
        if error.status_code == 404:
            return None
        raise


@contextmanager
def _translated(url: str) -> Iterator[None]:
    """The client's errors as ours."""
    try:
        import niquests.exceptions as network
        from grafana_client.client import GrafanaException
    except ModuleNotFoundError:
        raise MissingExtra("grafana-client", "dashboards") from None
    try:
        yield
    except PlinthError:
        raise
    except GrafanaException as error:
        raise _error(error, url) from None
    except (network.RequestException, OSError) as error:
        raise Unavailable(
            f"no Grafana answers: {type(error).__name__}", where=url, hint="check the address, PLINTH_GRAFANA_URL"
        ) from None


def _error(error: Any, url: str) -> PlinthError:
    said = str(getattr(error, "message", "") or error)[:300]
    if error.status_code in (401, 403):
        return RefusedByPolicy(
            f"Grafana refuses: {said}", where=url,
            hint="set GRAFANA_ADMIN_PASSWORD, or GRAFANA_TOKEN of a service account that may write dashboards",
        )  # fmt: skip
    if error.status_code == 404:
        return NotFound(f"Grafana does not know this address: {said}", where=url, hint="is a path prefix missing?")
    if isinstance(error.status_code, int) and 400 <= error.status_code < 500:
        return InvalidInput(
            f"Grafana does not take it: {said}",
            where=url,
            hint="its version may be older than the dashboards' schema, 11.6",
        )
    return Unavailable(f"Grafana fails: {said}", where=url, hint="see its log, then push again")
