"""A user and a password as a header."""

from pydantic import SecretStr

from plinth.core.basic_auth import authorization, credentials


def test_the_header_is_that_of_basic_authentication():
    assert authorization("Aladdin", SecretStr("open sesame")) == {"Authorization": "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="}
    assert credentials(SecretStr("Aladdin:open sesame")) == authorization("Aladdin", SecretStr("open sesame"))


def test_nobody_shows_nothing():
    assert authorization("", SecretStr("x")) == {}
    assert credentials(SecretStr("")) == {}
