"""The real servers that the contract suites run on, one of each for a whole session."""

import pytest

import servers


@pytest.fixture(scope="session")
def postgres_url():
    """SQLAlchemy URL of a PostgreSQL server's database `postgres`, as its owner."""
    yield from _server("postgres", servers.postgres)


@pytest.fixture(scope="session")
def valkey_url():
    """redis:// URL of a Valkey server."""
    yield from _server("valkey", servers.valkey)


@pytest.fixture(scope="session")
def s3():
    """Endpoint, access key and secret key of an S3 server with a bucket `plinth`."""
    yield from _server("seaweedfs", servers.seaweedfs)


@pytest.fixture(scope="session")
def qdrant_server():
    """URL and API key of a Qdrant server."""
    yield from _server("qdrant", servers.qdrant)


def _server(service, start):
    if why := servers.reason(service):
        pytest.skip(why)
    with start() as address:
        yield address
