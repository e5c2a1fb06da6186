"""Faults for drills are real: what is found is wrong, what generates is not there."""

import numpy as np
import pytest

from assistant_releases import config
from indexes import CountingEmbedder, MemoryStore, Words, chunk, corpus
from plinth.assistants import builds, records
from plinth.assistants.faulty import ASSISTANT_FAULTS, NOBODY, make_faulty_assistant
from plinth.assistants.loading import check_index
from plinth.cli.rollout import ASSISTANT_FAULTS as TOLD
from plinth.core.assistants import AssistantConfig, Chunking
from plinth.core.corpus import Scope
from plinth.errors import Conflict, InvalidInput, Unavailable
from plinth.retrieval.port import Query

SLOW = "http://127.0.0.1:8080/v1"
SOURCES = {"docs": records.SourceRecord(as_of="2026-01-01T00:00:00+00:00", documents=1, chunks=1)}


@pytest.fixture
def store():
    return MemoryStore()


@pytest.fixture
def good(tmp_path, store):
    engine = builds.Engine(CountingEmbedder(), Words, store)
    with builds.alone(tmp_path):
        made = builds.make_build(tmp_path, builds.Contents(corpus(20), SOURCES), engine, Chunking().digest)
    return config(1).model_copy(update={"index": made.record.index})


def test_the_command_offers_the_faults_there_are():
    assert TOLD == ASSISTANT_FAULTS


@pytest.mark.parametrize("fault", ASSISTANT_FAULTS)
def test_whatever_the_fault_a_service_would_load_it(tmp_path, store, good, fault):
    made = make_faulty_assistant(fault, good, store, tmp_path, slow=SLOW)
    assert AssistantConfig.model_validate_json(made.model_dump_json()) == made
    check_index(made, store.open(made.index.build))
    assert (made == good) == (fault == "missing-metrics")


def test_in_a_bad_index_no_chunk_is_found_by_what_it_says(tmp_path, store, good):
    made = make_faulty_assistant("bad-index", good, store, tmp_path, slow=SLOW)
    assert made.index.build != good.index.build
    index, embedder, words = store.open(made.index.build), CountingEmbedder(), Words(1.0)
    for point in index.points():
        text = point.chunk.indexed_text
        assert not np.allclose(point.dense, embedder.embed_query(text))
        sides = index.search(Query(embedder.embed_query(text), words.encode_query(text)), Scope(), 1)
        assert point.chunk.id not in {hit.chunk.id for hit in (*sides.dense, *sides.sparse)}
    assert index.count() == 20
    assert records.described(tmp_path)[0].index.build == good.index.build, "no later build may take its vectors"


def test_a_bad_index_names_no_tenant_that_was_deleted(tmp_path, store):
    engine = builds.Engine(CountingEmbedder(), Words, store)
    theirs = [chunk(number, tenant="acme", document=f"docs/acme-{number}") for number in range(3)]
    with builds.alone(tmp_path):
        made = builds.make_build(tmp_path, builds.Contents([*corpus(5), *theirs], SOURCES), engine, Chunking().digest)
    store.remove_tenant(made.record.index.build, "acme")
    good = config(1).model_copy(update={"index": made.record.index})
    bad = make_faulty_assistant("bad-index", good, store, tmp_path, slow=SLOW)
    assert bad.index.chunks == {"public": 5}
    check_index(bad, store.open(bad.index.build))


def test_a_generator_that_is_not_there_has_nobody_behind_it(tmp_path, store, good):
    made = make_faulty_assistant("errors", good, store, tmp_path, slow=SLOW)
    assert made.generator.primary.base_url == NOBODY
    assert (made.generator.fallback, made.generator.retries) == (None, 0)


def test_a_slow_generator_has_the_limits_of_the_good_one(tmp_path, store, good):
    made = make_faulty_assistant("latency", good, store, tmp_path, slow=SLOW).generator
    assert made.primary.base_url == SLOW
    assert (made.timeout, made.max_tokens) == (good.generator.timeout, good.generator.max_tokens)


def test_a_build_that_fails_in_the_middle_leaves_nothing(tmp_path, store, good):
    before = dict(store.builds())

    def full(verb, build):
        if verb == "complete":
            raise Unavailable("the disk is full")

    store.before = full
    with pytest.raises(Unavailable):
        make_faulty_assistant("bad-index", good, store, tmp_path, slow=SLOW)
    assert store.builds() == before


def test_a_drill_waits_for_no_build_and_disturbs_none(tmp_path, store, good):
    with builds.alone(tmp_path), pytest.raises(Conflict):
        make_faulty_assistant("bad-index", good, store, tmp_path, slow=SLOW)


def test_faults_of_models_are_refused(tmp_path, store, good):
    with pytest.raises(InvalidInput, match="no fault 'skew'"):
        make_faulty_assistant("skew", good, store, tmp_path, slow=SLOW)
