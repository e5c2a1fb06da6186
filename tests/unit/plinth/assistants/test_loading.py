"""A release of an assistant in memory is what it pins, or it is refused."""

import gc
import threading

import pytest

from answering import PRODUCT, PROMPTS, Lab
from indexes import CountingEmbedder, chunk, corpus
from plinth.assistants.loading import Loader, load_assistant
from plinth.assistants.releases import CONFIG
from plinth.core.assistants import Generator
from plinth.errors import Conflict, Corrupt, NotFound, RefusedByPolicy


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path)


def load(lab, digest, **options):
    return load_assistant(digest, lab.source.artifacts(digest), lab.tools, PRODUCT, **options)


def test_a_release_comes_with_everything_that_decides_its_answers(lab):
    config = lab.config()
    loaded = load(lab, lab.register(config))
    assert loaded.config == config
    assert loaded.index.build == config.index.build
    assert loaded.embedder.digest == config.embedding_digest


def test_a_damaged_configuration_is_refused(lab):
    digest = lab.register(lab.config())
    lab.source.artifacts(digest)[CONFIG][0].write_bytes(b"{}")
    with pytest.raises(Corrupt, match="digest"):
        load(lab, digest)


def test_a_configuration_of_other_code_is_refused(lab):
    digest = lab.source.register({CONFIG: b'{"chunking": {}, "new": 1}'})
    with pytest.raises(Corrupt, match="does not fit"):
        load(lab, digest)


def test_another_embedding_model_than_the_index_was_made_with_is_refused(lab):
    digest = lab.register(lab.config())
    lab.tools.embedders.clear()
    lab.tools.embedders["all-MiniLM-L6-v2-int8"] = CountingEmbedder(seed="another")
    with pytest.raises(RefusedByPolicy, match="embedding model"):
        load(lab, digest)


def test_a_model_of_another_dimension_is_refused_even_where_it_has_the_same_digest(lab):
    config = lab.config()
    lab.tools.embedder(config.embedding).dimension = 32
    with pytest.raises(RefusedByPolicy, match="32 numbers"):
        load(lab, lab.register(config))


@pytest.mark.parametrize("change", ["fewer", "another dimension"])
def test_an_index_that_is_not_the_pinned_one_is_refused(lab, change):
    config = lab.config()
    kept = lab.tools.store(PRODUCT).kept[config.index.build]
    if change == "fewer":
        kept["points"].popitem()
    else:
        kept["dimension"] = 32
    with pytest.raises(Corrupt, match="the release pins"):
        load(lab, lab.register(config))


def test_a_tenant_that_was_deleted_since_is_not_missed(lab):
    config = lab.config([*corpus(3), chunk(9, tenant="acme")])
    digest = lab.register(config)
    lab.tools.store(PRODUCT).remove_tenant(config.index.build, "acme")
    with pytest.raises(Corrupt):
        load(lab, digest)
    assert load(lab, digest, without=("acme",)).index.count() == 3


def test_an_unfinished_or_missing_index_is_refused(lab):
    config = lab.config()
    store = lab.tools.store(PRODUCT)
    store.kept[config.index.build]["complete"] = False
    with pytest.raises(Conflict):
        load(lab, lab.register(config))
    store.drop(config.index.build)
    with pytest.raises(NotFound):
        load(lab, lab.register(config))


def test_prompts_that_do_not_fit_are_refused_when_loading_not_when_asking(lab):
    bad = PROMPTS[0].model_copy(update={"template": "--- user ---\n{{ question }}{{ sources }}{{ secret }}"})
    with pytest.raises((Corrupt, RefusedByPolicy)):
        load(lab, lab.register(lab.config(prompts=(bad, PROMPTS[1]))))


def test_releases_share_the_index_and_the_generator_that_they_both_pin(lab):
    loader = Loader(PRODUCT, lab.tools)
    one, two = (
        loader.assemble(
            str(number), lab.config(prompts=tuple(p.model_copy(update={"version": number}) for p in PROMPTS))
        )
        for number in ("1", "2")
    )
    assert one.index is two.index
    assert one.generator is two.generator
    other = loader.assemble("3", lab.config(corpus(5), generator=Generator(max_tokens=10)))
    assert other.index is not one.index
    assert other.generator is not one.generator


def test_a_build_that_hangs_when_it_is_opened_keeps_no_other_release_from_loading(lab):
    loader, entered, go_on = Loader(PRODUCT, lab.tools), threading.Event(), threading.Event()
    good, bad = lab.config(), lab.config(corpus(5))
    store = lab.tools.store(PRODUCT)
    opened = store.open

    def open_build(build):
        if build == bad.index.build:
            entered.set()
            assert go_on.wait(10)
        return opened(build)

    store.open = open_build
    hanging = threading.Thread(target=loader.assemble, args=("bad", bad))
    hanging.start()
    assert entered.wait(10)
    assert loader.assemble("good", good).index.count() == 8
    go_on.set()
    hanging.join()


def test_an_index_is_closed_when_the_last_release_that_uses_it_is_let_go(lab):
    closed = []
    store = lab.tools.store(PRODUCT)
    opened = store.open

    def open_build(build):
        index = opened(build)
        index.close = lambda: closed.append(build)
        return index

    store.open = open_build
    loader, config = Loader(PRODUCT, lab.tools), lab.config()
    one, two = loader.assemble("1", config), loader.assemble("2", config)
    del one
    gc.collect()
    assert closed == []
    assert two.index.count() == 8
    del two
    gc.collect()
    assert closed == [config.index.build]
