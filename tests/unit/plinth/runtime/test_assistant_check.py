"""Every invariant of assistants is seen when it is broken, and `fsck --repair` mends what is safe."""

import json

import pytest

from assistant_releases import PRODUCT, as_bytes, config, manifest
from indexes import CountingEmbedder, MemoryStore, Words, corpus
from plinth.assistants import builds, freshness, records, tenants
from plinth.core.assistants import Chunking, Retrieval
from plinth.core.findings import violations
from plinth.errors import Corrupt, Unavailable
from plinth.generation.memory import MemoryPrompts
from plinth.rollouts.projection import align
from plinth.rollouts.targets import Targets
from plinth.runtime.assistant_check import HOLDS, check_assistants
from plinth.runtime.fsck import check
from plinth.serving.memory_backend import MemoryBackend
from plinth.settings import Settings
from plinth.wiring import Platform

PROMPT = f"{PRODUCT}.answer"
SOURCES = {"docs": records.SourceRecord(as_of="2026-01-01T00:00:00+00:00", documents=1, chunks=1)}


class Ports:
    def __init__(self):
        self.index, self.prompts = MemoryStore(), MemoryPrompts()

    def store(self, product):
        return self.index


@pytest.fixture
def platform(tmp_path):
    """Two accepted releases, of which the first serves, with builds, prompts, freshness and a tenant."""
    platform = Platform.from_settings(Settings(home=tmp_path, state=tmp_path / "state", actor="ada"))
    platform.__dict__["assistants"] = ports = Ports()
    platform.__dict__["backend"] = MemoryBackend()
    (tmp_path / "services" / PRODUCT).mkdir(parents=True)
    (tmp_path / "services" / PRODUCT / "product.yaml").write_text("name: is only listed here")
    (tmp_path / "state" / "mlflow").mkdir(parents=True)
    (tmp_path / "state" / "mlflow" / "mlflow.db").touch()
    platform.state = platform.settings.product_dir(PRODUCT)
    engine = builds.Engine(CountingEmbedder(), Words, ports.index)
    platform.made, platform.releases = [], []
    for number in (1, 2):
        ports.prompts.register(PROMPT, f"{number} {{{{ question }}}}", ["question"])
        with builds.alone(platform.state):
            built = builds.make_build(
                platform.state, builds.Contents(corpus(number), SOURCES), engine, Chunking().digest
            )
        made = config(number, prompt=number).model_copy(update={"index": built.record.index})
        platform.artifacts.put_bytes(as_bytes(made))
        platform.made.append(built.record.index.build)
        platform.releases.append(platform.ledger.register_release(manifest(number, made=made), "ada"))
    platform.ledger.promote(PRODUCT, platform.releases[0], expected_generation=0, actor="ada", reason="first")
    align(platform.ledger, platform.aliases_for(PRODUCT), PRODUCT, lambda: True)
    for effect in platform.ledger.pending_effects(PRODUCT):
        platform.ledger.effect_done(effect, "ada")
    platform.backend.routes[PRODUCT] = platform.rollouts.route(PRODUCT)
    freshness.write(platform.state, {"docs": freshness.SourceFreshness("2026-01-01T00:00:00+00:00", 1800)})
    tenants.add(platform.state, "acme")
    yield platform
    platform.ledger.close()


def look(platform, **options):
    ports = platform.assistants
    found = check_assistants(
        platform.ledger, platform.artifacts, ports.store, lambda: ports.prompts, platform.settings.product_dir,
        **options,
    )  # fmt: skip
    return {(finding.invariant, finding.subject) for finding in violations(found)}


def named(platform, number=0):
    return f"{PRODUCT}, release {platform.releases[number][:12]}"


def test_an_assistant_that_is_whole_breaks_nothing(platform):
    found = check(platform)
    assert violations(found) == []
    assert {finding.invariant for finding in found if finding.level == "ok"} >= set(HOLDS)
    assert isinstance(platform.aliases_for(PRODUCT), Targets)


def test_a_build_that_is_gone_is_a_violation_of_every_release_that_pins_it(platform):
    platform.assistants.index.drop(platform.made[1])
    assert look(platform) == {("index.complete", named(platform, 1))}


def test_a_build_that_was_never_completed_is_a_violation(platform):
    platform.assistants.index.kept[platform.made[0]]["complete"] = False
    assert look(platform) == {("index.complete", named(platform))}


