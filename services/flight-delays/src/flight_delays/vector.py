"""The model's vector, made by one function offline and online: view values and what the request itself carries.

No pandas here: `assemble` is on the request path. Training calls `assemble_columns`, which ends in the same
arithmetic on arrays, so the two give the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from flight_delays.feature_definitions import columns
from flight_delays.network import CARRIERS, DESTS, DISTANCES, ORIGINS
from flight_delays.request import Flight
from plinth.errors import InvalidInput

__all__ = ["CARRIERS", "DESTS", "FEATURES", "ORIGINS", "VIEW_COLUMNS", "assemble", "assemble_columns", "local_minutes"]

VIEW_COLUMNS = tuple(columns())
"""Columns of the view values that `assemble` takes, in order."""

_MOMENTS = {
    "aircraft_last_leg__landed_at": "minutes_since_landing",
    "aircraft_last_leg__departed_at": "minutes_since_departure",
}
_REQUEST = ("minute_of_day", "day_of_week", "distance", "carrier_code", "origin_code", "dest_code")

FEATURES = (*_REQUEST, *(_MOMENTS.get(column, column) for column in VIEW_COLUMNS))
"""Columns of the model's matrix, in order."""

LONG_AGO = 3 * 24 * 60
"""Minutes since the aircraft's last leg count up to three days, the TTL of that view."""

_CARRIER = {code: position for position, code in enumerate(CARRIERS)}
_ORIGIN = {code: position for position, code in enumerate(ORIGINS)}
_DEST = {code: position for position, code in enumerate(DESTS)}
_MILES = np.array(list(DISTANCES.values()), dtype=np.float64)
_MOMENT_COLUMNS = [VIEW_COLUMNS.index(column) for column in _MOMENTS]


def assemble(flights: Sequence[Flight], values: NDArray[np.float64]) -> NDArray[np.float32]:
    """The model's matrix of a request.

    Args:
        flights: n flights whose airline and airports are in the network.
        values: View values [n, len(VIEW_COLUMNS)] with defaults filled in, as a `Reader` of the read plan gives them.

    Returns:
        float32 [n, len(FEATURES)].

    Raises:
        InvalidInput: An airline or airport the model does not know, or values of another shape.
    """
    try:
        codes = np.array([(_CARRIER[f.carrier], _ORIGIN[f.origin], _DEST[f.dest]) for f in flights], dtype=np.int64)
    except KeyError as error:
        raise InvalidInput(f"unknown airline or airport {error}", hint="one of the network's codes") from None
    scheduled = np.array([f.scheduled_epoch for f in flights], dtype=np.int64)
    return _matrix(values, codes.reshape(-1, 3), scheduled)


def assemble_columns(
    carrier: NDArray[np.str_],
    origin: NDArray[np.str_],
    dest: NDArray[np.str_],
    scheduled: NDArray[np.int64],
    values: NDArray[np.float64],
) -> NDArray[np.float32]:
    """The same matrix from columns: codes [n], scheduled departures in seconds since 1970 UTC [n], values as above."""
    codes = np.stack(
        [_codes(carrier, CARRIERS, "airline"), _codes(origin, ORIGINS, "airport"), _codes(dest, DESTS, "airport")],
        axis=1,
    )
    return _matrix(values, codes, np.asarray(scheduled, dtype=np.int64))


def _codes(column: NDArray[np.str_], known: tuple[str, ...], what: str) -> NDArray[np.int64]:
    table = np.array(known)  # sorted
    column = np.asarray(column, dtype=np.str_)
    found = np.minimum(np.searchsorted(table, column), len(table) - 1).astype(np.int64)
    unknown = table[found] != column
    if unknown.any():
        raise InvalidInput(f"unknown {what} {str(column[unknown][0])!r}", hint="one of the network's codes")
    return found


def _matrix(values: NDArray[np.float64], codes: NDArray[np.int64], scheduled: NDArray[np.int64]) -> NDArray[np.float32]:
    if values.shape != (len(scheduled), len(VIEW_COLUMNS)):
        raise InvalidInput(
            f"view values of shape {values.shape}, not {(len(scheduled), len(VIEW_COLUMNS))}",
            hint="the read plan is of another version of the features",
        )
    matrix = np.empty((len(scheduled), len(FEATURES)), dtype=np.float32)
    minutes = local_minutes(scheduled)
    matrix[:, 0] = minutes % 1440
    matrix[:, 1] = (minutes // 1440 + 3) % 7  # 1 January 1970 was a Thursday; Monday is 0
    matrix[:, 2] = _MILES[codes[:, 2], codes[:, 1]]
    matrix[:, 3:6] = codes
    matrix[:, 6:] = values
    for column in _MOMENT_COLUMNS:
        since = (scheduled - values[:, column]) / 60.0
        matrix[:, 6 + column] = np.clip(since, 0.0, LONG_AGO)
    return matrix


def local_minutes(epoch: NDArray[np.int64]) -> NDArray[np.int64]:
    """Minutes since 1970 on New York's clocks (all three airports of departure) of UTC seconds; [n]."""
    starts, offsets = _new_york()
    local: NDArray[np.int64] = (epoch + offsets[np.searchsorted(starts, epoch, side="right") - 1]) // 60
    return local


@lru_cache(maxsize=1)
def _new_york() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """When New York's offset from UTC changed, 1999 to 2100, and to how many seconds."""
    zone = ZoneInfo("America/New_York")
    first, last = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) for year in (1999, 2101))

    def offset(epoch: int) -> int:
        change = datetime.fromtimestamp(epoch, zone).utcoffset()
        return int(change.total_seconds()) if change is not None else 0

    starts, offsets = [first], [offset(first)]
    for day in range(first, last, 86400):
        if offset(day + 86400) != offsets[-1]:
            hour = next(h for h in range(day, day + 86401, 3600) if offset(h) != offsets[-1])
            starts.append(hour)
            offsets.append(offset(hour))
    return np.array(starts, dtype=np.int64), np.array(offsets, dtype=np.int64)
