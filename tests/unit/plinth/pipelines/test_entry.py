from datetime import date

import pytest

from plinth.errors import InvalidInput
from plinth.pipelines.entry import bind_params, load_entry


def pipeline(context: "OnlyForTypeCheckers", until: date = date(2013, 5, 31), months: int = 4) -> None:  # noqa: F821
    """A pipeline."""


def test_an_entry_is_the_function_it_names():
    assert load_entry("plinth.pipelines.entry:load_entry") is load_entry


@pytest.mark.parametrize("entry", ["no_such_package.x:y", "plinth.pipelines.entry:nothing", "plinth.errors:__doc__"])
def test_an_entry_that_names_no_function_is_refused(entry):
    with pytest.raises(InvalidInput):
        load_entry(entry)


def test_parameters_get_the_types_of_the_annotations():
    assert bind_params(pipeline, {"until": "2013-06-30", "months": "6"}) == {"until": date(2013, 6, 30), "months": 6}
    assert bind_params(pipeline, {}) == {}


@pytest.mark.parametrize("params", [{"month": 1}, {"months": "many"}, {"until": "yesterday"}])
def test_parameters_that_do_not_fit_are_refused(params):
    with pytest.raises(InvalidInput):
        bind_params(pipeline, params)
