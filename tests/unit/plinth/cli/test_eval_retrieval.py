"""`plinth eval retrieval` from the command line."""

import json
import zlib

import numpy as np
import pytest

from plinth.cli.main import main
from plinth.wiring.assistants import AssistantPorts


class Words:
    """Each word has a direction; a text is the sum of its words'."""

    name, dimension, max_tokens, digest = "words", 32, 1000, "d" * 64

    def embed_query(self, text):
        total = np.full(self.dimension, 1e-3)
        for word in text.lower().split():
            total += np.random.default_rng(zlib.crc32(word.encode())).normal(size=self.dimension)
        return (total / np.linalg.norm(total)).astype(np.float32)

    def embed_documents(self, texts, on_progress=None):
        return np.stack([self.embed_query(text) for text in texts])


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    monkeypatch.setenv("PLINTH_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(AssistantPorts, "embedder", lambda self, spec: Words())
    folder = tmp_path / "animals"
    folder.mkdir()
    for name, items in (
        ("corpus", [{"_id": f"d{n}", "title": f"animal{n}", "text": f"kind{n % 3} lives there"} for n in range(30)]),
        (
            "queries",
            [{"_id": "q1", "text": "animal7"}, {"_id": "q2", "text": "kind1"}, {"_id": "q3", "text": "unjudged"}],
        ),
    ):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    judged = ["q1\td7\t1", *(f"q2\td{n}\t1" for n in range(30) if n % 3 == 1)]
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(judged) + "\n")
    return folder


def test_json_has_the_modes_and_their_numbers(dataset, capsys):
    assert main(["eval", "retrieval", "--dataset", str(dataset), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["dataset"] == "animals"
    assert set(found["modes"]) == {"dense", "sparse", "hybrid"}
    for numbers in found["modes"].values():
        assert set(numbers) == {"ndcg@10", "recall@100", "mrr", "p50_ms", "p95_ms"}
        assert numbers["ndcg@10"] == pytest.approx(1.0)
    assert (found["documents"], found["queries"], found["skipped_queries"]) == (30, 2, 1)
    assert found["differences"]["hybrid-dense"]["ndcg@10"]["n"] == 2


def test_people_get_a_table_intervals_and_what_was_left_out(dataset, capsys):
    assert main(["eval", "retrieval", "--dataset", str(dataset)]) == 0
    shown = capsys.readouterr()
    assert "hybrid over sparse" in shown.out
    assert "nDCG@10" in shown.out
    assert "1 queries have no relevant document" in shown.err


def test_one_mode_alone(dataset, capsys):
    assert main(["eval", "retrieval", "--dataset", str(dataset), "--mode", "sparse", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["modes"]) == {"sparse"}
    assert found["differences"] == {}


def test_a_wrong_folder_or_line_is_bad_use(dataset, capsys):
    assert main(["eval", "retrieval", "--dataset", str(dataset / "nowhere")]) == 2
    (dataset / "corpus.jsonl").write_text("{\n")
    assert main(["eval", "retrieval", "--dataset", str(dataset)]) == 2
    assert "corpus.jsonl:1" in capsys.readouterr().err
