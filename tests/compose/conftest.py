"""The stack that the tests of this folder share: built, started, and removed with its volumes at the end."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import stacks

import servers

# How a run goes: what is looked at, what is played, what is broken, and last what is lost.
ORDER = ("test_images", "test_stack", "test_parity", "test_telemetry", "test_faults", "test_backup")


def pytest_collection_modifyitems(items):
    def place(item):
        return ORDER.index(item.path.stem) if item.path.stem in ORDER else len(ORDER) - 1.5

    here = Path(__file__).parent
    ours = [index for index, item in enumerate(items) if item.path.parent == here]
    for index, item in zip(ours, sorted((items[index] for index in ours), key=place), strict=True):
        items[index] = item


@pytest.fixture(scope="session")
def workspace(tmp_path_factory):
    """A stack that is configured and not started: enough for its files."""
    if reason := stacks.engine():
        pytest.skip(reason)
    home = tmp_path_factory.mktemp("compose") / "workspace"
    stack = stacks.Stack(f"plinth-test-{os.getpid()}", home, stacks.free_offset())
    with stacks.small_disk(home.parent) as device:
        yield stack.prepare(profiles=() if servers.on_testbed() else ("observability",), s3_device=device)


@pytest.fixture(scope="session")
def images(workspace):
    """The stack with its own images built and the others here, as far as they can be had."""
    workspace.have_images()
    return workspace


@pytest.fixture(scope="session")
def stack(images):
    """The running stack."""
    try:
        images.up()
        yield images
    finally:
        images.down()


@pytest.fixture(scope="session")
def stand(stack, tmp_path_factory):
    """The stack as the parity suite wants it."""
    from parity import Stand

    command = (stacks._plinth(), "--profile", "compose")
    # Below the shared folder: the containers read what the suite writes.
    folder = stack.state / "parity"
    folder.mkdir(exist_ok=True)
    return Stand("compose", command, stack.home, stack.environ, folder, stack.seen)
