"""Tokens: what opens a service, what does not and why, and that nothing that was changed ever does."""

import base64
import contextlib
import hashlib
import hmac
import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plinth.errors import InvalidInput
from plinth.serving import tokens as module
from plinth.serving.tokens import LEEWAY, LONGEST, MAX_TOKEN, REASONS, Credentials, TokenRefused, Tokens

KEY, OTHER = "k" * 40, "o" * 40
PRODUCT = "flight-delays"
TOKENS = Tokens(KEY)
WORD = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."


def segment(value):
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def signed(claims, header=None, key=KEY):
    """A token of these parts, signed by hand: also of what PyJWT would not make."""
    head = {"alg": "HS256", "typ": "JWT"} if header is None else header
    text = f"{segment(head)}.{segment(claims)}"
    return f"{text}.{segment(hmac.new(key.encode(), text.encode(), hashlib.sha256).digest())}"


def claims(**changes):
    now = int(time.time())
    made = {"sub": "ada", "aud": PRODUCT, "iat": now, "exp": now + 300, **changes}
    return {name: value for name, value in made.items() if value is not None}


def why(token, product=PRODUCT, tokens=TOKENS):
    with pytest.raises(TokenRefused) as caught:
        tokens.check(token, product)
    assert len(token) < 20 or token not in str(caught.value)
    return caught.value.reason


def test_what_is_issued_opens_the_product_it_is_for_and_says_who_calls():
    said = TOKENS.check(TOKENS.issue("ada", PRODUCT, 60), PRODUCT)
    assert said.subject == "ada"
    assert said.until - said.since == 60


def test_a_token_signed_by_hand_is_read_as_one_that_was_issued():
    assert TOKENS.check(signed(claims()), PRODUCT).subject == "ada"


def test_a_token_of_another_product_or_key_opens_nothing():
    assert why(TOKENS.issue("ada", PRODUCT), "docs-assistant") == "wrong-audience"
    assert why(Tokens(OTHER).issue("ada", PRODUCT)) == "bad-signature"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"exp": 1}, "expired"), ({"iat": 10**10}, "not-yet-valid"), ({"nbf": 10**10}, "not-yet-valid"),
        ({"aud": "docs-assistant"}, "wrong-audience"), ({"aud": [PRODUCT]}, "wrong-audience"),
        ({"aud": [PRODUCT, "docs-assistant"]}, "wrong-audience"), ({"aud": "Flight-Delays"}, "wrong-audience"),
        ({"exp": None}, "malformed"), ({"sub": None}, "malformed"), ({"aud": None}, "malformed"),
        ({"sub": ""}, "malformed"), ({"sub": 7}, "malformed"), ({"sub": "a" * 201}, "malformed"),
        ({"sub": "a\nb"}, "malformed"), ({"sub": "\x1b[2J"}, "malformed"), ({"exp": "soon"}, "malformed"),
        ({"exp": float("nan")}, "malformed"), ({"exp": float("inf")}, "malformed"), ({"exp": []}, "malformed"),
        ({"iat": "x"}, "malformed"), ({"nbf": {}}, "malformed"), ({"exp": 10**10}, "too-long"),
        ({"exp": 10**400}, "malformed"), ({"iat": 1}, "too-long"),
    ],
)  # fmt: skip
def test_claims_that_do_not_fit_are_refused_though_they_are_signed(changes, reason):
    assert why(signed(claims(**changes))) == reason


def test_iat_and_nbf_may_be_left_out_and_exp_may_be_a_day_away_at_most():
    now = int(time.time())
    assert TOKENS.check(signed(claims(iat=None)), PRODUCT)
    assert TOKENS.check(signed(claims(exp=now + LONGEST)), PRODUCT)
    assert why(signed(claims(iat=None, exp=now + LONGEST + 600))) == "too-long"


def test_clocks_may_differ_by_the_leeway_and_no_more():
    now = int(time.time())
    assert TOKENS.check(signed(claims(iat=None, exp=now - LEEWAY + 5)), PRODUCT)
    assert why(signed(claims(iat=None, exp=now - LEEWAY - 1))) == "expired"
    assert TOKENS.check(signed(claims(iat=now + LEEWAY - 1)), PRODUCT)
    assert why(signed(claims(iat=now + LEEWAY + 60))) == "not-yet-valid"


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"alg": "none", "typ": "JWT"}, "bad-algorithm"), ({"alg": "None"}, "bad-algorithm"),
        ({"alg": "hs256"}, "bad-algorithm"), ({"alg": "HS512"}, "bad-algorithm"), ({"alg": "RS256"}, "bad-algorithm"),
        ({"alg": "ES256"}, "bad-algorithm"), ({"alg": ["HS256"]}, "bad-algorithm"), ({}, "bad-algorithm"),
        ({"alg": None}, "bad-algorithm"), ({"alg": "HS256", "kid": "../../../dev/null"}, "malformed"),
        ({"alg": "HS256", "kid": "x' UNION SELECT 'k"}, "malformed"), ({"alg": "HS256", "kid": 3}, "malformed"),
        ({"alg": "HS256", "jku": "http://169.254.169.254/"}, "malformed"),
        ({"alg": "HS256", "jwk": {"kty": "oct", "k": "b28"}}, "malformed"),
        ({"alg": "HS256", "x5u": "http://evil.example/k"}, "malformed"),
        ({"alg": "HS256", "crit": ["exp"]}, "malformed"), ({"alg": "HS256", "b64": False}, "malformed"),
        ([], "malformed"), ("HS256", "malformed"), (b"\xff\xfe", "malformed"), (b"[" * 900, "malformed"),
    ],
)  # fmt: skip
def test_headers_other_than_ours_are_refused_though_they_are_signed(header, reason):
    assert why(signed(claims(), header)) == reason


