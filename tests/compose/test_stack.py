"""The compose profile: what its files promise, and whether the running containers keep it."""

import json
import os
import re
import subprocess
import urllib.error
import urllib.request
from base64 import b64encode

import pytest
import stacks

CORE = {
    "postgres", "seaweedfs", "valkey", "qdrant", "mlflow", "prefect", "pipelines", "controller", "flight-delays",
    "docs-assistant", "prometheus", "alertmanager",
}  # fmt: skip
PROFILES = {
    "observability": {"collector", "tempo", "loki", "grafana"},
    "llm": {"llm"},
    "gpu": {"vllm"},
}
MEMORY = 4 << 30
# Who may have more than nothing, and why: both hand a fresh volume to their user and become that user.
CAPABILITIES = {
    "postgres": {"CHOWN", "DAC_READ_SEARCH", "FOWNER", "SETGID", "SETUID"},
    "seaweedfs": {"CHOWN", "SETGID", "SETUID"},
}
# Who has no health check: its image holds one program and no shell, so nothing in it could ask.
UNCHECKED = {"collector"}
STORES = {"postgres", "seaweedfs", "valkey", "qdrant"}
EDGES = {"edge", "stores-edge"}
# Who may reach out: they download a model at their first start.
OUTSIDE = {"llm", "vllm", "alertmanager"}
SECRET_LINE = re.compile(r"\s*\w*(?:PASSWORD|SECRET|_KEY|AUTH_STRING|AUTH|TOKEN): *(\S.*)")


@pytest.fixture(scope="module")
def services(workspace):
    """Every service of every profile as compose reads the files, without anything laid over them."""
    return workspace.config("--profile", "*", files=["compose.yaml"])["services"]


def wrong(services, promise):
    """Services that do not keep a promise."""
    return sorted(name for name, spec in services.items() if not promise(name, spec))


def test_the_core_and_each_profile_hold_the_parts_they_are_said_to(workspace, services):
    assert set(workspace.config(files=["compose.yaml"])["services"]) == CORE
    assert {name: {part for part, spec in services.items() if spec.get("profiles") == [name]} for name in PROFILES} == (
        PROFILES
    )
    assert set(services) == CORE.union(*PROFILES.values())


def test_no_service_has_more_rights_than_it_needs(services):
    assert wrong(services, lambda _, spec: spec["cap_drop"] == ["ALL"]) == []
    assert wrong(services, lambda name, spec: set(spec.get("cap_add", [])) == CAPABILITIES.get(name, set())) == []
    assert wrong(services, lambda _, spec: spec["security_opt"] == ["no-new-privileges:true"]) == []
    assert wrong(services, lambda _, spec: spec["read_only"] is True) == []
    assert wrong(services, lambda _, spec: not spec.get("privileged")) == []
    shared = {"pid", "ipc", "network_mode", "userns_mode", "uts", "devices", "volumes_from"}
    assert wrong(services, lambda _, spec: not shared & {key for key, value in spec.items() if value}) == []


def test_no_service_sees_the_engine_or_the_secrets_file(services, workspace):
    def mounts(spec):
        return [volume.get("source", "") for volume in spec.get("volumes", [])]

    assert wrong(services, lambda _, spec: not any("docker.sock" in source for source in mounts(spec))) == []
    forbidden = {str(workspace.home), str(workspace.home / ".env")}
    assert wrong(services, lambda _, spec: not forbidden & set(mounts(spec))) == []
    writable = {
        volume["source"]
        for spec in services.values()
        for volume in spec.get("volumes", [])
        if volume["type"] == "bind" and not volume.get("read_only")
    }
    assert writable == {str(workspace.state), str(workspace.state / "models")}


def test_ports_are_published_on_the_loopback_only(services):
    assert wrong(services, lambda _, spec: all(p.get("host_ip") == "127.0.0.1" for p in spec.get("ports", []))) == []
    # Who publishes a port is on an edge for it; nobody else is.
    assert wrong(services, lambda _, spec: bool(spec.get("ports")) == bool(EDGES & set(spec["networks"]))) == []


