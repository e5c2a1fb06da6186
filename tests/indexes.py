"""A small corpus, an embedding model that counts words, and a store in memory, for tests of index builds."""

import hashlib
import re

import numpy as np

from plinth.core.answers import Hit
from plinth.core.corpus import Chunk
from plinth.core.digests import digest_json
from plinth.errors import Conflict, NotFound, Unavailable
from plinth.retrieval.port import Point, Sides, SparseVector

WORD = re.compile(r"\w+")


def words(text):
    return WORD.findall(text.lower())


def token_id(word):
    return int.from_bytes(hashlib.sha256(word.encode()).digest()[:4])


class CountingEmbedder:
    """Words hashed into a vector: texts with the same words are near. Remembers what it embedded."""

    max_tokens = 256

    def __init__(self, dimension=64, seed="a", fails_after=None):
        self.name, self.dimension, self.seed = f"counting-{seed}", dimension, seed
        self.digest = digest_json(["counting", dimension, seed])
        self.embedded = []
        self.fails_after = fails_after

    def embed_documents(self, texts, on_progress=None):
        if self.fails_after is not None and len(self.embedded) >= self.fails_after:
            raise Unavailable("the endpoint does not answer", where="test")
        self.embedded += texts
        return np.array([self._vector(text) for text in texts], dtype=np.float32).reshape(len(texts), self.dimension)

    def embed_query(self, text):
        return self._vector(text)

    def count_tokens(self, text):
        return len(words(text))

    def _vector(self, text):
        vector = np.zeros(self.dimension, dtype=np.float32)
        for word in words(text):
            vector[token_id(self.seed + word) % self.dimension] += 1.0
        vector[0] += 0.01  # a text without words has a direction too
        return vector / np.linalg.norm(vector)


class Words:
    """Each word with weight 1."""

    def __init__(self, avg_len):
        self.avg_len = avg_len

    def encode_document(self, text):
        ids = sorted({token_id(word) for word in words(text)})
        return SparseVector(tuple(ids), (1.0,) * len(ids))

    encode_query = encode_document

    def length(self, text):
        return float(len(words(text)))


class MemoryIndex:
    def __init__(self, build, dimension, points):
        self.build, self.dimension, self._points = build, dimension, list(points)

    def search(self, query, scope, limit):
        inside = [point for point in self._points if scope.holds(point.chunk)]
        dense = sparse = ()
        if query.dense is not None:
            dense = self._best(inside, lambda point: float(point.dense @ query.dense), limit)
        if query.sparse is not None:
            asked = set(query.sparse.indices)
            sparse = self._best(inside, lambda point: float(len(asked & set(point.sparse.indices))), limit)
        return Sides(dense, tuple(hit for hit in sparse if hit.score > 0))

    @staticmethod
    def _best(points, score, limit):
        ranked = sorted(((score(point), point.chunk) for point in points), key=lambda pair: -pair[0])
        return tuple(Hit(chunk, value) for value, chunk in ranked[:limit])

    def count(self, scope=None):
        return sum(scope is None or scope.holds(point.chunk) for point in self._points)

    def points(self, tenant=None):
        return (point for point in self._points if tenant is None or point.chunk.tenant == tenant)

    def close(self):
        pass


class MemoryStore:
    """Builds in a dict. `before` is called with the verb and the build before anything happens: to fail there."""

    def __init__(self):
        self.kept, self.aliases = {}, {}
        self.before = lambda verb, build: None

    def create(self, build, dimension):
        self.before("create", build)
        if self.kept.get(build, {}).get("complete"):
            raise Conflict("complete already", where=build)
        self.kept[build] = {"complete": False, "dimension": dimension, "points": {}}

    def add(self, build, points):
        self.before("add", build)
        self.kept[build]["points"] |= {point.chunk.id: point for point in points}

    def complete(self, build):
        self.before("complete", build)
        self.kept[build]["complete"] = True

    def builds(self):
        return {build: kept["complete"] for build, kept in self.kept.items()}

    def verify(self, build):
        self.before("verify", build)
        self.open(build)

    def open(self, build):
        if build not in self.kept:
            raise NotFound(f"no build {build}", where="memory")
        if not self.kept[build]["complete"]:
            raise Conflict(f"build {build} is not complete", where="memory")
        return MemoryIndex(build, self.kept[build]["dimension"], self.kept[build]["points"].values())

    def drop(self, build):
        self.kept.pop(build, None)

    def remove_tenant(self, build, tenant):
        points = self.kept[build]["points"]
        gone = [key for key, point in points.items() if point.chunk.tenant == tenant]
        for key in gone:
            del points[key]
        return len(gone)

    def set_alias(self, name, build):
        self.aliases[name] = build

    def alias(self, name):
        return self.aliases.get(name)

    def damage(self, build, change):
        """Replace every point by `change(point)`; None removes it."""
        points = [change(point) for point in self.kept[build]["points"].values()]
        self.kept[build]["points"] = {str(place): point for place, point in enumerate(points) if point is not None}


def chunk(number, text="", tenant="public", document="", labels=(), source="docs"):
    document = document or f"{source}/page-{number}.md"
    text = text or f"Page {number} tells about subject{number} and thing{number * 7} in words{number % 5}."
    return Chunk(
        document=document, version=digest_json([document, text]), source=source, title=f"Page {number}",
        headings=("Start",), text=text, position=0, tenant=tenant, labels=labels, modified=1_700_000_000.0 + number,
    )  # fmt: skip


def corpus(size, **more):
    return [chunk(number, **more) for number in range(size)]


__all__ = ["CountingEmbedder", "MemoryStore", "Point", "Words", "chunk", "corpus"]
