"""What every runner of pipelines does. The same suite runs inline and through a real Prefect server."""

import json
import logging
import socket
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import SecretStr

from plinth.errors import Conflict, InvalidInput, PlinthError, RefusedByPolicy, Unavailable
from plinth.pipelines.files import FileRef
from plinth.pipelines.inline import InlineRunner
from plinth.pipelines.prefect import PrefectRunner
from plinth.pipelines.slots import slot
from plinth.pipelines.step import artifact, map_chunked, step

log = logging.getLogger(__name__)


@pytest.fixture(scope="session")
def prefect_url(tmp_path_factory):
    from plinth.runtime import embedded, prefect
    from plinth.settings import Settings
    from plinth.wiring import Platform

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = Settings(state=tmp_path_factory.mktemp("state"), prefect_port=port)
    platform = Platform.from_settings(settings)
    try:
        embedded.up(platform, services=[prefect.server(settings)])
        yield settings.prefect_api_url
    finally:
        embedded.down(platform)


@pytest.fixture(params=["inline", "prefect", "prefect-server"])
def runner(request, tmp_path):
    return make_runner(request, tmp_path, request.param)


def make_runner(request, tmp_path, kind):
    given = {"product": "contract-suite", "state": tmp_path / "product", "cache": tmp_path / "steps", "ports": Ports(7)}
    if kind == "inline":
        return InlineRunner(**given)
    home = request.getfixturevalue("tmp_path_factory").getbasetemp() / "client"
    if kind == "prefect":
        return PrefectRunner(**given, api_url=request.getfixturevalue("prefect_url"), home=home)
    server = request.getfixturevalue("prefect_server")
    return PrefectRunner(**given, api_url=server.api, home=home, auth=SecretStr(server.auth))


@dataclass(frozen=True)
class Ports:
    seed: int


@dataclass(frozen=True)
class Fit:
    auc: float
    model: FileRef


calls: list[str] = []


@pytest.fixture(autouse=True)
def no_calls():
    calls.clear()


@step(version="1")
def fit(context, rows: int) -> Fit:
    calls.append("fit")
    log.info("fitting %d rows with seed %d", rows, context.ports.seed)
    path = context.state / "model.txt"
    path.write_text(f"{rows}")
    return Fit(0.7, FileRef.of(path))


@step(version="1")
def square(value: int) -> int:
    calls.append("square")
    return value * value


def train(context, rows: int = 10) -> str:
    """Fit, and square a few numbers."""
    fitted = fit(context, rows)
    artifact("report", markdown=f"# AUC {fitted.auc}")
    artifact("months", table=[{"month": 6, "auc": 0.7}])
    total = sum(map_chunked(square, list(range(5)), chunk=2))
    return f"{fitted.model.sha256[:8]} {total}"


def test_a_run_gives_its_output_its_steps_and_its_files(runner):
    told = []
    result = runner.run(train, {"rows": "12"}, on_step=lambda name, record: told.append((name, record is not None)))
    assert result.status == "completed"
    assert result.output == "6b51d431 30"
    assert result.params == {"rows": 12}
    assert [item.name for item in result.steps] == ["fit", "square-chunk", "square-chunk", "square-chunk"]
    assert [item.attempts for item in result.steps] == [1, 1, 1, 1]
    assert told[:3] == [("fit", False), ("fit", True), ("square-chunk", False)]
    assert result.steps[0].outputs[0].path.name == "model.txt"
    assert (result.folder / "artifacts" / "report.md").read_text() == "# AUC 0.7"
    assert json.loads((result.folder / "artifacts" / "months.json").read_text()) == [{"month": 6, "auc": 0.7}]
    record = json.loads((result.folder / "run.json").read_text())
    assert (record["run_id"], record["status"], record["runner"]) == (result.run_id, "completed", runner.name)
    messages = {line["message"]: line["run_id"] for line in map(json.loads, (result.folder / "run.log").open())}
    assert messages["fitting 12 rows with seed 7"] == result.run_id