def test_the_stores_are_reached_by_their_own_network_alone(services):
    """A network that they shared with everybody would make `stores` no boundary."""
    on = {name: set(spec["networks"]) for name, spec in services.items()}
    assert {name for name in on if "stores-edge" in on[name]} == STORES
    assert all(on[name] == {"stores", "stores-edge"} for name in STORES)
    members = {"mlflow", "prefect", "pipelines", "controller", "flight-delays", "docs-assistant", "prometheus"}
    assert {name for name in on if "stores" in on[name]} == STORES | members


def test_a_product_holds_no_secret_that_its_service_does_not_use(services):
    used = {name: {key for key, value in spec["environment"].items() if value} for name, spec in services.items() if
            name in ("flight-delays", "docs-assistant")}  # fmt: skip
    assert {name for name, keys in used.items() if "PLINTH_PREFECT_AUTH" in keys} == set()
    assert {name for name, keys in used.items() if "PLINTH_QDRANT_API_KEY" in keys} == {"docs-assistant"}


def test_only_what_downloads_a_model_reaches_out(workspace, services):
    networks = workspace.config("--profile", "*", files=["compose.yaml"])["networks"]
    assert {name for name, spec in networks.items() if spec.get("internal")} == {"stores", "platform"}
    masquerade = "com.docker.network.bridge.enable_ip_masquerade"
    assert all(networks[name]["driver_opts"] == {masquerade: "false"} for name in EDGES)
    assert {name for name, spec in services.items() if "outside" in spec["networks"]} == OUTSIDE


def test_every_service_is_limited_and_comes_back(services):
    assert wrong(services, lambda _, spec: int(spec["mem_limit"]) > 0 and float(spec["cpus"]) > 0) == []
    assert wrong(services, lambda _, spec: 0 < spec["pids_limit"] <= 2048) == []
    assert wrong(services, lambda _, spec: spec["restart"] == "unless-stopped") == []
    assert wrong(services, lambda _, spec: spec["logging"]["options"].get("max-size")) == []
    assert sum(int(services[name]["mem_limit"]) for name in CORE) <= MEMORY


def test_every_service_has_a_health_check_and_waits_for_healthy_ones(services):
    def checked(name, spec):
        check = spec.get("healthcheck") or {}
        return bool(check.get("disable")) if name in UNCHECKED else bool(check.get("test"))

    assert wrong(services, checked) == []
    conditions = {item["condition"] for spec in services.values() for item in (spec.get("depends_on") or {}).values()}
    assert conditions == {"service_healthy"}


def test_every_image_is_pinned(services):
    for name, spec in services.items():
        repository, _, tag = spec["image"].rpartition(":")
        assert repository, name
        own = repository.removeprefix("plinth-") in stacks.OWN
        assert tag == stacks.TAG if own else re.search(r"\d+\.\d+|b\d{4}", tag), f"{name}: {spec['image']}"


def test_recorded_digests_are_those_of_the_pinned_tags(services):
    """infra/images.lock is written where a registry can be asked (tools/images.py)."""
    lock = stacks.ROOT / "infra" / "images.lock"
    if not lock.is_file():
        pytest.skip("infra/images.lock is not there: digests can be recorded only where a registry can be asked")
    pinned = {spec["image"] for spec in services.values()} | {stacks.base_image()}
    recorded = json.loads(lock.read_text())["images"]
    assert {image for image in pinned if not image.startswith("plinth-")} == set(recorded)


