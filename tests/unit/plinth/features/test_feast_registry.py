"""Feast's registry in PostgreSQL: what its connections are told. Its behaviour is tests/contract/test_features.py's."""

from unittest import mock

import pytest
import sqlalchemy as sa

from plinth.errors import InvalidInput, Unavailable
from plinth.features.feast_registry import SqlRegistry

URL = "postgresql://feast:secret@127.0.0.1:1/feast"


def feasts_own():
    """The engine that Feast makes of its configuration."""
    config = SqlRegistry(URL).config()
    return sa.create_engine(config["path"], **config["sqlalchemy_config_kwargs"]).connect


@pytest.mark.parametrize("connect", [feasts_own, lambda: SqlRegistry(URL).lock("p").__enter__], ids=["feast", "lock"])
def test_every_connection_gives_up_on_a_server_that_does_not_answer_or_went_silent(connect):
    refused = sa.exc.OperationalError("", {}, Exception("refused"))
    with mock.patch("psycopg.connect", side_effect=refused) as called, pytest.raises((type(refused), Unavailable)):
        connect()()
    assert called.call_args.kwargs["connect_timeout"] == 5  # seconds
    assert called.call_args.kwargs["tcp_user_timeout"] == 5000  # milliseconds


def test_an_address_that_is_none_is_refused_without_its_password():
    with pytest.raises(InvalidInput) as error:
        SqlRegistry("mysql://feast:secret@127.0.0.1/feast")
    assert "secret" not in str(error.value)
