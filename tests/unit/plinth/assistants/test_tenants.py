"""Whose key it is decides; keys are kept as digests, and a change counts at once."""

import json
import stat
import threading

import pytest

from plinth.assistants import tenants
from plinth.assistants.tenants import Caller, Door
from plinth.core.corpus import PROBE_TENANT, SHARED_TENANT, Scope
from plinth.errors import Conflict, InvalidInput, NotFound, Unavailable


@pytest.fixture
def door(tmp_path):
    return Door(tmp_path)


@pytest.mark.parametrize("key", ["", "public"])
def test_whoever_has_no_key_is_everybody(door, key):
    assert door.caller(key) == Caller(SHARED_TENANT)


def test_a_key_opens_its_tenant_with_its_labels_and_no_other(door, tmp_path):
    acme, globex = tenants.add(tmp_path, "acme", ["finance"]), tenants.add(tmp_path, "globex")
    assert door.caller(acme) == Caller("acme", frozenset({"finance"}))
    assert door.caller(globex) == Caller("globex")
    assert door.caller(acme).scope(since=5.0) == Scope("acme", frozenset({"finance"}), 5.0)


@pytest.mark.parametrize(
    "change", [str.upper, lambda key: key[:-1], lambda key: key + "x", lambda key: key + " " * 300]
)
def test_almost_a_key_is_nobodys(door, tmp_path, change):
    key = tenants.add(tmp_path, "acme")
    assert door.caller(change(key)) is None


@pytest.mark.parametrize("key", ["acme", "x", "plinth-probe", "\ud800", "None", "0" * 64])
def test_what_is_no_key_is_nobodys(door, tmp_path, key):
    tenants.add(tmp_path, "acme")
    assert door.caller(key) is None


def test_the_digest_that_is_kept_is_no_key(door, tmp_path):
    tenants.add(tmp_path, "acme")
    (kept,) = json.loads((tmp_path / tenants.FILE).read_text())["tenants"]
    assert door.caller(kept["key_sha256"]) is None


def test_no_key_is_kept_and_the_files_are_the_owners(tmp_path):
    key = tenants.add(tmp_path, "acme")
    tenants.probe_key(tmp_path)
    assert key not in (tmp_path / tenants.FILE).read_text()
    for name in (tenants.FILE, tenants.PROBE_KEY):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_a_running_service_notices_new_and_removed_tenants(door, tmp_path):
    assert door.caller("x") is None
    key = tenants.add(tmp_path, "acme")
    assert door.caller(key) == Caller("acme")
    tenants.remove(tmp_path, "acme")
    assert door.caller(key) is None


def test_the_probes_have_a_key_of_their_own_that_stays(door, tmp_path):
    key = tenants.probe_key(tmp_path)
    assert tenants.probe_key(tmp_path) == key
    assert door.caller(key) == Caller(PROBE_TENANT)
    assert [tenant.name for tenant in tenants.tenants(tmp_path)] == []


@pytest.mark.parametrize("name", [SHARED_TENANT, PROBE_TENANT, "acme"])
def test_a_name_that_is_taken_is_refused(tmp_path, name):
    tenants.add(tmp_path, "acme")
    with pytest.raises(Conflict):
        tenants.add(tmp_path, name)


@pytest.mark.parametrize(
    ("name", "labels"), [("A", []), ("a b", []), ("../x", []), ("", []), ("acme", ["*"]), ("a", ["x y"])]
)
def test_a_name_or_label_that_does_not_fit_is_refused(tmp_path, name, labels):
    with pytest.raises(InvalidInput):
        tenants.add(tmp_path, name, labels)
    assert tenants.tenants(tmp_path) == []


def test_removing_whom_there_is_not_is_not_found(tmp_path):
    with pytest.raises(NotFound):
        tenants.remove(tmp_path, "acme")


def test_with_a_damaged_file_no_key_counts_and_everybody_is_still_answered(door, tmp_path):
    key = tenants.add(tmp_path, "acme")
    assert door.caller(key)
    (tmp_path / tenants.FILE).write_text('{"tenants": [{"name": "acme"}]}')
    with pytest.raises(Unavailable):
        door.caller(key)
    assert door.caller("") == Caller()


def test_tenants_added_at_once_are_all_kept(tmp_path):
    threads = [threading.Thread(target=tenants.add, args=(tmp_path, f"t{i}")) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {tenant.name for tenant in tenants.tenants(tmp_path)} == {f"t{i}" for i in range(6)}