def test_no_committed_file_holds_a_secret(workspace):
    from plinth.runtime.compose_env import SECRETS

    values = [workspace.env[name] for name in SECRETS]
    assert all(len(value) > 20 for value in values)
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=stacks.ROOT, capture_output=True, text=True, check=True)
    assert ".env" not in listed.stdout.split("\0")
    parts = [stacks.ROOT / "compose.yaml", *(stacks.ROOT / "infra" / "compose").rglob("*.*")]
    for path in parts:
        # A variable that has no default says what to do about it; nothing else stands where a password belongs.
        for line in path.read_text().splitlines():
            found = SECRET_LINE.match(line)
            if found and not found[1].startswith(("${", '""')):
                pytest.fail(f"{path.name}: {line.strip()}")


def test_a_missing_secret_says_what_to_run(workspace, tmp_path):
    from plinth.runtime.compose_env import SECRETS

    full = (workspace.home / ".env").read_text()
    for name in ("COMPOSE_PROJECT_NAME", "PLINTH_STATE", *SECRETS):
        stale = tmp_path / "env"
        stale.write_text(re.sub(rf"^{name}=.*$", "", full, flags=re.MULTILINE))
        done = workspace.compose(
            "--file", "compose.yaml", "--env-file", str(stale), "--profile", "*", "config", "--quiet", check=False
        )
        assert done.returncode != 0, name
        assert name in done.stderr, name
        assert "run plinth init compose" in done.stderr, name


def test_a_gpu_is_reserved_by_the_profile_gpu_and_by_nothing_else(services):
    def devices(spec):
        return spec.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", [])

    assert [name for name, spec in services.items() if devices(spec)] == ["vllm"]
    assert devices(services["vllm"])[0]["capabilities"] == ["gpu"]


# The running stack.


def test_every_container_is_healthy(stack):
    found = stack.containers()
    assert set(found) >= (CORE - {"qdrant"} if "COMPOSE_FILE" in stack.env else CORE)
    health = {name: item["State"].get("Health", {}).get("Status", "none") for name, item in found.items()}
    assert {name for name, status in health.items() if status != "healthy"} <= UNCHECKED, health
    assert {name: item["RestartCount"] for name, item in found.items() if item["RestartCount"]} == {}


def test_no_server_runs_as_root_or_has_a_capability(stack):
    for name, item in stack.containers().items():
        for pid in _processes(item):
            status = _status(pid)
            assert status["Uid"].split()[0] != "0", f"{name}: process {pid} is root"
            assert int(status["CapEff"], 16) == 0, f"{name}: process {pid} has capabilities"
            assert status["NoNewPrivs"] == "1", name


def _processes(item):
    """The container's processes that its first one started: health checks come from outside and go again."""
    told = subprocess.run(
        ["docker", "top", item["Id"], "-eo", "pid,ppid"], capture_output=True, text=True, check=True
    ).stdout
    parents = dict(map(str.split, told.splitlines()[1:]))
    first = str(item["State"]["Pid"])
    found = {first}
    while new := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= new
    return sorted(found)


def _status(pid):
    path = f"/proc/{pid}/status"
    if not os.path.exists(path):
        pytest.skip("the engine's processes are not this machine's: they run in a machine of their own")
    with open(path) as file:
        return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)


@pytest.mark.parametrize("service", ["flight-delays", "docs-assistant", "controller", "pipelines", "mlflow", "prefect"])
def test_a_container_of_our_own_can_write_its_scratch_and_nothing_else(stack, service):
    script = (
        "touch /tmp/x && ! touch /opt/x 2>/dev/null && ! touch /usr/local/bin/x 2>/dev/null && ! touch /x 2>/dev/null"
    )
    assert stack.compose("exec", "-T", service, "sh", "-c", script, check=False).returncode == 0


def test_working_files_of_containers_can_be_written_by_host_and_containers_alike(stack):
    path = stack.state / "products" / "written.txt"
    stack.compose("exec", "-T", "controller", "run", "sh", "-c", f"echo one > {path}")
    with path.open("a") as file:
        file.write("two\n")
    stack.compose("exec", "-T", "pipelines", "run", "sh", "-c", f"echo three >> {path}")
    assert path.read_text().split() == ["one", "two", "three"]
    path.unlink()


