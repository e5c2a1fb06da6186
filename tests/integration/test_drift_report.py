"""`plinth drift report` over a real log, real labels, a real ledger: verdicts, exit codes, duplicates, late labels."""

from __future__ import annotations

import json
import shutil
import socket
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from plinth.cli.main import main
from plinth.ledger.artifacts import ArtifactStore
from plinth.ledger.store import Ledger
from plinth.monitoring.duckdb import LogReader
from plinth.monitoring.reference import Reference
from plinth.monitoring.trigger import last_trigger
from plinth.serving.inference_log import Entry
from plinth.serving.pyarrow import ParquetSink

REPOSITORY = Path(__file__).parents[2]
NAMES = ("temperature", "delay_rate", "hour", "ground_time")
DAY = 86_400
START = int(datetime(2013, 6, 1, tzinfo=UTC).timestamp())
PER_DAY = 300


def inputs(rows: int, rng: np.random.Generator, shift: float = 0.0) -> np.ndarray:
    matrix = np.column_stack(
        [
            rng.normal(15 + 8 * shift, 8, rows),
            rng.beta(2, 8, rows),
            rng.integers(5, 23, rows),
            rng.lognormal(4, 1.5, rows),
        ]
    ).astype(np.float32)
    matrix[rng.random(rows) < 0.05, 3] = np.nan
    return matrix


def scores_of(matrix: np.ndarray) -> np.ndarray:
    return np.clip(0.05 + matrix[:, 1].astype(float), 0.01, 0.95)


class World:
    """A workspace with one product, one release that serves, and a month of traffic."""

    def __init__(self, root: Path, make_manifest) -> None:
        self.root = root
        self.state = root / "state"
        self.folder = self.state / "products" / "flight-delays"
        service = root / "services" / "flight-delays"
        service.mkdir(parents=True)
        (root / "pyproject.toml").touch()
        self.manifest = service / "product.yaml"
        self.declare()
        self.rng = np.random.default_rng(7)
        training = inputs(8000, self.rng)
        reference = Reference.build(training, NAMES, scores_of(training))
        store = ArtifactStore(self.state / "artifacts" / "sha256")
        manifest = make_manifest(artifacts={"reference.json": store.put_bytes(reference.to_json())})
        self.ledger = Ledger(f"sqlite:///{self.state / 'ledger.db'}")
        self.release = self.ledger.register_release(manifest, "test")
        self.ledger.promote("flight-delays", self.release, expected_generation=0, actor="test", reason="first")

    def declare(self, *, entry: str = "flight_delays.pipeline:train", watch: tuple[str, ...] = ()) -> None:
        """The real product's manifest, with a pipeline and monitoring of our own."""
        product = yaml.safe_load((REPOSITORY / "services" / "flight-delays" / "product.yaml").read_text())
        product["pipelines"][0]["entry"] = entry
        product["monitoring"] = {
            "drift_psi": 0.25, "drifted_features": 1, "watch": list(watch), "calibration_window": "14d",
            "calibration_gap": 0.04, "minimum_labels": 1000, "cool_down": "28d",
        }  # fmt: skip
        self.manifest.write_text(yaml.safe_dump(product, sort_keys=False))

    def entry(self, day: int, matrix: np.ndarray, *, start_id: int = 0, hours: int = 0, scores=None) -> Entry:
        rows = len(matrix)
        seconds = START + day * DAY + hours * 3600 + np.arange(rows, dtype=np.int64) % 3000
        return Entry(
            request_id=f"r{day}-{hours}", release=self.release,
            entity_ids=[f"flight-{day}-{start_id + i}" for i in range(rows)], at=seconds, features=matrix,
            scores=scores_of(matrix) if scores is None else scores, flags=[[]] * rows, latency_ms=3.0,
            answered=1_700_000_000.0 + hours,
        )  # fmt: skip

    def log(self, *entries: Entry) -> None:
        ParquetSink(self.folder / "inference", NAMES).write(entries)

    def traffic(self, days: int = 30, shift: float = 0.0, bias: float = 0.0) -> None:
        """Days of predictions; labels follow the score plus `bias` and are known six hours later."""
        entries, labels = [], []
        for day in range(days):
            matrix = inputs(PER_DAY, self.rng, shift)
            entry = self.entry(day, matrix)
            entries.append(entry)
            late = self.rng.random(PER_DAY) < entry.scores + bias
            labels += [
                (name, int(label), int(at) + 6 * 3600)
                for name, label, at in zip(entry.entity_ids, late, entry.at, strict=True)
            ]
        self.log(*entries)
        self.labels(labels)

    def labels(self, rows: list[tuple[str, int, int]], name: str = "2013-06") -> None:
        folder = self.folder / "labels"
        folder.mkdir(parents=True, exist_ok=True)
        entity, label, known = zip(*rows, strict=True)
        table = pa.table(
            {
                "entity_id": pa.array(entity, pa.string()),
                "label": pa.array(label, pa.int8()),
                "known_at": pa.array([second * 1_000_000 for second in known], pa.int64()).cast(
                    pa.timestamp("us", "UTC")
                ),
            }
        )
        pq.write_table(table, folder / f"{name}.parquet")

    def reader(self, **window) -> LogReader:
        start = window.get("start", datetime(2013, 6, 1, tzinfo=UTC))
        return LogReader(self.folder, start, window.get("end", datetime(2013, 7, 1, tzinfo=UTC)))


