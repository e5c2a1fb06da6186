"""Which release serves: digests, formats, generations, the last good one."""

import gc
import random
import threading
import weakref

import pytest

from plinth.core.routes import FULL, Route
from plinth.errors import Corrupt, RefusedByPolicy
from plinth.serving import releases
from plinth.serving.memory import MemoryObserver, MemoryReader, MemoryReleases
from plinth.serving.onnxruntime import OnnxScorer
from plinth.serving.releases import ReleaseHolder
from plinth.serving.tabular import load_release, on_equal_terms


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
    holder = ReleaseHolder(
        source, load, on_equal_terms=on_equal_terms, on_event=MemoryObserver().event, clock=lambda: now[0]
    )
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


def test_a_ledger_that_serves_nothing_any_more_takes_nothing_away_and_is_said_to(holder, source, bundle):
    source.promote(bundle(0.1), generation=1)
    holder.poll()
    source.wanted = None
    assert holder.poll() is False
    assert holder.routing.route.generation == 1
    assert "nothing serves" in holder.problem


def test_a_candidate_is_not_judged_cold_beside_a_warm_serving_release(holder, source, bundle):
    first = source.promote(bundle(0.1), generation=1)
    holder.poll()
    warm = holder.routing.serving.reader()
    second = source.register(bundle(0.2))
    source.wanted = Route(2, 1, first.serving, second, 1000)
    assert holder.poll()
    assert holder.routing.candidate.reader() is holder.routing.serving.reader() is warm
    views = [{"name": "history", "join_keys": ["id"]}, {"name": "more", "join_keys": ["id"]}]
    third = source.register(bundle(0.3, plan={"views": views}))
    source.wanted = Route(3, 1, first.serving, third, 1000)
    assert holder.poll()
    assert holder.routing.serving.reader() is not warm
    assert holder.routing.candidate.reader() is not holder.routing.serving.reader()


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


# Two releases side by side ----------------------------------------------------------------------------------------


def digests(routing):
    return [release.digest for release in routing.loaded]


@pytest.fixture
def three(source, bundle):
    """Digests of three releases."""
    return [source.register(bundle(bias)) for bias in (0.1, 0.2, 0.3)]


@pytest.fixture
def follow(holder, source):
    """Want a route and look once. Returns the routing then."""

    def look(route):
        source.wanted = route
        holder.poll()
        return holder.routing

    return look


def test_a_candidate_is_held_beside_what_serves_and_no_step_loads_anything_again(holder, follow, three):
    a, b, _ = three
    follow(Route(1, 0, a))
    for step, weight in enumerate((0, 100, 5000, FULL), start=1):
        route = Route(2, step, a, b, weight, shadow=weight == 0)
        routing = follow(route)
        assert routing.route == route
        assert digests(routing) == [a, b]
    assert holder.loads == [a, b]


def test_promoting_the_candidate_and_rolling_back_again_load_nothing(holder, follow, three):
    a, b, _ = three
    follow(Route(2, 1, a, b, 5000))
    assert digests(follow(Route(3, 0, b))) == [b]
    assert holder.loads == [a, b]
    follow(Route(4, 1, b, a, 5000))
    assert holder.loads == [a, b, a], "a release that no route names is dropped"
    assert digests(follow(Route(5, 0, b))) == [b]
    assert holder.problem is None


def break_artifact(source, digest):
    path, _ = source.artifacts(digest)["model.onnx"]
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"?")
    return lambda: path.write_bytes(whole)


def test_a_candidate_that_cannot_be_loaded_leaves_everything_to_what_serves(holder, source, follow, three):
    a, b, _ = three
    follow(Route(1, 0, a))
    mend = break_artifact(source, b)
    wanted = Route(2, 1, a, b, 5000)
    routing = follow(wanted)
    assert routing.route == Route(2, 0, a)
    assert "digest" in holder.problem
    for _ in range(20):
        holder.poll()
    assert holder.failures == 1, "not tried again at every look"
    mend()
    holder.now[0] += 10
    assert holder.poll()
    assert (holder.routing.route, holder.problem) == (wanted, None)


def test_a_rollback_is_applied_although_a_new_candidate_cannot_be_loaded(holder, source, follow, three):
    a, b, c = three
    follow(Route(4, 1, b, a, 5000))
    break_artifact(source, c)
    routing = follow(Route(6, 1, a, c, 1000))
    assert (routing.route, digests(routing)) == (Route(6, 0, a), [a])
    assert "digest" in holder.problem


def test_what_cannot_be_loaded_takes_the_share_of_a_candidate_that_the_ledger_gave_up(holder, source, follow, three):
    a, b, c = three
    follow(Route(2, 3, a, b, 5000))
    break_artifact(source, c)
    routing = follow(Route(3, 0, c))
    assert (routing.route, digests(routing)) == (Route(2, 3, a), [a])
    assert "digest" in holder.problem
    assert digests(follow(Route(4, 0, a))) == [a]
    assert holder.problem is None


