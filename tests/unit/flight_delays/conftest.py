"""The real data, prepared once for all tests of the product."""

import shutil

import pytest

from flight_delays.data import prepare_raw
from flight_delays.feature_tables import build_feature_tables


@pytest.fixture(scope="session")
def batches(tmp_path_factory):
    return prepare_raw(tmp_path_factory.mktemp("raw"))


@pytest.fixture(scope="session")
def lake(batches):
    """The whole year."""
    return batches[0].path.parent.parent


@pytest.fixture(scope="session")
def winter(lake, tmp_path_factory):
    """January and February: enough for what rolls over a month's end."""
    folder = tmp_path_factory.mktemp("winter")
    for dataset in ("flights", "weather"):
        (folder / dataset).mkdir()
        for month in ("2013-01", "2013-02"):
            shutil.copy(lake / dataset / f"{month}.parquet", folder / dataset)
    return folder


@pytest.fixture(scope="session")
def winter_features(winter, tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    build_feature_tables(winter, folder)
    return folder