@pytest.fixture
def world(tmp_path, make_manifest, monkeypatch):
    world = World(tmp_path, make_manifest)
    monkeypatch.setenv("PLINTH_HOME", str(tmp_path))
    monkeypatch.setenv("PLINTH_STATE", str(world.state))
    yield world
    world.ledger.close()


@pytest.fixture
def plinth(capsys):
    """Runs the command line; gives the exit code, the JSON document (if any) and both streams."""

    def run(*argv: str) -> SimpleNamespace:
        try:
            code = main(argv)
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        return SimpleNamespace(code=code, out=out, err=err, json=json.loads(out) if "--json" in argv else None)

    return run


REPORT = ("drift", "report", "flight-delays")
LATER = ("--as-of", "2013-07-05")


def test_quiet_traffic_is_within_the_bounds(world, plinth):
    world.traffic()
    answer = plinth(*REPORT, *LATER, "--json", "--fail-on-drift")
    assert answer.code == 0, answer.out
    document = answer.json
    assert document["beyond"] is False
    assert document["drift"]["rows"] == 30 * PER_DAY
    assert document["drift"]["drifted"] == []
    assert document["release"] == world.release
    (month,) = document["months"]
    assert (month["month"], month["labelled"]) == ("2013-06", 30 * PER_DAY)
    assert 0.6 < month["auc"] < 0.9
    assert document["calibration"]["end"] == "2013-07-01"


def test_lost_calibration_is_beyond_the_bounds_and_fails_ci_only_when_asked(world, plinth):
    world.traffic(bias=0.1)
    assert plinth(*REPORT, *LATER, "--json").code == 0
    answer = plinth(*REPORT, *LATER, "--json", "--fail-on-drift")
    assert answer.code == 3
    assert answer.json["beyond"] is True
    assert answer.json["calibration"]["gap"] == pytest.approx(-0.1, abs=0.03)


def test_drift_of_unwatched_features_is_reported_and_passes(world, plinth):
    world.traffic(shift=1.5)
    answer = plinth(*REPORT, *LATER, "--json", "--fail-on-drift")
    assert answer.code == 0
    assert answer.json["drift"]["drifted"] == ["temperature"]
    assert answer.json["drift"]["counted"] == []


def test_drift_of_a_watched_feature_fails_ci(world, plinth):
    world.declare(watch=("temperature",))
    world.traffic(shift=1.5)
    assert plinth(*REPORT, *LATER, "--fail-on-drift").code == 3


def test_labels_that_were_not_known_then_are_not_used(world, plinth):
    world.traffic(bias=0.1)
    early = plinth(*REPORT, "--as-of", "2013-06-01T03:00", "--to", "2013-06-02", "--json").json
    assert early["months"][0]["labelled"] == 0
    assert early["calibration"] is None
    half = plinth(*REPORT, "--as-of", "2013-06-15T00:00", "--json").json
    assert half["months"][0]["labelled"] == 14 * PER_DAY
    assert half["calibration"]["end"] == "2013-06-14"