def test_a_withdrawn_candidate_answers_nothing_while_another_release_loads(source, three, bundle):
    a, b, c = three
    seen = []

    def load(digest, artifacts):
        seen.append((digest, holder.routing and holder.routing.route))
        return load_release(
            digest, artifacts, make_scorer=OnnxScorer, open_reader=lambda plan: MemoryReader({}, [0, 0]), width=3
        )

    holder = ReleaseHolder(source, load, on_equal_terms=on_equal_terms, on_event=MemoryObserver().event)
    for route in (Route(2, 1, a, b, 5000), Route(3, 1, c, a, 1000)):
        source.wanted = route
        holder.poll()
    assert seen == [(a, None), (b, Route(2, 0, a)), (c, Route(2, 1, a))]
    assert holder.routing.route == Route(3, 1, c, a, 1000)


@pytest.mark.parametrize(
    "older",
    [
        lambda a, b, c: Route(3, 1, a, b, 100),
        lambda a, b, c: Route(3, 0, a),
        lambda a, b, c: Route(2, 9, a, b, 9000),
        lambda a, b, c: Route(1, 0, c),
    ],
)
def test_an_older_step_or_generation_is_refused(holder, follow, three, older):
    a, b, c = three
    route = Route(3, 2, a, b, 5000)
    follow(route)
    assert follow(older(a, b, c)).route == route
    assert "older" in holder.problem


@pytest.mark.parametrize(
    "other",
    [
        lambda a, b, c: Route(3, 2, a, c, 5000),
        lambda a, b, c: Route(3, 3, a, c, 5000),
        lambda a, b, c: Route(3, 3, c, b, 5000),
        lambda a, b, c: Route(3, 2, a, b, 6000),
    ],
)
def test_other_releases_or_weights_of_a_known_step_are_another_ledgers(holder, follow, three, other):
    a, b, c = three
    route = Route(3, 2, a, b, 5000)
    follow(route)
    assert follow(other(a, b, c)).route == route
    assert "generation 3" in holder.problem


def test_a_load_that_hangs_keeps_nobody_from_a_rollback_and_is_not_begun_twice(source, three, monkeypatch):
    a, b, c = three
    monkeypatch.setattr(releases, "LOAD_SECONDS", 0.05)
    hanging, begun, now = threading.Event(), [], [0.0]

    def load(digest, artifacts):
        begun.append(digest)
        if digest == b:
            hanging.wait(10)
        return load_release(
            digest, artifacts, make_scorer=OnnxScorer, open_reader=lambda plan: MemoryReader({}, [0, 0]), width=3
        )

    holder = ReleaseHolder(
        source, load, on_equal_terms=on_equal_terms, on_event=MemoryObserver().event, clock=lambda: now[0]
    )

    def look(route):
        source.wanted = route
        now[0] += 10
        holder.poll()
        return holder.routing.route

    look(Route(1, 0, a))
    assert look(Route(2, 1, a, b, 5000)) == look(Route(2, 1, a, b, 5000)) == Route(2, 0, a)
    assert "load" in holder.problem
    assert look(Route(3, 0, c)) == Route(3, 0, c)
    assert begun == [a, b, c]
    hanging.set()
    assert releases_soon(lambda: look(Route(4, 1, c, b, 5000)) == Route(4, 1, c, b, 5000))
    assert begun == [a, b, c]


def test_what_is_loaded_after_the_ledger_gave_it_up_is_let_go(source, three, monkeypatch):
    a, b, _ = three
    monkeypatch.setattr(releases, "LOAD_SECONDS", 0.05)
    hanging, loaded = threading.Event(), []

    def load(digest, artifacts):
        if digest == b:
            hanging.wait(10)
        release = load_release(
            digest, artifacts, make_scorer=OnnxScorer, open_reader=lambda plan: MemoryReader({}, [0, 0]), width=3
        )
        loaded.append(weakref.ref(release))
        return release

    holder = ReleaseHolder(source, load, on_equal_terms=on_equal_terms, on_event=MemoryObserver().event)
    for route in (Route(1, 0, a), Route(2, 1, a, b, 5000), Route(3, 0, a)):
        source.wanted = route
        holder.poll()
    hanging.set()
    assert releases_soon(lambda: len(loaded) == 2)
    assert releases_soon(lambda: (holder.poll(), gc.collect(), loaded[1]() is None)[-1])
    assert holder.routing.route == Route(3, 0, a)


def releases_soon(condition):
    return any(condition() or threading.Event().wait(0.02) for _ in range(200))


def test_whatever_the_ledger_says_the_order_only_grows_and_what_is_applied_is_loaded(holder, source, follow, three):
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    newest = (0, 0)
    for _ in range(300):
        generation, step = dice.randrange(1, 9), dice.randrange(3)
        serving, candidate = dice.sample(three, 2)
        route = Route(generation, step, serving, candidate if step else None, 5000 if step else 0)
        mend = break_artifact(source, dice.choice(three)) if dice.random() < 0.3 else lambda: None
        holder.now[0] += dice.choice([0, 10])
        source.unreachable = dice.random() < 0.1
        routing = follow(route)
        mend()
        if routing is None:
            continue
        assert routing.route.order >= newest
        newest = routing.route.order
        assert digests(routing) == list(routing.route.releases)
        if routing.route != route:
            assert holder.problem