def test_a_token_without_a_signature_is_refused():
    text = f"{segment({'alg': 'none', 'typ': 'JWT'})}.{segment(claims())}."
    assert why(text) == "bad-algorithm"
    whole = TOKENS.issue("ada", PRODUCT)
    assert why(whole.rpartition(".")[0] + ".") == "malformed"


def test_huge_and_shapeless_tokens_are_refused_before_they_are_read(monkeypatch):
    class Unread:
        def __getattr__(self, name):
            pytest.fail(name)

    monkeypatch.setattr(TOKENS, "_jwt", Unread())
    for text in (
        "", "a", "a.b", "a.b.c.d", "..", "a..c", " ", "\x00", "é.é.é", "a.b.c=", "a+b.c.d", "a.b.c\n", "A" * 10_000_000,
        f"{'A' * MAX_TOKEN}.b.c", signed(claims(sub="s" * 190, pad="p" * MAX_TOKEN)),
    ):  # fmt: skip
        assert why(text) == "malformed"


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_changed_token_never_opens_anything(data):
    whole = TOKENS.issue("ada", PRODUCT)
    at = data.draw(st.integers(0, len(whole) - 1))
    kind = data.draw(st.sampled_from(["put", "insert", "drop", "cut", "append"]))
    sign = data.draw(st.sampled_from(WORD))
    changed = {
        "put": whole[:at] + sign + whole[at + 1 :],
        "insert": whole[:at] + sign + whole[at:],
        "drop": whole[:at] + whole[at + 1 :],
        "cut": whole[:at],
        "append": whole + sign,
    }[kind]
    if changed != whole:
        assert why(changed) in REASONS


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300) | st.text(WORD, max_size=300) | st.binary(max_size=300).map(lambda b: b.decode("latin-1")))
def test_whatever_is_sent_is_refused_and_nothing_else_is_raised(text):
    assert why(text) in REASONS


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=6,
    ),
    st.sampled_from(["sub", "aud", "exp", "iat", "nbf"]),
)
def test_whatever_a_signed_claim_is_the_answer_is_yes_or_a_reason(value, name):
    said = None
    with contextlib.suppress(TokenRefused):
        said = TOKENS.check(signed(claims(**{name: value})), PRODUCT)
    assert said is None or time.time() - LEEWAY < said.until <= time.time() + LONGEST + LEEWAY


def test_two_keys_sign_with_the_first_and_take_both():
    old, new, both = Tokens(OTHER), Tokens(KEY), Tokens(f"{KEY},{OTHER}")
    assert both.check(old.issue("ada", PRODUCT), PRODUCT)
    assert both.check(new.issue("ada", PRODUCT), PRODUCT)
    assert new.check(both.issue("ada", PRODUCT), PRODUCT)
    assert why(both.issue("ada", PRODUCT), tokens=old) == "bad-signature"
    assert why(signed(claims(exp=1), key=OTHER), tokens=both) == "expired"


@pytest.mark.parametrize("key", ["", "short", "k" * 31, f"{KEY},", f"{KEY},short", f",{KEY}", f"{KEY},{KEY},{KEY}"])
def test_a_key_that_is_too_short_is_refused_and_not_repeated(key):
    with pytest.raises(InvalidInput) as caught:
        Tokens(key)
    assert caught.value.where == "PLINTH_TOKEN_KEY"
    assert "kkk" not in str(caught.value)


@pytest.mark.parametrize("actor", ["", "a" * 201, "a\nb", "\x00"])
def test_nobody_and_what_steers_a_log_gets_no_token(actor):
    with pytest.raises(InvalidInput):
        TOKENS.issue(actor, PRODUCT)


@pytest.mark.parametrize("seconds", [0, -1, LONGEST + 1])
def test_a_token_for_longer_than_a_day_is_not_made(seconds):
    with pytest.raises(InvalidInput):
        TOKENS.issue("ada", PRODUCT, seconds)


def test_credentials_keep_a_token_while_it_is_young_and_make_a_new_one_when_the_clock_jumps(monkeypatch):
    held = Credentials(KEY, "ada")
    first = held.headers(PRODUCT)
    assert TOKENS.check(first["Authorization"].removeprefix("Bearer "), PRODUCT).subject == "ada"
    assert held.headers(PRODUCT) == first
    assert held.headers("docs-assistant") != first
    for jump in (7200.0, -7200.0):
        real = time.time
        monkeypatch.setattr(module.time, "time", lambda real=real, jump=jump: real() + jump)
        assert held.headers(PRODUCT) != first
        monkeypatch.undo()


def test_without_a_key_nothing_is_shown():
    assert Credentials("", "ada").headers(PRODUCT) == {}


def test_no_key_is_in_what_is_printed_of_them():
    assert KEY not in repr(Tokens(KEY)) + repr(Credentials(KEY, "ada"))