def test_an_unchanged_step_is_skipped_on_the_second_run_and_a_changed_one_is_not(runner):
    first, second = runner.run(train), runner.run(train)
    assert first.output == second.output
    assert [item.cached for item in first.steps] == [False] * 4
    assert [item.cached for item in second.steps] == [True] * 4
    assert calls.count("fit") == 1
    assert [item.attempts for item in second.steps] == [0] * 4
    third = runner.run(train, {"rows": 11})
    assert [item.cached for item in third.steps] == [False, True, True, True]


def test_a_step_whose_file_was_lost_runs_again(runner):
    first = runner.run(train)
    first.steps[0].outputs[0].path.unlink()
    assert [item.cached for item in runner.run(train).steps] == [False, True, True, True]


def test_both_runners_give_the_same_and_share_the_cache(request, tmp_path):
    inline, prefect = make_runner(request, tmp_path, "inline"), make_runner(request, tmp_path, "prefect")
    one, other = prefect.run(train), inline.run(train)
    assert one.output == other.output
    assert [(item.name, item.version, item.key, item.status) for item in one.steps] == [
        (item.name, item.version, item.key, item.status) for item in other.steps
    ]
    assert other.cached_steps == 4


@step(version="1", retries=2, retry_delay=0.05, cache=False)
def flaky(good_from: int) -> int:
    calls.append("flaky")
    if len(calls) < good_from:
        raise OSError("the disk hiccuped")
    return len(calls)


def patient(context, good_from: int) -> int:
    return flaky(good_from)


def test_a_failing_step_is_tried_again_as_often_as_it_says(runner):
    result = runner.run(patient, {"good_from": 3})
    assert (result.output, result.steps[0].attempts) == (3, 3)


def test_a_step_that_keeps_failing_is_an_error_that_names_it(runner):
    with pytest.raises(
        PlinthError, match=r"step 'flaky' failed after 3 attempt\(s\): OSError: the disk hiccuped"
    ) as info:
        runner.run(patient, {"good_from": 9})
    record = json.loads(next((runner_folder(runner)).glob("*/run.json")).read_text())
    assert record["status"] == "failed"
    assert record["steps"][0]["status"] == "failed"
    assert record["error"]["what"] == info.value.what
    assert len(calls) == 3


@step(version="1", retries=5, retry_delay=30, cache=False)
def refuse() -> None:
    calls.append("refuse")
    raise RefusedByPolicy("the batch breaks its contract", where="flights/2013-06")


def gated(context) -> None:
    refuse()


def test_a_refusal_is_not_retried_and_arrives_as_itself(runner):
    with pytest.raises(RefusedByPolicy, match="breaks its contract") as info:
        runner.run(gated)
    assert info.value.where == "flights/2013-06"
    assert calls == ["refuse"]


@step(version="1", timeout=0.3, cache=False)
def endless() -> None:
    time.sleep(60)


@step(version="1", cache=False)
def unlimited() -> None:
    time.sleep(60)


def hanging(context) -> None:
    endless()


def long(context) -> None:
    unlimited()


def test_a_step_that_takes_too_long_is_ended(runner):
    started = time.monotonic()
    with pytest.raises(Unavailable, match=r"took longer than 0\.3 s"):
        runner.run(hanging)
    assert time.monotonic() - started < 20


def test_no_step_goes_on_after_the_run_s_time(runner):
    with pytest.raises(Unavailable, match="took longer"):
        runner.run(long, timeout=0.5)


def broken(context) -> None:
    raise KeyError("outside any step")


def test_an_error_outside_the_steps_is_translated_too(runner):
    with pytest.raises(PlinthError, match="failed outside its steps: KeyError"):
        runner.run(broken)


def test_parameters_that_do_not_fit_start_nothing(runner):
    with pytest.raises(InvalidInput, match="rowz"):
        runner.run(train, {"rowz": 1})
    assert not runner_folder(runner).exists()


def test_a_second_run_of_the_product_waits_and_is_then_refused(runner):
    with slot(runner_folder(runner), limit=1, wait=0), pytest.raises(Conflict, match="going on already"):
        runner.run(train, wait=0.2)


def runner_folder(runner) -> Path:
    return runner._bench.runs
