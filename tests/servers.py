"""Real servers in containers for the contract suites: PostgreSQL, Valkey, SeaweedFS (S3), Qdrant, by testcontainers.

Their images are those that infra/compose pins. Where they cannot be pulled, a testbed beside the repository may build
stand-ins of the real servers under the same tags; where neither is possible `reason` says so, and the tests skip.
"""

import atexit
import contextlib
import fcntl
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
TESTBED = ROOT.parent / "shared" / "testbed"
STAND_INS = {
    "debian": "debian",
    "python": "python",
    "postgres": "postgres",
    "valkey/valkey": "valkey",
    "chrislusf/seaweedfs": "seaweedfs",
    "prom/prometheus": "prometheus",
    "prom/alertmanager": "alertmanager",
}
"""Repositories that the testbed has a stand-in of, by its kind of it."""
PATIENCE = 90.0


def image(service):
    """The image that infra/compose pins for a service."""
    for part in sorted((ROOT / "infra" / "compose").glob("*.yaml")):
        found = (yaml.safe_load(part.read_text()).get("services") or {}).get(service, {})
        if "image" in found:
            return found["image"]
    raise LookupError(f"infra/compose has no image of {service}")


@cache
def engine():
    """Why no Docker engine can be used; "" when one can."""
    if shutil.which("docker") is None:
        return "no Docker engine: docker is not installed"
    try:
        done = subprocess.run(["docker", "info"], capture_output=True, text=True, timeout=30)
    except subprocess.TimeoutExpired:
        return "no Docker engine: it does not answer"
    return "" if done.returncode == 0 else "no Docker engine answers (docker info failed)"


@cache
def compose():
    """Why `docker compose` cannot be used; "" when it can."""
    if why := engine():
        return why
    done = subprocess.run(["docker", "compose", "version"], capture_output=True, timeout=60)
    return "" if done.returncode == 0 else "docker has no compose"


@cache
def reason(service):
    """Why a server's container cannot be started; "" when it can."""
    return engine() or missing(image(service))


def missing(wanted):
    """Why an image cannot be had, by a stand-in or from its registry; "" when the engine has it."""
    if local(wanted):
        return ""
    if on_testbed():
        if stand_in(wanted) is None:
            return f"{wanted} cannot be pulled here, and no package carries that server"
        try:
            build_stand_ins([wanted])
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            return str(error)
        return ""
    sys.stderr.write(f"\npulling {wanted} ...\n")
    done = subprocess.run(["docker", "pull", "--quiet", wanted], capture_output=True, text=True, timeout=600)
    return "" if done.returncode == 0 else f"{wanted} cannot be pulled: {done.stderr.strip()[-200:]}"


@contextlib.contextmanager
def one_at_a_time():
    """Two suites of one machine must not build the same stand-in at the same time."""
    with Path(tempfile.gettempdir(), "plinth-stand-ins.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def on_testbed():
    """Whether images come from the testbed beside the repository instead of a registry."""
    return (TESTBED / "base-images").is_file()


def stand_in(wanted):
    """The testbed's kind of an image; None if it has no stand-in of it."""
    return STAND_INS.get(wanted.rpartition(":")[0])


def build_stand_ins(images):
    """Build stand-ins in one call, so that a base that several of them need is built once."""
    specs = [f"{stand_in(wanted)}={wanted}" for wanted in images]
    sys.stderr.write(f"\nbuilding stand-ins: {' '.join(specs)} ...\n")
    command = ["bash", TESTBED / "base-images", *specs]
    with one_at_a_time():
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=1200)
    if done.returncode:
        raise RuntimeError(f"no stand-in of {' '.join(images)}: {done.stderr.strip()[-300:]}")


def local(wanted):
    """Whether the engine has an image."""
    return subprocess.run(["docker", "image", "inspect", wanted], capture_output=True, timeout=60).returncode == 0


@contextlib.contextmanager
def container(wanted, port, *, command=None, env=None, **options):
    """A container that publishes one port on 127.0.0.1. Gives it and the host's port; removed at the end."""
    from testcontainers.core.config import testcontainers_config
    from testcontainers.core.container import DockerContainer

    testcontainers_config.ryuk_disabled = True  # its image cannot be pulled everywhere; `with` and atexit remove
    made = DockerContainer(wanted, command=command, env=dict(env or {}), **options)
    made.ports[str(port)] = ("127.0.0.1", None)
    made.start()
    stop = atexit.register(lambda: made.stop(delete_volume=True))
    try:
        yield made, int(made.get_exposed_port(port))
    finally:
        atexit.unregister(stop)
        made.stop(delete_volume=True)


def ready(attempt, what):
    """Calls until it no longer raises; the last error after `PATIENCE` seconds."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return attempt()
        except Exception as error:
            if time.monotonic() > end:
                raise RuntimeError(f"{what} did not start within {PATIENCE:.0f} s: {error}") from error
            time.sleep(0.2)


@contextlib.contextmanager
def postgres():
    """Gives the URL of the database `postgres`, as its owner."""
    import psycopg

    password = secrets.token_hex(12)
    with container(image("postgres"), 5432, env={"POSTGRES_PASSWORD": password}) as (_, port):
        address = f"postgres:{password}@127.0.0.1:{port}/postgres"
        ready(lambda: psycopg.connect(f"postgresql://{address}", connect_timeout=2).close(), "PostgreSQL")
        yield f"postgresql+psycopg://{address}"


@contextlib.contextmanager
def valkey():
    """Gives the redis:// URL, with its password."""
    import redis

    password = secrets.token_hex(12)
    command = f'valkey-server --bind "*" --requirepass {password}'
    with container(image("valkey"), 6379, command=command) as (_, port):
        url = f"redis://:{password}@127.0.0.1:{port}/0"
        ready(lambda: redis.Redis.from_url(url, socket_timeout=2).ping(), "Valkey")
        yield url


S3_CONFIG = """{"identities": [{"name": "plinth", "credentials": [{"accessKey": "%s", "secretKey": "%s"}],
"actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}"""


@contextlib.contextmanager
def seaweedfs(bucket="plinth"):
    """Gives endpoint, access key and secret key of an S3 server that holds an empty bucket."""
    import boto3
    from botocore.config import Config

    key, secret = secrets.token_hex(8), secrets.token_hex(16)
    serve = "exec weed server -dir=/data -s3 -s3.config=/tmp/s3.json -ip.bind=0.0.0.0"
    script = f"printf '%s' '{S3_CONFIG % (key, secret)}' > /tmp/s3.json; {serve}"
    with container(image("seaweedfs"), 8333, entrypoint=["sh", "-c", script]) as (_, port):
        endpoint = f"http://127.0.0.1:{port}"
        client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            region_name="us-east-1",
            config=Config(connect_timeout=2, read_timeout=5, retries={"max_attempts": 0}),
        )
        ready(lambda: client.create_bucket(Bucket=bucket), "SeaweedFS")
        yield endpoint, key, secret


@contextlib.contextmanager
def qdrant():
    """Gives URL and API key."""
    import httpx

    key = secrets.token_hex(12)
    with container(image("qdrant"), 6333, env={"QDRANT__SERVICE__API_KEY": key}) as (_, port):
        url = f"http://127.0.0.1:{port}"
        ready(lambda: httpx.get(f"{url}/readyz", timeout=2).raise_for_status(), "Qdrant")
        yield url, key
