import numpy as np
import pytest

from plinth.errors import Corrupt, InvalidInput
from plinth.features.readplan import MISSING, ReadPlan


def plan_dict():
    return {
        "schema": 1,
        "feature_service": "service_v1",
        "project": "shop",
        "entity_key_version": 3,
        "store": {"type": "sqlite"},
        "views": [
            {
                "name": "sales",
                "table": "shop_sales",
                "join_keys": ["store", "item"],
                "ttl_seconds": 3600,
                "features": [
                    {"name": "sold", "dtype": "int64", "default": -1.0},
                    {"name": "price", "dtype": "float32", "default": 0.5},
                ],
            },
            {
                "name": "weather",
                "table": "shop_weather",
                "join_keys": ["store"],
                "ttl_seconds": 60,
                "features": [{"name": "temp", "dtype": "float64", "default": 20.0}],
            },
        ],
    }


def test_columns_defaults_and_join_keys_follow_the_plan():
    plan = ReadPlan.from_dict(plan_dict())
    assert plan.columns == ["sales__sold", "sales__price", "weather__temp"]
    assert plan.defaults.tolist() == [-1.0, 0.5, 20.0]
    assert plan.join_keys == ["item", "store"]
    assert plan.slices == [slice(0, 2), slice(2, 3)]


def test_entity_key_of_one_string_has_the_bytes_feast_writes():
    view = ReadPlan.from_dict(plan_dict()).views[1]
    key = b"\x01\0\0\0" + b"\x02\0\0\0\x05\0\0\0store" + b"\x02\0\0\0\x03\0\0\0JFK"
    assert view.entity_keys({"store": ["JFK", None]}) == [key, None]


def test_entity_key_parts_are_sorted_by_name_and_none_in_any_part_finds_nothing():
    view = ReadPlan.from_dict(plan_dict()).views[0]
    found = view.entity_keys({"store": ["s", "s", None], "item": ["i", None, "i"]})
    assert found[1:] == [None, None]
    assert found[0].index(b"item") < found[0].index(b"store")
    assert found[0].endswith(b"\x02\0\0\0\x01\0\0\0i\x02\0\0\0\x01\0\0\0s")


def test_a_lone_surrogate_is_a_key_that_finds_nothing_not_an_error():
    view = ReadPlan.from_dict(plan_dict()).views[1]
    assert view.entity_keys({"store": ["\ud800"]})[0].endswith(b"\xed\xa0\x80")


def test_fill_gives_defaults_and_marks_a_view_missing_only_when_all_of_it_is():
    plan = ReadPlan.from_dict(plan_dict())
    nan = np.nan
    block = plan.fill(np.array([[1.0, nan, 3.0], [nan, nan, nan]]))
    assert block.values.tolist() == [[1.0, 0.5, 3.0], [-1.0, 0.5, 20.0]]
    assert block.status.tolist() == [[0, 0], [MISSING, MISSING]]


def test_fill_refuses_another_number_of_columns():
    with pytest.raises(InvalidInput, match="shape"):
        ReadPlan.from_dict(plan_dict()).fill(np.zeros((2, 4)))


def broken(change):
    value = plan_dict()
    change(value)
    return value


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.pop("views"),
        lambda v: v.update(views=[]),
        lambda v: v.update(schema=2),
        lambda v: v.update(entity_key_version=2),
        lambda v: v.update(store={"type": "redis"}),
        lambda v: v["views"][0].update(table='x"; DROP TABLE y; --'),
        lambda v: v["views"][0].update(ttl_seconds=0),
        lambda v: v["views"][0].update(features=[]),
        lambda v: v["views"][0].update(join_keys=[]),
        lambda v: v["views"][0]["features"][0].update(dtype="string"),
        lambda v: v["views"][0]["features"][0].update(default=float("nan")),
        lambda v: v["views"][0]["features"][0].update(default="much"),
    ],
)
def test_a_document_that_is_no_plan_is_refused_as_corrupt(change):
    with pytest.raises(Corrupt, match="read plan"):
        ReadPlan.from_dict(broken(change))
