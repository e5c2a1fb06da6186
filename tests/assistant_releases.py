"""Releases of an assistant to work with: `number` makes the index build, `prompt` the prompt's version differ."""

import json

from plinth.core.assistants import (
    AssistantConfig,
    Chunking,
    Embedding,
    Generator,
    Guardrails,
    IndexRef,
    Prompt,
    Retrieval,
)
from plinth.core.digests import digest_bytes
from plinth.core.gates import Verdict
from plinth.core.releases import AssistantRef, CodeRef, DataRef, EmbeddingRef, GeneratorRef, PromptRef, ReleaseManifest
from plinth.generation.prompts import prompt_digest

PRODUCT = "docs-assistant"


def build_id(number):
    return f"{number:016x}"


def config(number=1, *, prompt=1, retrieval=None, generator=None, guardrails=None):
    chunking = Chunking()
    index = IndexRef(
        build=build_id(number), checksum={"public": "c" * 64}, chunks={"public": 12}, documents=3, dimension=4,
        embedding="e" * 64, chunking=chunking.digest,
    )  # fmt: skip
    return AssistantConfig(
        chunking=chunking, embedding=Embedding(), embedding_digest="e" * 64, retrieval=retrieval or Retrieval(),
        generator=generator or Generator(), guardrails=guardrails or Guardrails(), index=index,
        prompts=(
            Prompt(
                name="answer", version=str(prompt), template=f"{prompt} {{{{ question }}}}", variables=("question",)
            ),
        ),
    )  # fmt: skip


def as_bytes(made):
    return json.dumps(made.model_dump(mode="json"), sort_keys=True).encode()


def manifest(number=1, *, made=None, passed=True, product=PRODUCT, created=None, prompt=1):
    made = made or config(number, prompt=prompt)
    primary = made.generator.primary
    return ReleaseManifest(
        product=product,
        assistant=AssistantRef(
            index=made.index,
            embedding=EmbeddingRef(provider="minilm", model=made.embedding.model, digest=made.embedding_digest),
            chunking=made.chunking.digest,
            retrieval=made.retrieval.digest,
            prompts=tuple(
                PromptRef(name=p.name, version=p.version, digest=prompt_digest(p.template, p.variables))
                for p in made.prompts
            ),
            generator=GeneratorRef(provider=primary.provider, model=primary.model, digest=made.generator.digest),
            guardrails=made.guardrails.digest,
        ),
        contracts=(),
        data=(DataRef(name="docs", role="train", start="2026-01-01", end="2026-01-01", rows=3, digest="d" * 64),),
        code=CodeRef(commit="0" * 40, dirty=False),
        artifacts={"assistant.json": digest_bytes(as_bytes(made))},
        metrics={"recall@6": 0.9, "groundedness": 0.95},
        verdicts=(Verdict(gate="retrieval", passed=passed, observed=0.9, bound=0.8, reason="recall@6 .9"),),
        created_at=created or f"2026-01-01T00:00:{number:02d}+00:00",
        pipeline_run=f"pipeline{number}",
    )
