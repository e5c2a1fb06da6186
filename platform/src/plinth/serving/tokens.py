"""Tokens of the own services: JSON Web Tokens (RFC 7519) signed with HMAC-SHA256, made and checked by PyJWT.

A token says who calls (`sub`), which product's service it is for (`aud`) and until when it counts (`exp`). There is
one kind: `{"alg": "HS256", "typ": "JWT"}`. Any other algorithm, `none` among them, is refused before a key is touched,
and so is a header that names a key (`kid`, `jku`, `x5u`, ...): nothing in a token says how it is checked (RFC 8725).
"""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass
from typing import Any

from plinth.errors import InvalidInput, MissingExtra, PlinthError

ALGORITHM = "HS256"
KEY_BYTES = 32
"""The least a key has to have: as much as the digest (RFC 7518, 3.2)."""
LEEWAY = 30
"""Seconds that the clocks of who issues and who checks may differ by."""
LONGEST = 24 * 3600
"""Seconds that a token may count for; one that says more is refused."""
SHORT = 300
"""Seconds of the tokens that the platform's own programs make for themselves."""
MAX_TOKEN = 2048
"""Characters of a token that are looked at; ours have about 200."""
MAX_SUBJECT = 200

REASONS = {
    "malformed": "it is no token of this platform",
    "bad-algorithm": f"it is not signed with {ALGORITHM}",
    "bad-signature": "it was not signed with this platform's key, or changed since",
    "expired": "it has expired",
    "not-yet-valid": "it counts from later on only: the clocks of two machines differ",
    "wrong-audience": "it is for another product",
    "too-long": f"it counts for longer than {LONGEST // 3600} hours",
}
"""Why a token is refused, and what that means."""

_SHAPE = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*", re.ASCII)
# 32 bytes as Base64 have two bits to spare: only one of four last characters is the one that was made.
_SIGNED = re.compile(r".*\.[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]", re.ASCII)


