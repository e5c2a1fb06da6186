import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from plinth.errors import InvalidInput, NotFound
from plinth.settings import Settings
from plinth.wiring import Platform

PRODUCT = Path(__file__).parents[3] / "services" / "flight-delays"


@pytest.fixture
def platform(tmp_path):
    (tmp_path / "services").mkdir()
    return Platform.from_settings(Settings(home=tmp_path, state=tmp_path / "state", actor="ada"))


def test_products_are_the_folders_that_hold_a_manifest(platform):
    folder = platform.settings.home / "services" / "flight-delays"
    shutil.copytree(PRODUCT, folder)
    (platform.settings.home / "services" / "not-a-product").mkdir()
    assert platform.products.names() == ["flight-delays"]
    loaded = platform.products.get("flight-delays")
    assert (loaded.spec.name, loaded.folder) == ("flight-delays", folder)


def test_an_unknown_product_names_the_known_ones(platform):
    with pytest.raises(NotFound, match="known products: none"):
        platform.products.get("missing")


def test_outside_a_workspace_the_error_says_how_to_find_it(tmp_path):
    with pytest.raises(NotFound, match="PLINTH_HOME"):
        Platform(Settings(home=tmp_path)).products.get("flight-delays")


def test_a_manifest_whose_name_is_not_its_folders_is_bad_input(platform):
    shutil.copytree(PRODUCT, platform.settings.home / "services" / "renamed")
    with pytest.raises(InvalidInput, match="renamed"):
        platform.products.get("renamed")


def test_building_the_platform_touches_no_disk(platform):
    assert platform.ledger is platform.ledger
    assert platform.artifacts is platform.artifacts
    assert platform.actor == "ada"
    assert not platform.settings.state_dir.exists()


def test_a_bucket_is_a_setting_and_its_library_is_not_imported_before_it_is_used(tmp_path):
    code = (
        "import sys; from plinth.settings import Settings; from plinth.wiring import Platform\n"
        "for given in ({}, {'object_store': 's3://plinth', 'object_endpoint': 'http://127.0.0.1:1'}):\n"
        "    print(type(Platform(Settings(state=sys.argv[1], **given)).artifacts).__name__, 'obstore' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["ArtifactStore", "False", "ObjectArtifacts", "False"]


@pytest.mark.parametrize("ports", ["no JSON", '{"flight-delays": "x"}', '{"flight-delays": 99999}'])
def test_a_setting_that_does_not_fit_is_named(monkeypatch, ports):
    monkeypatch.setenv("PLINTH_SERVICE_PORTS", ports)
    with pytest.raises(InvalidInput, match=r"(?i)service_ports") as error:
        Platform.from_settings()
    assert "FLIGHT" not in error.value.what


def test_a_user_id_without_a_name_still_acts(monkeypatch, tmp_path):
    def nameless():
        raise KeyError("uid not found")

    monkeypatch.setattr("getpass.getuser", nameless)
    assert Platform(Settings(home=tmp_path)).actor.startswith("uid-")
