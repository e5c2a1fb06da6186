"""A stack of containers of its own for a test run: a copy of the workspace, other names, other ports, own volumes."""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import servers

ROOT = Path(__file__).parents[2]
OVERRIDE = "tests/compose/testbed.yaml"
SMALL_DISK = "tests/compose/small-disk.yaml"
DOCKERFILE = ROOT / "infra" / "images" / "Dockerfile"
OWN = ("flight-delays", "docs-assistant", "pipelines", "controller", "mlflow", "prefect")
TAG = "test"
PORTS = range(1024, 32768)


def say(text):
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def engine():
    """Why there is no Docker engine with Compose; "" when there is one. The testbed's is started if none answers."""
    if servers.compose() and (script := servers.TESTBED / "docker-engine").is_file():
        say("starting the testbed's Docker engine ...")
        done = subprocess.run(["bash", script], capture_output=True, text=True, timeout=600)
        if done.returncode:
            return f"the testbed's engine does not start: {done.stderr.strip()[-300:]}"
        servers.engine.cache_clear()
        servers.compose.cache_clear()
    return servers.compose()


def base_image():
    """What the Dockerfile starts from."""
    return re.search(r"^ARG BASE=(\S+)$", DOCKERFILE.read_text(), re.MULTILINE)[1]


def stand_ins(images):
    """Build the testbed's stand-ins for those of the images that are not here. Gives those that cannot be had."""
    missing = [image for image in images if not servers.local(image)]
    if known := [image for image in missing if servers.stand_in(image)]:
        servers.build_stand_ins(known)
    return [image for image in missing if not servers.stand_in(image)]


@contextlib.contextmanager
def small_disk(folder, mib=5000):
    """A block device with an empty ext4 of so many MiB, which tests may fill. Gives its path, "" if there is none."""
    if subprocess.run(["docker", "info", "--format", "{{.Name}}"], capture_output=True, text=True).stdout.strip() != (
        socket.gethostname()
    ):
        say("the engine is not on this machine, so the object store has no small disk and will not be filled")
        yield ""
        return
    file = Path(folder) / "disk.img"
    with file.open("wb") as image:
        image.truncate(mib * 2**20)  # takes up what is written to it
    try:
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", file], capture_output=True, check=True, timeout=60)
        made = subprocess.run(
            ["losetup", "--find", "--show", file], capture_output=True, text=True, check=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError) as error:
        say(f"no small disk for the object store, so it will not be filled: {error}")
        yield ""
        return
    device = made.stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], capture_output=True, timeout=60)


