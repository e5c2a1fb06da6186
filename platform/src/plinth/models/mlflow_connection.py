"""The way to MLflow for every adapter of it: a database and a folder, or a server with a user and a password.

MLflow's own client takes a password from the environment, where processes that it starts inherit it and every server it
talks to is shown it, or from the address, where errors repeat it. It also asks a plug-in for each request
(MLFLOW_TRACKING_AUTH); ours shows a password to the one server that it is for.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from plinth.core.basic_auth import authorization
from plinth.core.mlflow_environment import MLFLOW_ENVIRONMENT
from plinth.errors import Conflict, InvalidInput, MissingExtra, NotFound, RefusedByPolicy, Unavailable
from plinth.models.mlflow_http import DOWN, FORBIDDEN, REFUSED, look

_PLUGIN = "plinth"
_SHOWN: dict[str, dict[str, str]] = {}
"""What each server is shown, by its address's scheme, host and port."""


class MlflowConnection:
    """Where MLflow keeps what it is given.

    Args:
        store: SQLAlchemy URL of its database, made and migrated on first use; or its server's address.
        user: Of the server; empty is none.
        password: The user's.
    """

    def __init__(self, store: str, user: str = "", password: SecretStr | str = "") -> None:
        self.store = store
        self.remote = store.startswith(("http://", "https://"))
        self._user = user
        self._password = password if isinstance(password, SecretStr) else SecretStr(password)

    @property
    def where(self) -> str:
        """The store as errors name it: without a password."""
        return re.sub(r"//[^/]*@", "//", self.store)

    @cached_property
    def client(self) -> Any:
        """MLflow's client.

        Raises:
            MissingExtra: MLflow is not installed.
            Unavailable: The database or the server cannot be used.
            RefusedByPolicy: The server does not take the user and the password.
        """
        self.prepare()
        from mlflow import MlflowClient

        with self.errors():
            return MlflowClient(self.store, self.store)

    def prepare(self) -> None:
        """Make MLflow ready to be used in this process; raises as `client`."""
        os.environ.update(MLFLOW_ENVIRONMENT)
        if self.remote:
            self._show()
        try:
            import mlflow  # noqa: F401
        except ModuleNotFoundError as error:  # not every ImportError: out of memory is one, too
            raise MissingExtra(error.name or "mlflow", "models") from error
        if self.remote:
            _install()
        elif self.store.startswith("sqlite:///"):
            with self.errors():
                Path(self.store.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)

    def _show(self) -> None:
        if "@" in urlsplit(self.store).netloc:
            raise InvalidInput(
                "the MLflow server's address holds a password, which errors and logs would repeat",
                where=self.where,
                hint="put it in PLINTH_MLFLOW_USERNAME and PLINTH_MLFLOW_PASSWORD",
            )
        headers = authorization(self._user, self._password)
        look(self.store, headers)
        _SHOWN[_origin(self.store)] = headers

    @contextmanager
    def errors(self, absent: str = "", hint: str = "see the message", codes: Collection[str] = ()) -> Iterator[None]:
        """MLflow's errors as ours.

        Args:
            absent: What is not there when MLflow says that something is not.
            hint: What to do about that.
            codes: Of MLflow's errors: others that say so.
        """
        from mlflow.exceptions import MlflowException

        try:
            yield
        except MlflowException as error:
            text = str(error).split("\n")[0][:300]
            status = _refusal(error)
            if error.error_code == "RESOURCE_DOES_NOT_EXIST" or (absent and error.error_code in codes):
                raise NotFound(absent or f"no such entry: {text}", where=self.where, hint=hint) from None
            if error.error_code == "RESOURCE_ALREADY_EXISTS":
                raise Conflict(text, where=self.where, hint="run it again") from None
            if error.error_code == "INVALID_PARAMETER_VALUE":
                raise InvalidInput(text, where=self.where, hint="see the message") from None
            if status in {401, 403}:
                raise self._refused(status) from None
            raise self._unavailable(f"MLflow: {text}") from error
        except OSError as error:
            answer: Any = getattr(error, "response", None)  # requests' errors are OSErrors
            if getattr(answer, "status_code", 0) in {401, 403}:
                raise self._refused(answer.status_code) from None
            if getattr(answer, "status_code", 0) == 404:
                raise NotFound(absent or "no such file", where=self.where, hint=hint) from None
            if self.remote and error.strerror is None:
                raise self._unavailable(f"MLflow: {type(error).__name__}") from error
            raise Unavailable(
                f"MLflow's folder cannot be used: {error.strerror}", where=str(error.filename or self.where),
                hint="free disk space, or check its permissions",
            ) from error  # fmt: skip

    def _unavailable(self, what: str) -> Unavailable:
        return Unavailable(
            what, where=self.where, hint=DOWN if self.remote else "check the state folder and `plinth doctor`"
        )

    def _refused(self, status: int) -> RefusedByPolicy:
        if status == 403:
            return RefusedByPolicy(
                f"the MLflow server does not let the user {self._user!r} do that", where=self.where,
                hint=FORBIDDEN,
            )  # fmt: skip
        return RefusedByPolicy("the MLflow server refuses the user or the password", where=self.where, hint=REFUSED)


def _refusal(error: Any) -> int:
    """The status of an answer that is no JSON, which MLflow only repeats; of one that is, MLflow's code says it."""
    if error.error_code in {"UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED"}:
        return 401
    if error.error_code == "PERMISSION_DENIED":
        return 403
    found = re.search(r"failed with error code (\d{3})", str(error))
    return int(found[1]) if found else 0


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


class _Shown:
    """Of requests: adds to a request what its server is shown, and nothing to another's."""

    def __call__(self, request: Any) -> Any:
        request.headers.update(_SHOWN.get(_origin(request.url), {}))
        return request


def _install() -> None:
    from mlflow.tracking.request_auth import registry
    from mlflow.tracking.request_auth.abstract_request_auth_provider import RequestAuthProvider

    class Provider(RequestAuthProvider):
        def get_name(self) -> str:
            return _PLUGIN

        def get_auth(self) -> _Shown:
            return _Shown()

    known: Any = registry._request_auth_provider_registry
    if not any(provider.get_name() == _PLUGIN for provider in known):
        known.register(Provider)
    os.environ["MLFLOW_TRACKING_AUTH"] = _PLUGIN
