import pytest

from plinth.errors import InvalidInput
from plinth.pipelines.step import artifact, map_chunked, step


@step(version="2", retries=3)
def double(value: int) -> int:
    """Twice the value."""
    return 2 * value


def test_outside_a_run_a_step_is_just_its_function():
    assert double(21) == 42
    assert double.__doc__ == "Twice the value."
    assert (double.name, double.version, double.retries) == ("double", "2", 3)


def test_outside_a_run_an_artifact_goes_nowhere():
    artifact("report", markdown="# fine")


def test_a_cached_step_needs_a_return_annotation():
    with pytest.raises(InvalidInput, match="no return annotation"):

        @step()
        def untyped(value: int):
            return value


def test_a_chunked_map_gives_every_result_in_order_and_keeps_the_rest():
    assert map_chunked(double, range(7), chunk=3) == [0, 2, 4, 6, 8, 10, 12]
    assert map_chunked(double, [], chunk=3) == []


def test_a_chunk_without_items_is_refused():
    with pytest.raises(InvalidInput, match="at least one item"):
        map_chunked(double, [1], chunk=0)


@pytest.mark.parametrize(
    ("key", "given"),
    [("Report", {"markdown": "x"}), ("", {"markdown": "x"}), ("a", {}), ("a", {"markdown": "x", "table": []})],
)
def test_an_artifact_that_does_not_fit_is_refused(key, given):
    with pytest.raises(InvalidInput):
        artifact(key, **given)
