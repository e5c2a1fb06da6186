"""`plinth token`: what opens the products' services where they ask who calls."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from plinth.cli.command import Groups

if TYPE_CHECKING:
    from plinth.cli.output import Output
    from plinth.serving.tokens import Tokens
    from plinth.wiring import Platform


def register(groups: Groups) -> None:
    """Declare the commands."""
    group = groups.group("token", help="Tokens that open the products' services: issue one, check one.")
    command = group.command(
        "issue",
        issue,
        help="Print a token for a product's service; the audit log keeps for whom, never the token.",
        example="plinth token issue flight-delays --for 1h",
    )
    command.add_argument("product")
    command.add_argument("--for", dest="time", metavar="TIME", default="1h", help="how long it counts, at most 24h")
    command.add_argument("--actor", metavar="NAME", help="who is to call with it; default whoever runs this")
    command = group.command(
        "check",
        check,
        help="Read a token from standard input and say whether it opens a product's service now, and why not.",
        example="plinth token check flight-delays",
    )
    command.add_argument("product")


def issue(args: Namespace, out: Output) -> None:
    """Handler: a token on standard output."""
    from plinth.core.durations import SECONDS, seconds
    from plinth.errors import InvalidInput
    from plinth.wiring import Platform

    platform = Platform.from_settings()
    product, actor = platform.products.named(args.product), args.actor or platform.actor
    if not args.time[:-1].isdecimal() or args.time[-1:] not in SECONDS or len(args.time) > 9:
        raise InvalidInput(f"{args.time!r} is no time", where="--for", hint="for instance 30m or 1h")
    token = _tokens(platform).issue(actor, product, seconds(args.time))
    # First the audit log: a token that nobody knows of is not given out.
    platform.ledger.append_audit(
        platform.actor, "token.issued", product, {"subject": actor, "seconds": seconds(args.time)}
    )
    out.data({"product": product, "subject": actor, "seconds": seconds(args.time), "token": token})
    out.text(token)
    out.note(f"opens {product} for {args.time}: send `Authorization: Bearer TOKEN`")


def check(args: Namespace, out: Output) -> int:
    """Handler: 0 it opens the service, 3 it does not."""
    import sys
    from datetime import UTC, datetime

    from plinth.serving.tokens import MAX_TOKEN, REASONS, TokenRefused
    from plinth.wiring import Platform

    platform = Platform.from_settings()
    product, tokens = platform.products.named(args.product), _tokens(platform)
    try:
        claims = tokens.check(sys.stdin.read(MAX_TOKEN + 100).strip(), product)
    except TokenRefused as error:
        out.data({"product": product, "valid": False, "reason": error.reason})
        out.text(f"refused, {error.reason}: {REASONS[error.reason]}")
        return error.exit_code
    until = datetime.fromtimestamp(claims.until, UTC).isoformat()
    out.data({"product": product, "valid": True, "subject": claims.subject, "until": until})
    out.text(f"valid: {claims.subject} may call {product} until {until}")
    return 0


def _tokens(platform: Platform) -> Tokens:
    """What the profile's tokens are made with.

    Raises:
        InvalidInput: There is no key, or it is too short.
    """
    from plinth.errors import InvalidInput
    from plinth.serving.tokens import Tokens

    key = platform.settings.token_key.get_secret_value()
    if not key:
        raise InvalidInput(
            "this profile has no key for tokens: its services ask for none",
            where="PLINTH_TOKEN_KEY",
            hint="`plinth init compose` writes one; then `plinth --profile compose token ...`",
        )
    return Tokens(key)