def test_a_prediction_logged_a_hundred_times_is_one(world, plinth):
    """SECURITY row 13."""
    world.traffic(days=10)
    before = plinth(*REPORT, *LATER, "--json").json
    (file, *_) = sorted((world.folder / "inference" / "date=2013-06-03").glob("*.parquet"))
    for copy in range(99):
        shutil.copy(file, file.with_name(f"part-again-{copy}.parquet"))
    labels = world.folder / "labels" / "2013-06.parquet"
    for copy in range(3):
        shutil.copy(labels, labels.with_name(f"again-{copy}.parquet"))
    after = plinth(*REPORT, *LATER, "--json").json
    assert after["log"]["duplicates"] == 99 * PER_DAY
    for key in ("drift", "months", "calibration"):
        assert after[key] == before[key]


def test_of_events_out_of_order_the_latest_event_wins(world):
    """SECURITY row 14: the flight moved from 9 to 12 o'clock; the news of it was written first."""
    matrix = inputs(1, world.rng)
    newer = world.entry(0, matrix, hours=12, scores=np.array([0.9]))
    older = world.entry(0, matrix, hours=9, scores=np.array([0.1]))
    world.log(newer)
    world.log(older)
    assert world.reader().labelled(datetime(2014, 1, 1, tzinfo=UTC)).score.tolist() == [0.9]


def test_a_corrected_label_wins_over_the_first_one_once_it_is_known(world):
    world.log(world.entry(0, inputs(1, world.rng)))
    world.labels([("flight-0-0", 1, START + 2 * DAY), ("flight-0-0", 0, START + DAY)])
    seen = [world.reader().labelled(datetime(2013, 6, day, 12, tzinfo=UTC)).label.tolist() for day in (2, 3)]
    assert seen == [[0.0], [1.0]]


def test_feature_rows_from_outside_of_the_window_are_not_counted(world):
    """SECURITY row 12, the log's side: events of the future of the window stay out of it."""
    world.traffic(days=10)
    reader = world.reader(end=datetime(2013, 6, 4, tzinfo=UTC))
    assert sum(len(scores) for _, scores in reader.features(NAMES)) == 3 * PER_DAY
    assert len(reader.labelled(datetime(2014, 1, 1, tzinfo=UTC))) == 3 * PER_DAY


def test_the_chunks_hold_what_the_model_saw(world):
    matrix = inputs(50, world.rng)
    world.log(world.entry(0, matrix))
    chunks = list(world.reader().features(NAMES))
    read, scores = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
    order, expected = np.argsort(scores), np.argsort(scores_of(matrix))
    np.testing.assert_array_equal(read[order], matrix[expected])


def test_a_truncated_file_is_named_and_the_rest_is_read(world, plinth):
    world.traffic(days=10)
    (file, *_) = sorted((world.folder / "inference" / "date=2013-06-03").glob("*.parquet"))
    file.write_bytes(file.read_bytes()[:-100])
    document = plinth(*REPORT, *LATER, "--json").json
    assert document["log"]["unreadable"] == [f"inference/date=2013-06-03/{file.name}"]
    assert document["drift"]["rows"] == 9 * PER_DAY