REACH = "import socket, sys; socket.create_connection((sys.argv[1], 53), timeout=4)"


def test_nobody_reaches_out_but_over_the_network_for_it(stack):
    """Asked is this machine's name server: an address outside that surely listens, where it is not this machine."""
    server = _name_server()
    ask = ["python", "-c", REACH, server]
    image, network = f"plinth-prefect:{stacks.TAG}", f"{stack.project}_outside"
    over = subprocess.run(
        ["docker", "run", "--rm", f"--network={network}", image, *ask], capture_output=True, timeout=60
    )
    if over.returncode:
        pytest.skip(f"containers reach no name server at {server}, so nothing can be shown")
    for service in ("pipelines", "controller", "flight-delays", "docs-assistant", "mlflow", "prefect"):
        done = stack.compose("exec", "-T", service, *ask, check=False)
        assert done.returncode != 0, f"{service} reached {server}"
        assert "timed out" in done.stderr or "unreachable" in done.stderr, done.stderr


def _name_server():
    with open("/etc/resolv.conf") as file:
        found = re.search(r"^nameserver\s+([\d.]+)$", file.read(), re.MULTILINE)
    if found is None or found[1].startswith("127."):
        pytest.skip("this machine is its own name server, so there is no address that is surely outside")
    return found[1]


def _connect(stack, role, password, database):
    import psycopg

    with psycopg.connect(
        host="127.0.0.1", port=int(stack.env["POSTGRES_PORT"]), user=role, password=password, dbname=database,
        connect_timeout=5,
    ) as connection:  # fmt: skip
        return connection.execute("SELECT current_user, current_database()").fetchone()


ROLES = ("ledger", "mlflow", "prefect", "feast")


@pytest.mark.parametrize("role", ROLES)
def test_a_database_role_has_its_database_and_no_other(stack, role):
    import psycopg

    password = stack.env[f"{role.upper()}_DB_PASSWORD"]
    assert _connect(stack, role, password, role) == (role, role)
    for other in {*ROLES, "postgres", "template1"} - {role}:
        with pytest.raises(psycopg.OperationalError, match="permission denied"):
            _connect(stack, role, password, other)
    for wrong_password in ("", "postgres", stack.env["POSTGRES_PASSWORD"]):
        with pytest.raises(psycopg.OperationalError, match=r"password"):
            _connect(stack, role, wrong_password, role)


