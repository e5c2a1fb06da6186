"""State of docs-assistant without its pipeline: real index builds by the real model and engine, and releases of them.

The same documents stand in every build with another `word` in each: an answer shows which build it was made of.
"""

import importlib.util
import sys
from functools import cache

from answering import HOME, PROMPTS, index_of
from plinth.assistants.releases import reference, write_config
from plinth.core.assistants import AssistantConfig, Chunking, Embedding, Generator, Guardrails, Retrieval
from plinth.core.corpus import Chunk
from plinth.core.digests import digest_json
from plinth.core.gates import Verdict
from plinth.core.releases import CodeRef, ReleaseManifest
from plinth.retrieval.bm25 import Bm25Encoder
from plinth.retrieval.port import Point
from plinth.wiring import Platform

PRODUCT = "docs-assistant"
TOPICS = ("harbour", "orchard", "foundry", "archive", "theatre", "brewery", "quarry", "bakery", "chapel", "market")


@cache
def _synthetic():
    spec = importlib.util.spec_from_file_location("synthetic_state", HOME / "tests" / "bench" / "synthetic_state.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def question(topic):
    return f"Which bird lives in the {topic}?"


def documents(word):
    """A document a topic, each of two chunks that say the same word."""
    return [
        Chunk(
            document=f"docs/{topic}.md", version=digest_json([topic, word]), source="docs",
            title=f"The {topic}", headings=(f"Birds of the {topic}",),
            text=f"The bird that lives in the {topic} is the {word}{'' if part == 0 else ', as everybody knows'}.",
            position=part, modified=1_700_000_000.0,
        )
        for topic in TOPICS
        for part in range(2)
    ]  # fmt: skip


class State:
    """A state folder with its ledger."""

    def __init__(self, settings):
        self.platform = Platform.from_settings(settings)
        self.settings = settings
        self.made = 0

    def config(self, chunks, **parts):
        """A configuration over a real index build of these chunks."""
        embedding = Embedding()
        embedder = self.platform.assistants.embedder(embedding)
        index = index_of(chunks, embedder)
        store = self.platform.assistants.store(PRODUCT)
        if index.build not in store.builds():
            encoder = Bm25Encoder(12.0)
            vectors = embedder.embed_documents([chunk.indexed_text for chunk in chunks])
            sparse = [encoder.encode_document(chunk.indexed_text) for chunk in chunks]
            store.create(index.build, embedder.dimension)
            store.add(index.build, [Point(*point) for point in zip(chunks, vectors, sparse, strict=True)])
            store.complete(index.build)
        given = {
            "chunking": Chunking(), "embedding": embedding, "embedding_digest": index.embedding,
            "retrieval": Retrieval(limit=4), "generator": Generator(), "guardrails": Guardrails(), "prompts": PROMPTS,
            "index": index,
        }  # fmt: skip
        return AssistantConfig(**{**given, **parts})

    def register(self, config):
        self.made += 1
        verdict = Verdict(gate="retrieval", passed=True, observed=0.9, bound=0.8, reason="made for a test")
        manifest = ReleaseManifest(
            product=PRODUCT, assistant=reference(config), contracts=(), data=(),
            code=CodeRef(commit="0" * 40, dirty=False),
            artifacts={"assistant.json": write_config(self.platform.artifacts, config)}, verdicts=(verdict,),
            created_at=f"2026-01-01T00:00:{self.made:02d}+00:00", pipeline_run=f"run{self.made}",
        )  # fmt: skip
        return self.platform.ledger.register_release(manifest, "maker")

    def promote(self, digest):
        ledger = self.platform.ledger
        current = ledger.current(PRODUCT)
        return ledger.promote(
            PRODUCT, digest, expected_generation=current.generation if current else 0, actor="boss", reason="a test"
        )

    def start(self, port):
        command = [sys.executable, "-m", "docs_assistant.service", "--port", str(port)]
        return _synthetic().ServiceProcess(self.settings.state_dir, port, command=command)
