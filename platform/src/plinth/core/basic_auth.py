"""A user and a password as a request's header."""

from __future__ import annotations

import base64

from pydantic import SecretStr


def authorization(user: str, password: SecretStr) -> dict[str, str]:
    """The header that shows a user's password; none where there is no user."""
    return credentials(SecretStr(f"{user}:{password.get_secret_value()}" if user else ""))


def credentials(pair: SecretStr) -> dict[str, str]:
    """As `authorization`, of `user:password`; none of an empty one."""
    value = pair.get_secret_value()
    return {"Authorization": "Basic " + base64.b64encode(value.encode()).decode()} if value else {}