def _status_of(url, headers=None, method="GET"):
    request = urllib.request.Request(url, headers=headers or {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def _basic(user_and_password):
    return {"Authorization": f"Basic {b64encode(user_and_password.encode()).decode()}"}


def test_mlflow_asks_for_its_password(stack):
    url = stack.url("MLFLOW_PORT", "/api/2.0/mlflow/experiments/search?max_results=1")
    assert _status_of(stack.url("MLFLOW_PORT", "/health")) == 200
    assert _status_of(url) == 401
    assert _status_of(url, _basic("admin:password1234")) == 401
    assert _status_of(url, _basic(f"admin:{stack.env['MLFLOW_ADMIN_PASSWORD']}")) == 200
    assert _status_of(stack.url("MLFLOW_PORT", "/")) == 401
    foreign = {"Host": "evil.example", **_basic(f"admin:{stack.env['MLFLOW_ADMIN_PASSWORD']}")}
    assert _status_of(url, foreign) == 403


def test_prefect_asks_for_its_password(stack):
    url = stack.url("PREFECT_PORT", "/api/flows/count")
    assert _status_of(stack.url("PREFECT_PORT", "/api/health")) == 200
    assert _status_of(url, method="POST") == 401
    assert _status_of(url, _basic("admin:pass"), method="POST") == 401
    assert _status_of(url, _basic(stack.env["PREFECT_AUTH"]), method="POST") == 200


def test_valkey_asks_for_its_password(stack):
    import redis

    port = int(stack.env["VALKEY_PORT"])
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(port=port).ping()
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(port=port, password="valkey").ping()
    assert redis.Redis(port=port, password=stack.env["VALKEY_PASSWORD"]).ping()
    shown = stack.compose("exec", "-T", "valkey", "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout
    assert stack.env["VALKEY_PASSWORD"] not in shown, "it is on no command line"


def test_s3_asks_for_its_keys_and_has_the_buckets(stack):
    import boto3
    from botocore.exceptions import ClientError

    url = stack.url("S3_PORT")
    assert _status_of(f"{url}/plinth/") == 403
    assert _status_of(f"{url}/plinth/x", method="PUT") == 403

    def client(key, secret):
        return boto3.client(
            "s3", endpoint_url=url, aws_access_key_id=key, aws_secret_access_key=secret, region_name="us-east-1"
        )

    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        client(stack.env["S3_ACCESS_KEY"], "wrong").list_buckets()
    ours = client(stack.env["S3_ACCESS_KEY"], stack.env["S3_SECRET_KEY"])
    assert {bucket["Name"] for bucket in ours.list_buckets()["Buckets"]} == {"plinth", "mlflow"}


def test_what_seaweedfs_asks_nobody_for_listens_on_its_loopback_only(stack):
    """Its master, volume and filer ports know no password: from the next container they must not be there."""
    script = (
        "import socket\n"
        "for port in (9333, 19333, 8080, 18080, 8888, 18888, 8333):\n"
        "    try: socket.create_connection(('seaweedfs', port), timeout=2).close(); print(port)\n"
        "    except OSError: pass"
    )
    assert stack.compose("exec", "-T", "controller", "python", "-c", script).stdout.split() == ["8333"]


def test_qdrant_asks_for_its_key(stack):
    if "qdrant" not in stack.containers():
        pytest.skip("the Qdrant server runs in no container here: no package carries it")
    url = stack.url("QDRANT_PORT", "/collections")
    assert _status_of(url) == 401
    assert _status_of(url, {"api-key": stack.env["QDRANT_API_KEY"]}) == 200
    assert (
        _status_of(stack.url("QDRANT_PORT", "/collections/x"), {"api-key": stack.env["PLINTH_SCRAPE_TOKEN"]}, "PUT")
        == 403
    )


@pytest.mark.parametrize("port", ["FLIGHT_DELAYS_PORT", "DOCS_ASSISTANT_PORT", "PLINTH_CONTROLLER_PORT"])
def test_metrics_take_the_scrape_token_and_nothing_else(stack, port):
    url = stack.url(port, "/metrics")
    assert _status_of(url) == 401
    assert _status_of(url, {"Authorization": "Bearer wrong"}) == 401
    assert _status_of(url, {"Authorization": f"Bearer {stack.env['PLINTH_SCRAPE_TOKEN']}"}) == 200


def test_no_page_in_a_browser_reads_prometheus_but_its_own(stack):
    for origin, allowed in (("http://evil.example", None), (own := stack.url("PROMETHEUS_PORT"), own)):
        request = urllib.request.Request(
            stack.url("PROMETHEUS_PORT", "/api/v1/targets"), headers={"Origin": origin}
        )  # fmt: skip
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.headers["Access-Control-Allow-Origin"] == allowed


def test_prometheus_reaches_every_target_that_runs(stack):
    with urllib.request.urlopen(stack.url("PROMETHEUS_PORT", "/api/v1/targets?state=active"), timeout=10) as answer:
        targets = json.load(answer)["data"]["activeTargets"]
    running = set(stack.containers())
    down = {
        target["labels"]["job"]: target["lastError"]
        for target in targets
        if target["health"] == "down" and target["labels"]["job"] in running
    }
    assert down == {}
    assert {target["labels"]["job"] for target in targets} >= {"flight-delays", "docs-assistant", "controller"}
