"""An assistant's service in memory: releases over builds of `indexes`, a generator that says what a test wants."""

import asyncio
import json
from types import SimpleNamespace

from indexes import CountingEmbedder, MemoryStore, Words, corpus
from plinth.assistants.releases import CONFIG
from plinth.assistants.service import AnswerService
from plinth.core.answers import Usage
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
from plinth.core.corpus import checksum
from plinth.core.digests import canonical_json, digest_json
from plinth.core.manifests import parse_product
from plinth.core.routes import Route
from plinth.generation.extractive import ExtractiveGenerator
from plinth.generation.port import Piece
from plinth.guardrails.engine import PolicyGuard
from plinth.privacy.personal import PersonalData
from plinth.privacy.secrets import Secrets
from plinth.retrieval.port import Point
from plinth.serving.memory import MemoryObserver, MemoryReleases, MemorySink
from plinth.settings import find_home

PRODUCT = "docs-assistant"
HOME = find_home()
PROMPTS = (
    Prompt(
        name="answer", version="1", variables=("question", "sources"),
        template="--- system ---\nCite.\n--- user ---\n{{ sources }}\n<question>{{ question }}</question>\n",
    ),
    Prompt(
        name="source", version="1", variables=("number", "title", "headings", "text"),
        template='<source id="{{ number }}">\n<title>{{ title }}{% for h in headings %} > {{ h }}{% endfor %}</title>\n'
        "{{ text }}\n</source>",
    ),
)  # fmt: skip


def product():
    folder = HOME / "services" / PRODUCT
    return parse_product((folder / "product.yaml").read_text(encoding="utf-8"), str(folder / "product.yaml"))


def index_of(chunks, embedder):
    """What a build of these chunks is, as a release pins it."""
    tenants = {}
    for one in chunks:
        tenants.setdefault(one.tenant, []).append(one)
    sums = {tenant: checksum(own) for tenant, own in sorted(tenants.items())}
    return IndexRef(
        build=digest_json([embedder.digest, sums])[:16], checksum=sums,
        chunks={tenant: len(own) for tenant, own in sorted(tenants.items())},
        documents=len({(one.tenant, one.document) for one in chunks}), dimension=embedder.dimension,
        embedding=embedder.digest, chunking=Chunking().digest,
    )  # fmt: skip


class Saying:
    """A generator that says these pieces, whatever it is asked; an exception among them is raised."""

    name = "saying"

    def __init__(self, *pieces, usage=None, wait=0.0):
        self.pieces, self.usage, self.wait = pieces, usage or Usage(10, 5, 0.001), wait
        self.asked, self.closed, self.given = 0, 0, []

    async def stream(self, request):
        self.asked += 1
        self.given.append(request)
        try:
            for piece in self.pieces:
                await asyncio.sleep(self.wait)
                if isinstance(piece, Exception):
                    raise piece
                yield Piece(piece)
            yield Piece("", self.usage, self.name)
        finally:
            self.closed += 1


class LabTools:
    """The tools of a profile in memory. `generators` maps a model's name to a generator; others quote."""

    def __init__(self):
        self.embedders = {}
        self.stores = {}
        self.generators = {}
        self.personal_data, self.secrets = PersonalData(), Secrets()

    def embedder(self, spec):
        return self.embedders.setdefault(spec.model, CountingEmbedder(seed=spec.model))

    def sparse(self, avg_len):
        return Words(avg_len)

    def store(self, product):
        return self.stores.setdefault(product, MemoryStore())

    def reranker(self, spec):
        return None

    def generator(self, spec, embedder):
        return self.generators.get(spec.primary.model) or ExtractiveGenerator()

    def guard(self, policy):
        return PolicyGuard(policy, self.personal_data, self.secrets)


