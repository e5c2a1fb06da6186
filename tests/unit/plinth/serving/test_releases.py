"""Which release serves: digests, formats, generations, the last good one."""

import gc
import weakref

import pytest

from plinth.core.routes import Route
from plinth.errors import Corrupt, RefusedByPolicy
from plinth.serving.memory import MemoryObserver, MemoryReader, MemoryReleases
from plinth.serving.onnxruntime import OnnxScorer
from plinth.serving.releases import ReleaseHolder, load_release


@pytest.fixture
def source(tmp_path):
    return MemoryReleases(tmp_path)


@pytest.fixture
def holder(source):
    loads = []

    def load(digest, artifacts):
        loads.append(digest)
        return load_release(
            digest, artifacts, make_scorer=OnnxScorer, open_reader=lambda plan: MemoryReader({}, [0, 0]), width=3
        )

    now = [0.0]
    holder = ReleaseHolder(source, load, on_event=MemoryObserver().event, clock=lambda: now[0])
    holder.now, holder.loads = now, loads
    return holder


def load(source, width=3):
    return load_release(
        source.wanted.serving,
        source.artifacts(source.wanted.serving),
        make_scorer=OnnxScorer,
        open_reader=lambda plan: MemoryReader({}, [0, 0]),
        width=width,
    )


def test_nothing_promoted_is_no_release_and_says_so(holder):
    assert holder.poll() is False
    assert holder.routing is None
    assert "no release" in holder.problem


def test_a_newer_generation_is_taken_over(holder, source, bundle):
    source.promote(bundle(0.1), generation=1)
    assert holder.poll()
    first = holder.routing.serving
    assert holder.poll() is False
    source.promote(bundle(0.2), generation=2)
    assert holder.poll()
    assert holder.routing.serving.digest != first.digest
    assert holder.problem is None


def test_an_older_generation_is_refused(holder, source, bundle):
    source.promote(bundle(0.1), generation=5)
    holder.poll()
    serving = holder.routing.serving
    source.promote(bundle(0.2), generation=4)
    assert holder.poll() is False
    assert holder.routing.serving is serving
    assert "older" in holder.problem


def test_another_release_of_the_same_generation_is_not_taken_over_in_silence(holder, source, bundle):
    digest = source.promote(bundle(0.1), generation=1).serving
    assert holder.poll()
    source.promote(bundle(0.2), generation=1)
    assert not holder.poll()
    assert holder.routing.serving.digest == digest
    assert "generation 1" in holder.problem


def test_a_rollback_is_a_new_generation_of_an_old_release(holder, source, bundle):
    digest = source.promote(bundle(0.1), generation=1).serving
    holder.poll()
    source.promote(bundle(0.2), generation=2)
    holder.poll()
    source.promote(bundle(0.1), generation=3)
    assert holder.poll()
    assert holder.routing.route == Route(3, 0, digest)


@pytest.mark.parametrize("name", ["model.onnx", "read_plan.json"])
@pytest.mark.parametrize("damage", [b"", b"\x00", None])
def test_a_damaged_artefact_is_refused_and_the_last_good_release_serves_on(holder, source, bundle, name, damage):
    source.promote(bundle(0.1), generation=1)
    holder.poll()
    good = holder.routing.serving
    source.promote(bundle(0.2, plan={"views": [{"name": "other", "join_keys": ["id"]}]}), generation=2)
    path, _ = source.artifacts(source.wanted.serving)[name]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    assert holder.poll() is False
    assert holder.routing.serving is good
    assert "digest" in holder.problem
    path.write_bytes(whole)
    holder.now[0] += 10
    assert holder.poll(), "it heals when the file is restored"
    assert holder.problem is None


def test_a_damaged_artefact_is_not_hashed_again_at_every_look(holder, source, bundle):
    source.promote(bundle(), generation=1)
    source.artifacts(source.wanted.serving)["model.onnx"][0].unlink()
    for _ in range(20):
        holder.poll()
    assert holder.failures == 1
    for _ in range(100):
        holder.now[0] += 1.0
        holder.poll()
    assert 10 <= holder.failures <= 20


def test_an_unreachable_ledger_leaves_the_release_serving(holder, source, bundle):
    source.promote(bundle(), generation=1)
    holder.poll()
    source.unreachable = True
    assert holder.poll() is False
    assert holder.routing is not None
    assert "ledger" in holder.problem
    source.unreachable = False
    holder.poll()
    assert holder.problem is None


@pytest.mark.parametrize("content", [b"\x80\x04\x95\x10cos\nsystem\n.", b"PK\x03\x04junk", b"\x1f\x8b\x08junk"])
def test_what_may_carry_code_is_refused_even_with_a_fitting_digest(source, bundle, content):
    source.promote({**bundle(), "model.onnx": content}, generation=1)
    with pytest.raises(RefusedByPolicy):
        load(source)


def test_a_model_of_another_width_is_refused(source, bundle):
    source.promote(bundle(), generation=1)
    with pytest.raises(Corrupt, match="3 features"):
        load(source, width=4)


@pytest.mark.parametrize("plan", [b"[]", b"{}", b"nonsense", b'{"views": [{}]}', b'{"views": 3}'])
def test_a_read_plan_that_does_not_fit_is_refused(source, bundle, plan):
    source.promote({**bundle(), "read_plan.json": plan}, generation=1)
    with pytest.raises(Corrupt, match="read plan"):
        load(source)


def test_a_bundle_without_a_model_is_refused(source, bundle):
    files = bundle()
    del files["model.onnx"]
    source.promote(files, generation=1)
    with pytest.raises(Corrupt, match=r"no model\.onnx"):
        load(source)


def test_the_old_release_is_dropped_when_its_last_request_lets_go(holder, source, bundle):
    source.promote(bundle(0.1), generation=1)
    holder.poll()
    in_flight = holder.routing.serving
    old = weakref.ref(in_flight.scorer)
    source.promote(bundle(0.2), generation=2)
    holder.poll()
    assert old() is not None
    del in_flight
    gc.collect()
    assert old() is None