class Page(HTMLParser):
    """Collects what a page would fetch or run, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag in {"script", "link", "img", "iframe", "object"} or any(name in {"src", "href"} for name, _ in attrs):
            self.fetched.append(tag)
        if tag not in {"meta"} and not self.get_starttag_text().endswith("/>"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if self.get_endtag(tag):
            self.open.pop()

    def get_endtag(self, tag):
        return self.open and self.open[-1] == tag

    def handle_data(self, data):
        self.words.append(data)


def test_the_html_report_is_one_well_formed_file_with_the_verdict_on_top(world, plinth, tmp_path):
    world.traffic(bias=0.1, shift=1.5)
    target = tmp_path / "reports" / "june.html"
    answer = plinth(*REPORT, *LATER, "--html", str(target))
    assert answer.code == 0
    assert str(target) in answer.out
    text = target.read_text()
    page = Page(text)
    assert page.fetched == []
    assert page.open == []
    words = " ".join(page.words)
    assert words.index("Beyond the bounds") < words.index("Calibration over time")
    for name in (*NAMES, "air-operations-ml-primary", "not reported"):
        assert name in words
    assert text.count("<svg") >= len(NAMES) + 2
    assert "url(" not in text


def test_a_hostile_feature_name_stays_text(world):
    from plinth.core.manifests import parse_product
    from plinth.monitoring.assessment import assess
    from plinth.monitoring.report import html

    names = ('<script>alert("x")</script>', *NAMES[1:])
    matrix = inputs(500, world.rng)
    ParquetSink(world.folder / "inference", names).write([world.entry(0, matrix)])
    spec = parse_product(world.manifest.read_text(), "product.yaml")
    window = {"start": datetime(2013, 6, 1, tzinfo=UTC), "end": datetime(2013, 6, 2, tzinfo=UTC)}
    assessment = assess(
        spec,
        world.folder,
        world.release,
        Reference.build(matrix, names),
        as_of=datetime(2013, 7, 1, tzinfo=UTC),
        **window,
    )
    assert "<script" not in html(assessment)
    assert "&lt;script&gt;" in html(assessment)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--from", "June"), "--from 'June' is no date"),
        (("--to", "2013-13-01"), "--to '2013-13-01' is no date"),
        (("--from", "2013-06-10", "--to", "2013-06-01"), "ends (2013-06-01) before it starts"),
        (("--from", "2012-01-01", "--to", "2012-02-01"), "no inference log from 2012-01-01"),
        (("--release", "0" * 12), "release"),
    ],
)
def test_bad_dates_and_releases_are_bad_use_and_say_so(world, plinth, argv, words):
    world.traffic(days=2)
    answer = plinth(*REPORT, *argv)
    assert answer.code == 2
    assert words in answer.err
    assert "Traceback" not in answer.err


def test_without_a_log_the_error_says_how_to_get_one(world, plinth):
    answer = plinth(*REPORT)
    assert answer.code == 2
    assert "no inference log" in answer.err
    assert "plinth up" in answer.err


def test_without_a_reference_or_a_release_the_error_says_so(world, plinth, make_manifest):
    digest = world.ledger.register_release(make_manifest(2), "test")
    world.traffic(days=2)
    answer = plinth(*REPORT, "--release", digest[:12])
    assert answer.code == 2
    assert "keeps no drift reference" in answer.err
    shutil.rmtree(world.state / "artifacts")
    assert "is not stored" in plinth(*REPORT).err


def test_a_log_of_other_features_is_refused_with_the_column_named(world, plinth):
    ParquetSink(world.folder / "inference", ("a", "b", "c", "d")).write([world.entry(0, inputs(300, world.rng))])
    answer = plinth(*REPORT)
    assert answer.code == 2
    assert "lacks the columns temperature" in answer.err


@pytest.fixture
def probe(world, tmp_path, monkeypatch):
    """The product's pipeline, replaced by one that writes a line for each run; gives the file."""
    runs = tmp_path / "runs"
    (tmp_path / "retraining_probe.py").write_text(
        "from pathlib import Path\n"
        "def train(context, *, as_of: str = '') -> str:\n"
        f"    with Path({str(runs)!r}).open('a') as file:\n"
        "        file.write(f'trained as of {as_of}')\n"
        "    return 'trained'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    world.declare(entry="retraining_probe:train")
    return runs


def test_the_trigger_runs_the_pipeline_once_in_a_cool_down(world, plinth, probe):
    """SECURITY row 15 at the command line: three reports in a row, one retraining."""
    world.traffic(bias=0.1)
    runs = [plinth(*REPORT, *LATER, "--json", "--trigger", "--inline") for _ in range(3)]
    assert [run.code for run in runs] == [0, 0, 0], runs[0].out
    answers = [run.json["trigger"] for run in runs]
    assert [answer["fire"] for answer in answers] == [True, False, False]
    assert answers[0]["run_id"]
    assert answers[1]["beyond"] is True
    assert probe.read_text() == "trained as of 2013-07-05"


def test_a_trigger_whose_pipeline_cannot_start_is_taken_back(world, plinth, probe, monkeypatch):
    """No Prefect server answers: the cool-down of four weeks must not run for a retraining that never was."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("PLINTH_PREFECT_PORT", str(free.getsockname()[1]))
    world.traffic(bias=0.1)
    failed = plinth(*REPORT, *LATER, "--trigger")
    assert failed.code == 1
    assert "no Prefect server answers" in failed.err
    assert "taken back" in failed.err
    assert not probe.exists()
    assert len(world.ledger.events("flight-delays", "retrain-trigger-retracted")) == 1
    assert last_trigger(world.ledger, "flight-delays", datetime(2013, 7, 5, tzinfo=UTC)) is None