class Lab:
    """Builds and releases to answer from."""

    def __init__(self, folder):
        (folder / "releases").mkdir(exist_ok=True)
        self.folder = folder
        self.tools = LabTools()
        self.source = MemoryReleases(folder / "releases")
        self.generation = 0

    def build(self, chunks, embedding=None):
        embedding = embedding or Embedding()
        embedder, words = self.tools.embedder(embedding), Words(1.0)
        ref = index_of(chunks, embedder)
        store = self.tools.store(PRODUCT)
        if ref.build not in store.kept:
            vectors = embedder.embed_documents([chunk.indexed_text for chunk in chunks])
            store.create(ref.build, embedder.dimension)
            sparse = [words.encode_document(chunk.indexed_text) for chunk in chunks]
            store.add(ref.build, [Point(*point) for point in zip(chunks, vectors, sparse, strict=True)])
            store.complete(ref.build)
        return ref

    def config(self, chunks=None, *, saying=None, **parts):
        """`saying`: a generator of its own; `parts`: fields of AssistantConfig."""
        embedding = parts.get("embedding", Embedding())
        generator = parts.pop("generator", Generator())
        if saying is not None:
            name = f"saying-{len(self.tools.generators)}"
            self.tools.generators[name] = saying
            generator = generator.model_copy(update={"primary": generator.primary.model_copy(update={"model": name})})
        index = self.build(chunks if chunks is not None else corpus(8), embedding)
        given = {
            "chunking": Chunking(), "embedding": embedding, "embedding_digest": index.embedding,
            "retrieval": Retrieval(limit=4), "generator": generator, "guardrails": Guardrails(), "prompts": PROMPTS,
            "index": index,
        }  # fmt: skip
        return AssistantConfig(**{**given, **parts})

    def register(self, config):
        return self.source.register({CONFIG: canonical_json(config.model_dump(mode="json"))})

    def promote(self, config):
        digest = self.register(config)
        self.generation += 1
        self.source.wanted = Route(self.generation, 0, digest)
        return digest

    def roll_out(self, config, weight=5000, *, shadow=False, step=1):
        digest = self.register(config)
        self.generation += 1
        self.source.wanted = Route(self.generation, step, self.source.wanted.serving, digest, weight, shadow)
        return digest

    def service(self, **options):
        sink, requests, observer = MemorySink(), MemorySink(), AnswerWitness()
        service = AnswerService(
            product(), self.folder, self.source, self.tools, sink=sink, request_sink=requests, observer=observer,
            pages={"/": (b"<p>hello", "text/html")}, **{"max_body": 20_000, "body_timeout": 0.2, **options},
        )  # fmt: skip
        service.start()
        return SimpleNamespace(
            lab=self, service=service, sink=sink, requests=requests, observer=observer, call=Client(service.app)
        )


class AnswerWitness(MemoryObserver):
    """Keeps what it is told of answers, too."""

    def __init__(self):
        super().__init__()
        self.answers = []

    def answered(self, **fields):
        self.answers.append(fields)
        return "t" * 32


class Client:
    """Speaks ASGI to an application, without a socket. `leave_after`: goes away after so many body messages."""

    def __init__(self, app):
        self.app = app

    def __call__(self, method, path, body=b"", headers=None, **options):
        return asyncio.run(self.send(method, path, body, headers, **options))

    def post(self, path, body, key=None, **options):
        return self("POST", path, body, {"authorization": f"Bearer {key}"} if key else None, **options)

    async def send(self, method, path, body=b"", headers=None, *, query=b"", leave_after=None):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {"host": "127.0.0.1:3002", "content-type": "application/json", **(headers or {})}
        sent, left, whole = [], asyncio.Event(), [{"type": "http.request", "body": data, "more_body": False}]
        if leave_after == 0:
            left.set()

        async def receive():
            if whole:
                return whole.pop()
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)
            if leave_after is not None and len(sent) > leave_after:
                left.set()

        scope = {
            "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": query,
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in given.items()],
        }  # fmt: skip
        await self.app(scope, receive, send)
        await asyncio.sleep(0)  # what was scheduled for after the answer
        text = b"".join(message.get("body", b"") for message in sent[1:])
        answered = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        is_json = answered["content-type"].startswith("application/json") and text
        return SimpleNamespace(
            status=sent[0]["status"],
            headers=answered,
            text=text.decode(),
            json=json.loads(text) if is_json else None,
            parts=[message["body"] for message in sent[1:]],
        )


def events(text):
    """Name and data of each Server-Sent Event."""
    found = []
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        found.append((fields.get("event", ""), json.loads(fields["data"]) if fields["data"] != "[DONE]" else "[DONE]"))
    return found
