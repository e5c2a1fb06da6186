"""Images of our own: small, nobody's root, without tools to build or to fetch, and with their own libraries only."""

import json
import subprocess

import pytest
import stacks

SERVICES = ("flight-delays", "docs-assistant")
SERVICE_MB = 600
# What the official base weighs at most. The testbed's stand-in of it is twice that, for reasons that are not ours.
BASE_MB = 150
TRAINING = ("mlflow", "prefect", "feast", "lightgbm", "sklearn", "pandas", "duckdb", "matplotlib", "evidently")
BUILDING = ("pip", "uv", "setuptools", "hatchling", "pytest", "cyclonedx_py")
# Whose library an image must not have: an adapter that is imported where it does not belong fails there at once.
FOREIGN = {
    "flight-delays": (*TRAINING, "openai", "qdrant_client", "qdrant_edge", "docs_assistant", "boto3", "docker"),
    "docs-assistant": (*TRAINING, "onnx", "torch", "flight_delays", "boto3", "docker"),
    "controller": ("prefect", "feast", "lightgbm", "sklearn", "pandas", "bentoml", "openai", "flight_delays",
                   "docs_assistant", "docker"),
    "mlflow": ("prefect", "feast", "lightgbm", "bentoml", "openai", "qdrant_client", "flight_delays", "docs_assistant"),
    "prefect": ("mlflow", "feast", "lightgbm", "bentoml", "openai", "qdrant_client", "duckdb", "flight_delays",
                "docs_assistant"),
    "pipelines": ("evidently", "supervisor", "torch", "grafana_foundation_sdk"),
}  # fmt: skip
OWN = {
    "flight-delays": ("flight_delays.service", "onnxruntime", "redis", "obstore", "psycopg", "jwt"),
    "docs-assistant": ("docs_assistant.service", "onnxruntime", "qdrant_client", "tokenizers", "obstore", "psycopg",
                       "jwt"),
    "controller": ("plinth.runtime.controller", "mlflow", "qdrant_client", "obstore", "psycopg"),
    "mlflow": ("plinth.runtime.mlflow", "mlflow.server", "boto3", "psycopg"),
    "prefect": ("prefect.server.api.server", "asyncpg"),
    "pipelines": ("flight_delays.pipeline", "docs_assistant.pipeline", "prefect", "feast", "mlflow", "lightgbm"),
}  # fmt: skip


def image(name):
    return f"plinth-{name}:{stacks.TAG}"


def inspect(name):
    done = subprocess.run(["docker", "image", "inspect", name], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)[0]


def inside(name, *command):
    """Run a command in an image, as the stack would: no network, nothing writable but /tmp."""
    return subprocess.run(
        ["docker", "run", "--rm", "--network=none", "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", image(name),
         *command],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.parametrize("name", SERVICES)
def test_the_image_of_a_service_stays_small(images, name):
    base, whole = (inspect(item)["Size"] / 1e6 for item in (stacks.base_image(), image(name)))
    official = whole - base + min(base, BASE_MB)
    assert official < SERVICE_MB, f"{whole:.0f} MB on a base of {base:.0f} MB"


@pytest.mark.parametrize("name", stacks.OWN)
def test_an_image_says_what_it_is_and_runs_as_nobody(images, name):
    config = inspect(image(name))["Config"]
    assert config["User"] not in ("", "0", "root", "0:0")
    labels = config["Labels"]
    assert labels["org.opencontainers.image.title"] == f"plinth-{name}"
    for label in ("description", "version", "revision", "licenses", "base.name"):
        assert f"org.opencontainers.image.{label}" in labels
    assert labels["org.opencontainers.image.base.name"] == stacks.base_image()
    secrets = [item for item in config["Env"] if any(word in item.upper() for word in ("PASSWORD", "TOKEN", "SECRET"))]
    assert secrets == []


@pytest.mark.parametrize("name", stacks.OWN)
def test_an_image_holds_nothing_to_build_or_fetch_with(images, name):
    tools = "gcc cc g++ clang make ld as cargo rustc pip pip3 uv git curl wget hatchling"
    left = "ls -d /tmp/* /build 2>/dev/null; find / -xdev -name .cache 2>/dev/null"
    script = f"for tool in {tools}; do command -v $tool; done; {left}; id -u"
    assert inside(name, "sh", "-c", script).stdout.split() == ["10001"]
    assert imported(name, BUILDING) == []


@pytest.mark.parametrize("name", stacks.OWN)
def test_an_image_has_its_own_libraries_and_no_other_tools(images, name):
    assert imported(name, FOREIGN[name]) == []
    assert imported(name, OWN[name]) == list(OWN[name])


def imported(name, modules):
    """Which of the modules can be imported in an image."""
    script = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    try: importlib.import_module(name)\n"
        "    except ModuleNotFoundError as error:\n"
        "        if not name.startswith(error.name or '?'): raise\n"
        "    else: print(name)"
    )
    done = inside(name, "python", "-c", script, *modules)
    assert done.returncode == 0, done.stderr[-2000:]
    return [line for line in done.stdout.split() if line in modules]


def test_the_parts_of_an_image_can_be_listed(images, tmp_path):
    """The SBOM target: what `make sbom` writes."""
    import re

    subprocess.run(
        ["docker", "build", "--quiet", "--file", "infra/images/Dockerfile", "--target", "sbom", "--build-arg",
         "NAME=prefect", "--output", str(tmp_path), "."],
        cwd=images.home, check=True, stdout=subprocess.DEVNULL, timeout=900,
    )  # fmt: skip
    made = json.loads((tmp_path / "prefect.cdx.json").read_text())
    assert made["bomFormat"] == "CycloneDX"
    listed = {re.sub(r"[-_.]+", "-", part["name"]).lower(): part.get("version") for part in made["components"]}
    locked = re.findall(r"^([\w.-]+)==(\S+)", (images.home / "locks/prefect.txt").read_text(), re.MULTILINE)
    assert listed["prefect"] == dict(locked)["prefect"]
    assert "plinth" in listed
    assert not {"pip", "uv", "cyclonedx-bom"} & set(listed)