def test_a_build_that_nothing_describes_is_a_violation(platform):
    records.forget(platform.state, platform.made[0])
    assert look(platform) == {("index.complete", named(platform))}


def test_a_build_with_another_number_of_chunks_is_seen_when_they_are_counted(platform):
    folder = records.build_folder(platform.state, platform.made[0])
    records.write_file(folder / records.CHUNKS, (folder.parent / platform.made[1] / records.CHUNKS).read_bytes())
    assert look(platform, thorough=False) == set()
    assert look(platform) == {("index.complete", named(platform))}


def test_row_6_a_damaged_build_is_a_violation_though_its_description_is_whole(platform):
    def damaged(verb, build):
        if (verb, build) == ("verify", platform.made[1]):
            raise Corrupt("a file is not what its digest says", where=build)

    platform.assistants.index.before = damaged
    assert look(platform, thorough=False) == set()
    assert look(platform) == {("index.complete", named(platform, 1))}


def test_a_vector_store_that_is_away_is_a_violation(platform, monkeypatch):
    def away():
        raise Unavailable("the vector store is away")

    monkeypatch.setattr(platform.assistants.index, "builds", away)
    assert look(platform) == {("index.complete", PRODUCT)}


def test_a_configuration_that_is_not_what_the_manifest_names_is_a_violation(platform):
    made = config(3)
    platform.artifacts.put_bytes(as_bytes(made))
    wrong = manifest(3, made=made)
    part = wrong.assistant.model_copy(update={"retrieval": Retrieval(limit=9).digest, "index": config(1).index})
    digest = platform.ledger.register_release(wrong.model_copy(update={"assistant": part}), "eve")
    platform.releases.append(digest)
    found = look(platform)
    assert ("assistant.config", named(platform, 2)) in found
    assert ("assistant.config", named(platform)) not in found


def test_a_prompt_that_the_registry_lost_or_has_otherwise_is_a_violation(platform):
    kept = platform.assistants.prompts._versions[PROMPT]
    lost = kept.pop()
    assert look(platform) == {("prompt.pinned", named(platform, 1))}
    platform.assistants.prompts.register(PROMPT, "Something else {{ question }}", ["question"])
    assert kept[-1].version == lost.version
    assert look(platform) == {("prompt.pinned", named(platform, 1))}


def test_a_registry_that_is_gone_is_not_made_anew_to_look_at_prompts(platform, monkeypatch):
    (platform.settings.state_dir / "mlflow" / "mlflow.db").unlink()
    monkeypatch.setattr(platform.assistants, "prompts", None)
    assert {finding.invariant for finding in violations(check(platform))} == {"registry.readable"}


@pytest.mark.parametrize("content", [b"{", b'{"sources": {"docs": {"as_off": 1}}}', b"[]"])
def test_freshness_that_cannot_be_read_is_a_violation(platform, content):
    (platform.state / freshness.FILE).write_bytes(content)
    assert look(platform) == {("freshness.readable", PRODUCT)}


def test_keys_that_others_may_read_are_a_violation_and_are_locked_up(platform):
    path = platform.state / tenants.FILE
    path.chmod(0o644)
    assert look(platform) == {("tenants.private", PRODUCT)}
    found = check(platform, repair=True)
    assert violations(found) == []
    assert [finding.level for finding in found if finding.invariant == "tenants.private"] == ["repaired", "ok"]
    assert path.stat().st_mode & 0o777 == 0o600
    assert platform.ledger.audit(limit=1)[0].action == "fsck.keys"
    path.write_text(json.dumps({"tenants": [{"name": "?"}]}))
    assert look(platform) == {("tenants.private", PRODUCT)}


def test_aliases_that_somebody_moved_are_put_back(platform):
    platform.assistants.index.set_alias(PRODUCT, platform.made[1])
    platform.assistants.prompts.set_alias(PROMPT, "serving", "2")
    assert {finding.invariant for finding in violations(check(platform))} == {"registry.serving"}
    assert violations(check(platform, repair=True)) == []
    assert platform.assistants.index.alias(PRODUCT) == platform.made[0]
    assert platform.assistants.prompts.alias(PROMPT, "serving") == "1"


def test_a_release_that_can_never_serve_needs_no_build(platform):
    made = config(7)
    platform.artifacts.put_bytes(as_bytes(made))
    platform.ledger.register_release(manifest(7, made=made, passed=False), "ada")
    assert look(platform) == set()