@dataclass
class Stack:
    """A compose project of a copy of the workspace.

    Attributes:
        project: Its name.
        home: The copy.
        offset: Added to every port.
        seen: What tests leave for later ones.
    """

    project: str
    home: Path
    offset: int
    seen: dict = field(default_factory=dict)

    @cached_property
    def env(self):
        """What `.env` says, `${NAME}` put in."""
        from plinth.core.environment import read_env

        return read_env(self.home / ".env")

    @property
    def state(self):
        return Path(self.env["PLINTH_STATE"])

    @cached_property
    def environ(self):
        """The environment of commands: nobody else's settings."""
        return {k: v for k, v in os.environ.items() if not k.startswith(("PLINTH_", "COMPOSE_", "PREFECT_", "MLFLOW_"))}

    def prepare(self, *, profiles=(), s3_device=""):
        """Copy the workspace and write its `.env`. `s3_device`: a disk for the object store instead of a folder."""
        _copy(self.home)
        words = ["--project", self.project, "--port-offset", str(self.offset)]
        words += [word for name in profiles for word in ("--with", name)]
        done = subprocess.run(
            [_plinth(), "init", "compose", *words], cwd=self.home, env=self.environ, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        lines, files = [f"PLINTH_TAG={TAG}"], ["compose.yaml"]
        text = (self.home / ".env").read_text()
        if servers.on_testbed() and not servers.local(self.image("qdrant")):
            files.append(OVERRIDE)
            text = text.replace("PLINTH_VECTOR_STORE=qdrant", "PLINTH_VECTOR_STORE=edge")
        if s3_device:
            files.append(SMALL_DISK)
            lines.append(f"TEST_S3_DEVICE={s3_device}")
        (self.home / ".env").write_text("\n".join([*lines, f"COMPOSE_FILE={':'.join(files)}", text]))
        return self

    def image(self, service):
        """What compose.yaml pins for a service, without anything laid over it."""
        return self.config("--profile", "*", files=["compose.yaml"])["services"][service]["image"]

    def config(self, *words, files=()):
        chosen = [word for name in files for word in ("--file", name)]
        done = self.compose(*chosen, *words, "config", "--format", "json")
        return json.loads(done.stdout)

    def compose(self, *words, check=True, timeout=900):
        """`docker compose ...` of this project."""
        done = subprocess.run(
            ["docker", "compose", *words], cwd=self.home, env=self.environ, capture_output=True, text=True,
            timeout=timeout,
        )  # fmt: skip
        if check and done.returncode:
            raise AssertionError(
                f"docker compose {' '.join(words)} ended with {done.returncode}:\n{done.stderr[-4000:]}"
            )
        return done

    def plinth(self, *words, env=None, timeout=900):
        """`plinth --profile compose ...` on this machine, against the containers."""
        return subprocess.run(
            [_plinth(), "--profile", "compose", *words], cwd=self.home, env={**self.environ, **(env or {})},
            capture_output=True, text=True, timeout=timeout,
        )  # fmt: skip

    def have_images(self):
        """Get the images of others as far as they can be had here, and build our own."""
        if servers.on_testbed():
            wanted = {spec["image"] for spec in self.config()["services"].values()}
            own = {f"plinth-{name}:{TAG}" for name in OWN}
            without = stand_ins(sorted({base_image(), *wanted} - own))
            assert not without, f"neither a registry nor a stand-in has {without}"
        self.build()

    def build(self, *services):
        """Build our own images; what did not change comes from the engine's cache."""
        say("building images of our own ...")
        subprocess.run(
            ["docker", "compose", "build", *services],
            cwd=self.home,
            env=self.environ,
            stdout=2,
            check=True,
            timeout=3600,
        )

    def up(self):
        say(f"starting the stack {self.project} ...")
        done = self.compose("up", "--detach", "--wait", check=False)
        if done.returncode:
            told = self.compose("logs", "--no-color", "--tail", "25", check=False).stdout
            raise AssertionError(f"the stack does not start:\n{done.stderr[-2000:]}\n{told[-8000:]}")

    def down(self):
        self.compose("down", "--volumes", "--remove-orphans", "--timeout", "10", check=False)

    def another(self, home, *, offset):
        """A second stack beside this one, not started."""
        return Stack(f"{self.project}-{offset}", home, free_offset(self.offset + offset)).prepare()

    def containers(self):
        """`docker inspect` of every container, by its service."""
        ids = self.compose("ps", "--all", "--quiet").stdout.split()
        done = subprocess.run(["docker", "inspect", *ids], capture_output=True, text=True, check=True)
        return {item["Config"]["Labels"]["com.docker.compose.service"]: item for item in json.loads(done.stdout)}

    def url(self, port, path=""):
        return f"http://127.0.0.1:{self.env[port]}{path}"


def _plinth():
    return str(Path(sys.executable).parent / "plinth")


def _copy(home):
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (name.startswith("tests/") and name not in {OVERRIDE, SMALL_DISK}) or not (ROOT / name).is_file():
            continue
        target = home / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target)


def free_offset(start=None):
    """An offset that leaves every port of the profile free; test runs at the same time begin to look apart."""
    from plinth.runtime.compose_env import PORTS as DEFAULTS

    start = 1000 + os.getpid() % 100 * 100 if start is None else start
    for offset in range(start, 20000, 97):
        wanted = [port + offset for port in DEFAULTS.values()]
        if max(wanted) < PORTS.stop and all(map(_free, wanted)):
            return offset
    raise RuntimeError("no offset leaves every port free")


def _free(port):
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def main():
    """Have every image before the tests want them: CI does this beside other tests. The engine keeps what was built."""
    if why := engine():
        sys.exit(why)
    with tempfile.TemporaryDirectory() as folder:
        Stack("plinth-images", Path(folder) / "workspace", free_offset()).prepare().have_images()


if __name__ == "__main__":
    main()
