"""Reading collections in the BEIR layout, good and bad ones."""

import json

import pytest

from plinth.errors import InvalidInput, NotFound
from plinth.retrieval.beir import read_collection

CORPUS = [
    {"_id": "1", "title": "Wing", "text": "of a plane"},
    {"_id": "2", "text": "no title"},
    {"_id": "3", "text": ""},
]
QUERIES = [{"_id": "q1", "text": "what flies"}, {"_id": "q2", "text": "nobody judged"}]
QRELS = "query-id\tcorpus-id\tscore\nq1\t1\t2\nq1\t2\t0\n"


def lines(items, end="\n"):
    return end.join(json.dumps(item) for item in items) + end


@pytest.fixture
def write(tmp_path):
    def write(corpus=None, queries=None, qrels=QRELS, where="qrels.tsv"):
        for name, content in (
            ("corpus.jsonl", lines(CORPUS) if corpus is None else corpus),
            ("queries.jsonl", lines(QUERIES) if queries is None else queries),
            (where, qrels),
        ):
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path

    return write


def test_title_and_text_are_one_and_either_may_be_missing(write):
    found = read_collection(write())
    assert found.documents == {"1": "Wing\nof a plane", "2": "no title", "3": ""}
    assert found.queries == {"q1": "what flies"}
    assert found.judged == {"q1": {"1": 2, "2": 0}}


def test_queries_without_a_relevant_document_are_left_out_and_counted(write):
    found = read_collection(write(qrels=QRELS + "q2\t1\t0\n"))
    assert set(found.queries) == {"q1"}
    assert found.skipped_queries == 1


@pytest.mark.parametrize(
    "qrels",
    [
        "q1\t1\t2\nq1\t2\t0\n",
        "query-id\tcorpus-id\tscore\r\nq1\t1\t2\r\nq1\t2\t0\r\n",
        "\ufeffquery-id\tcorpus-id\tscore\nq1\t1\t2\nq1\t2\t0",
        "q1 0 1 2\nq1 0 2 0\n",
        "q1\t1\t2.0\n\nq1\t2\t0\n",
    ],
)
def test_headers_line_ends_and_columns_of_the_wild(write, qrels):
    assert read_collection(write(qrels=qrels)).judged == {"q1": {"1": 2, "2": 0}}


def test_crlf_and_numbers_as_ids(write):
    corpus = lines([{"_id": 1, "title": None, "text": "a"}], "\r\n")
    found = read_collection(write(corpus=corpus, qrels="q1\t1\t1\n"))
    assert found.documents == {"1": "a"}


def test_the_split_test_of_a_qrels_folder_is_read(write):
    assert read_collection(write(where="qrels/test.tsv")).judged == {"q1": {"1": 2, "2": 0}}


def test_judgements_of_unknown_documents_and_queries_are_counted(write):
    found = read_collection(write(qrels=QRELS + "q1\t99\t1\nq9\t1\t1\n"))
    assert (found.unknown_documents, found.unknown_queries) == (1, 1)
    assert found.judged["q1"]["99"] == 1


@pytest.mark.parametrize(
    ("content", "where", "what"),
    [
        ({"corpus": lines(CORPUS) + "{\n"}, "corpus.jsonl:4", "not JSON"),
        ({"corpus": lines(CORPUS[:1] * 2)}, "corpus.jsonl:2", "twice"),
        ({"corpus": '{"text": "a"}\n'}, "corpus.jsonl:1", "no _id"),
        ({"corpus": '["a"]\n'}, "corpus.jsonl:1", "no _id"),
        ({"corpus": '{"_id": "1"}\n'}, "corpus.jsonl:1", "no text"),
        ({"corpus": '{"_id": "1", "text": 7}\n'}, "corpus.jsonl:1", "no text"),
        ({"queries": b'{"_id": "1", "text": "\xff"}\n'}, "queries.jsonl:1", "UTF-8"),
        ({"corpus": '{"_id": "1", "text": "a \\ud800 b"}\n'}, "corpus.jsonl:1", "lone surrogate"),
        ({"qrels": QRELS + "q1 1\n"}, "qrels.tsv:4", "no judgement"),
        ({"qrels": QRELS + "q1\t1\thigh\n"}, "qrels.tsv:4", "no judgement"),
        ({"qrels": QRELS + "q1\t1\t0.5\n"}, "qrels.tsv:4", "whole number"),
        ({"qrels": QRELS + "q1\t1\tinf\n"}, "qrels.tsv:4", "whole number"),
        ({"qrels": ""}, "qrels.tsv", "no query"),
        ({"corpus": ""}, "", "no document"),
    ],
)
def test_errors_name_file_and_line(write, content, where, what):
    with pytest.raises(InvalidInput, match=what) as caught:
        read_collection(write(**content))
    assert caught.value.where.endswith(where)


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels.tsv"])
def test_a_missing_file_is_named(write, name):
    folder = write()
    (folder / name).unlink()
    with pytest.raises(NotFound, match=name):
        read_collection(folder)


def test_a_missing_folder_is_said(tmp_path):
    with pytest.raises(NotFound, match="folder"):
        read_collection(tmp_path / "nowhere")
