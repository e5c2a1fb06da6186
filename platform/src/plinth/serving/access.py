"""Who may call a product's service: asked before anything else of a request is looked at.

Where the platform has a key (PLINTH_TOKEN_KEY) every path wants `Authorization: Bearer TOKEN`, also those that do not
exist: a stranger learns nothing but that there is a service. `GET /healthz` is open, and `/metrics` also takes the
scrapers' token. Without a key nobody is asked, and so only this machine itself is answered.
"""

from __future__ import annotations

import hmac
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from plinth.errors import InvalidInput, PlinthError
from plinth.serving.refusals import Refusals
from plinth.serving.tokens import LEEWAY, TokenRefused, Tokens

if TYPE_CHECKING:
    from plinth.ledger.store import Ledger
    from plinth.serving.port import Observer
    from plinth.settings import Settings

KNOWN = 1024
"""Tokens that are remembered as checked."""
SCRAPE_BYTES = 16
READING = frozenset({"GET", "HEAD"})


class Unauthorized(PlinthError):
    """Who calls did not show a token that counts. Why not stands in the log and the audit log, not in the answer."""

    exit_code = 3
    http_status = 401

    def __init__(self, reason: str) -> None:
        super().__init__(
            "a token is needed" if reason == "no-token" else "the token does not count",
            where="Authorization",
            hint="`plinth token issue` makes one, `plinth token check` says what is wrong with one",
        )
        self.reason = reason
        # RFC 6750, 3.1: no error code for a request that shows nothing.
        self.challenge = b"Bearer" if reason == "no-token" else b'Bearer error="invalid_token"'


class Access:
    """Asks callers for their token. A token that was checked is remembered until it expires: a look into a dictionary.

    Args:
        product: Whom tokens have to be for.
        tokens: Checks them.
        refusals: Told of tokens that do not count.
        scrape_token: Opens /metrics beside tokens; empty is none.

    Raises:
        InvalidInput: The scrape token is too short.
    """

    def __init__(self, product: str, tokens: Tokens, refusals: Refusals, scrape_token: str = "") -> None:
        if scrape_token and len(scrape_token) < SCRAPE_BYTES:
            raise InvalidInput(
                f"the scrape token has fewer than {SCRAPE_BYTES} characters", where="PLINTH_SCRAPE_TOKEN",
                hint='python -c "import secrets; print(secrets.token_urlsafe(32))" makes one',
            )  # fmt: skip
        self._product = product
        self._tokens = tokens
        self._scrape = scrape_token.encode()
        self._known: OrderedDict[bytes, tuple[str, float, float]] = OrderedDict()
        self.refusals = refusals

    def caller(self, method: str, path: str, headers: Mapping[bytes, bytes]) -> str:
        """Who calls, by the token; "" where none is asked for. Called in the event loop only.

        Raises:
            Unauthorized: No token that counts.
        """
        given = headers.get(b"authorization", b"")
        now = time.time()
        known = self._known.get(given)
        if known is not None:
            if known[1] <= now < known[2]:
                self._known.move_to_end(given)
                return known[0]
            del self._known[given]
        if path == "/healthz" and method in READING:
            return ""
        if not given:
            raise Unauthorized("no-token")
        scheme, _, shown = given.partition(b" ")
        if scheme.lower() != b"bearer":
            raise self._refused("malformed")
        if self._scrape and path == "/metrics" and method in READING and hmac.compare_digest(shown, self._scrape):
            return ""
        try:
            claims = self._tokens.check(shown.decode("latin-1"), self._product)
        except TokenRefused as error:
            raise self._refused(error.reason) from None
        self._known[given] = claims.subject, claims.since - LEEWAY, claims.until + LEEWAY
        if len(self._known) > KNOWN:
            self._known.popitem(last=False)
        return claims.subject

    def _refused(self, reason: str) -> Unauthorized:
        self.refusals.add(reason)
        return Unauthorized(reason)


def open_access(settings: Settings, product: str, ledger: Ledger, observer: Observer) -> Access | None:
    """What asks the callers of a product's service; None where the profile has no key.

    Args:
        settings: Of the profile.
        product: The product's name.
        ledger: Whose audit log gets refused tokens.
        observer: Told when that cannot be written.

    Raises:
        InvalidInput: The key or the scrape token is too short.
    """
    key = settings.token_key.get_secret_value()
    if not key:
        return None

    def write(payload: dict[str, Any]) -> None:
        ledger.append_audit(f"service:{product}", "access.refused", product, payload)

    refusals = Refusals(write, on_event=observer.event)
    return Access(product, Tokens(key), refusals, settings.scrape_token.get_secret_value())


def guarded(settings: Settings) -> bool:
    """Whether the profile's services ask for tokens.

    Raises:
        InvalidInput: They would, and the key is too short.
    """
    key = settings.token_key.get_secret_value()
    return bool(key and Tokens(key))


def host_names(settings: Settings) -> tuple[str, ...]:
    """What a service may be addressed by beside the loopback's names."""
    host = settings.host
    # "Everywhere" is no name: a browser that is led to 0.0.0.0 reaches this machine.
    own = () if host in ("", "0.0.0.0", "::") else (f"[{host}]" if ":" in host else host,)  # noqa: S104
    return (*own, *settings.allowed_hosts)