class TokenRefused(PlinthError):
    """A token does not open the door. `reason` is one of `REASONS`; nothing of the token is repeated."""

    exit_code = 3
    http_status = 401

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"the token is refused: {REASONS[reason]}", where="token", hint="`plinth token issue PRODUCT` makes one"
        )
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says.

    Attributes:
        subject: Who calls.
        since: From when it counts, seconds since 1970; 0 where it does not say.
        until: When it expires, seconds since 1970.
    """

    subject: str
    since: float
    until: float


class Tokens:
    """Makes tokens and checks them. Thread-safe.

    Args:
        key: What they are signed with, at least 32 bytes. Two keys with a comma between them are the new one, which
            signs, and the one before it, which still counts: so a key is changed without refusing anybody.

    Raises:
        InvalidInput: A key is too short, or there are more than two.
        MissingExtra: PyJWT is not installed.
    """

    def __init__(self, key: str) -> None:
        keys = [part.strip().encode() for part in key.split(",")]
        if len(keys) > 2 or min(map(len, keys)) < KEY_BYTES:
            raise InvalidInput(
                f"the key of the tokens has to be one of at least {KEY_BYTES} bytes, or two with a comma between",
                where="PLINTH_TOKEN_KEY",
                hint='python -c "import secrets; print(secrets.token_urlsafe(48))" makes one',
            )
        self._keys = keys
        self._jwt = _import_jwt()

    def issue(self, actor: str, product: str, seconds: int = SHORT) -> str:
        """A token for a product's service.

        Args:
            actor: Who is to call with it.
            product: The product's name.
            seconds: How long it counts.

        Raises:
            InvalidInput: The name is empty, too long or holds what is no character; or it would count for too long.
        """
        if not _is_subject(actor):
            raise InvalidInput(
                f"a caller's name has 1 to {MAX_SUBJECT} printable characters", where="actor", hint="set PLINTH_ACTOR"
            )
        if not 0 < seconds <= LONGEST:
            raise InvalidInput(
                f"a token counts for at most {LONGEST // 3600} hours", where="--for", hint="make a new one in time"
            )
        now = int(time.time())
        claims = {"sub": actor, "aud": product, "iat": now, "exp": now + seconds}
        made: str = self._jwt.encode(claims, self._keys[0], algorithm=ALGORITHM)
        return made

    def check(self, token: str, product: str) -> Claims:
        """What a token says that opens the product's service now, by this machine's clock.

        Raises:
            TokenRefused: It does not.
        """
        if len(token) > MAX_TOKEN or not _SHAPE.fullmatch(token):
            raise TokenRefused("malformed")
        try:
            header = self._jwt.get_unverified_header(token)
            if header.get("alg") != ALGORITHM:
                raise TokenRefused("bad-algorithm")
            if header.keys() - {"alg", "typ"} or not _SIGNED.fullmatch(token):
                raise TokenRefused("malformed")
            return _claims(self._decoded(token, product))
        except TokenRefused:
            raise
        except Exception as error:  # noqa: BLE001  (whatever a parser meets in what a stranger sent: nobody gets in)
            raise TokenRefused(_reason(error)) from None

    def _decoded(self, token: str, product: str) -> dict[str, Any]:
        options = {"require": ["exp", "sub", "aud"], "strict_aud": True}
        for key in self._keys[:-1]:
            try:
                return self._decode(token, key, product, options)
            except self._jwt.InvalidSignatureError:
                continue
        return self._decode(token, self._keys[-1], product, options)

    def _decode(self, token: str, key: bytes, product: str, options: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = self._jwt.decode(
            token, key, algorithms=[ALGORITHM], audience=product, leeway=LEEWAY, options=options
        )
        return found


class Credentials:
    """What a program of the platform shows to the products' services: short tokens, made when needed. Thread-safe.

    Args:
        key: As for `Tokens`; empty where the services ask for no token.
        actor: Who calls.
    """

    def __init__(self, key: str, actor: str) -> None:
        self._key = key
        self._actor = actor
        self._tokens: Tokens | None = None
        self._held: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()

    def headers(self, product: str) -> dict[str, str]:
        """The headers of a request to a product's service; none where it asks for no token.

        Raises:
            InvalidInput: The key or the actor does not do for a token.
        """
        if not self._key:
            return {}
        with self._lock:
            if self._tokens is None:
                self._tokens = Tokens(self._key)
            token, made = self._held.get(product, ("", 0.0))
            # The wall clock, since that is what the service goes by; a new one also where it was set back.
            if not made <= time.time() < made + SHORT / 2:
                made = time.time()
                token = self._tokens.issue(self._actor, product)
                self._held[product] = token, made
        return {"Authorization": f"Bearer {token}"}


def _claims(found: dict[str, Any]) -> Claims:
    """What a token says whose signature, times and audience are right.

    Raises:
        TokenRefused: It names nobody, or counts for too long.
    """
    subject = found["sub"]
    if not isinstance(subject, str) or not _is_subject(subject):
        raise TokenRefused("malformed")
    since = max(float(found.get("iat", 0)), float(found.get("nbf", 0)))
    until = float(found["exp"])
    if until - min(time.time() + LEEWAY, float(found.get("iat", until))) > LONGEST:
        raise TokenRefused("too-long")
    return Claims(subject, since, until)


def _is_subject(name: str) -> bool:
    return 0 < len(name) <= MAX_SUBJECT and name.isprintable()


def _reason(error: Exception) -> str:
    """The word for what PyJWT found; its subclasses come before their parents."""
    jwt = _import_jwt()
    for kind, reason in (
        (jwt.ExpiredSignatureError, "expired"),
        (jwt.ImmatureSignatureError, "not-yet-valid"),
        (jwt.InvalidAudienceError, "wrong-audience"),
        (jwt.InvalidAlgorithmError, "bad-algorithm"),
        (jwt.InvalidSignatureError, "bad-signature"),
    ):
        if isinstance(error, kind):
            return reason
    return "malformed"


def _import_jwt() -> Any:
    try:
        import jwt
    except ModuleNotFoundError:
        raise MissingExtra("pyjwt", "servers") from None
    return jwt
