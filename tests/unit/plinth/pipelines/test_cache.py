import json
import math
import types
from dataclasses import dataclass
from datetime import date

import pytest

from plinth.errors import InvalidInput
from plinth.pipelines import cache as cache_module
from plinth.pipelines.cache import StepCache, code_digest, step_key
from plinth.pipelines.files import FileRef
from plinth.pipelines.port import PipelineContext
from plinth.pipelines.step import step


@dataclass(frozen=True)
class Score:
    auc: float
    months: tuple[date, ...]
    by_hour: dict[int, float]


@step(version="1")
def score(rows: int, name: str = "x") -> Score:
    return Score(0.75, (date(2013, 6, 1),), {6: 0.1, 23: rows / 10})


@step(version="1", ignore=("registry",))
def train(context: PipelineContext[object], data: FileRef, registry: object) -> FileRef:
    return data


@pytest.fixture
def cache(tmp_path):
    return StepCache(tmp_path / "steps")


def context(tmp_path, run_id="r"):
    return PipelineContext("p", tmp_path, run_id, tmp_path / run_id, object())


def test_a_kept_result_comes_back_with_its_types(cache):
    kept = cache.put(score, "k", score(5))
    assert cache.get(score, "k").value == kept == score(5)


def test_a_result_may_be_none_and_may_hold_nan(cache):
    @step()
    def nothing() -> None: ...

    @step()
    def undefined() -> list[float]:
        return [math.nan]

    assert cache.put(nothing, "n", None) is None
    assert cache.get(nothing, "n").value is None
    cache.put(undefined, "u", [math.nan])
    assert math.isnan(cache.get(undefined, "u").value[0])


def test_the_key_depends_on_arguments_version_and_code_and_not_on_how_they_are_passed(monkeypatch):
    key = step_key(score, (5,), {})
    assert key == step_key(score, (), {"rows": 5, "name": "x"})
    assert key != step_key(score, (6,), {})
    other = step(version="2")(score.function)
    assert key != step_key(other, (5,), {})
    monkeypatch.setattr(cache_module, "code_digest", lambda _step: "other source")
    assert key != step_key(score, (5,), {})


def test_the_source_of_named_modules_decides_too(tmp_path):
    path = tmp_path / "helper.py"
    path.write_text("A = 1\n")
    helper = types.ModuleType("helper")
    helper.__file__ = str(path)
    with_helper = step(uses=(helper,))(score.function)
    before = code_digest(with_helper)
    assert before != code_digest(score)
    path.write_text("A = 22\n")
    assert code_digest(with_helper) != before


def test_the_context_and_ignored_ports_are_no_part_of_the_key(tmp_path):
    (tmp_path / "d").write_text("data")
    data = FileRef.of(tmp_path / "d")
    keys = {step_key(train, (context(tmp_path, run), data, object()), {}) for run in ("one", "two")}
    assert len(keys) == 1


def test_a_file_counts_by_name_and_content_and_not_by_its_folder(tmp_path):
    keys = set()
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "d.parquet").write_text("same")
        keys.add(step_key(train, (context(tmp_path), FileRef.of(tmp_path / folder / "d.parquet"), None), {}))
    (tmp_path / "b" / "d.parquet").write_text("other")
    keys.add(step_key(train, (context(tmp_path), FileRef.of(tmp_path / "b" / "d.parquet"), None), {}))
    assert len(keys) == 2


@pytest.mark.parametrize("value", [object(), float("nan")])
def test_an_argument_without_a_canonical_form_is_refused(value):
    with pytest.raises(InvalidInput, match="canonical JSON form"):
        step_key(score, (value,), {})


def test_a_call_that_does_not_fit_is_refused():
    with pytest.raises(InvalidInput, match="called wrongly"):
        step_key(score, (), {"lines": 5})


def test_a_result_of_another_type_than_declared_is_refused(cache):
    with pytest.raises(InvalidInput, match="cannot be kept"):
        cache.put(score, "k", "no score")


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("0.75", "0.99"),
        lambda text: json.dumps({"schema": 1}),
        lambda text: "",
        lambda text: "[]",
    ],
)
def test_a_damaged_entry_is_a_miss_with_a_warning(cache, caplog, damage):
    cache.put(score, "k", score(5))
    path = cache.folder / "k.json"
    path.write_text(damage(path.read_text()))
    assert cache.get(score, "k") is None
    assert "ignored" in caplog.text


def test_a_result_whose_file_is_gone_or_changed_is_a_miss(cache, tmp_path):
    path = tmp_path / "model"
    path.write_text("weights")
    cache.put(train, "k", FileRef.of(path))
    assert cache.get(train, "k") is not None
    path.write_text("other weights")
    assert cache.get(train, "k") is None


def test_a_disk_that_cannot_be_written_costs_a_warning_and_not_the_result(tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    assert StepCache(blocked / "steps").put(score, "k", score(5)) == score(5)
    assert "not cached" in caplog.text
