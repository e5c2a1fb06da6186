"""A rollout's signals from a Prometheus server that scrapes the services' `/metrics`, over its HTTP API."""

from __future__ import annotations

import http.client
import json
import math
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, cast
from urllib.parse import SplitResult, urlencode, urlsplit

from plinth.core.evidence import ARMS, LATENCY_BOUNDS, SCORE_BOUNDS, Arm, Cell, Outcomes
from plinth.errors import InvalidInput, Unavailable
from plinth.telemetry import metrics

MAX_ANSWER = 32 * 1024 * 1024
"""Bytes; about 100,000 series. More is no answer to these questions."""

_REQUESTS, _ERRORS, _ROWS, _DEFAULTED = (
    metric.name
    for metric in (metrics.ROLLOUT_REQUESTS, metrics.ROLLOUT_ERRORS, metrics.ROLLOUT_ROWS, metrics.ROLLOUT_DEFAULTED)
)
_LATENCY, _SCORES = f"{metrics.ROLLOUT_SECONDS.name}_bucket", f"{metrics.ROLLOUT_SCORES.name}_bucket"
_BUSY = f"{metrics.ROLLOUT_SECONDS.name}_sum"
_NAMES = (_REQUESTS, _ERRORS, _ROWS, _DEFAULTED, _LATENCY, _SCORES, _BUSY)

_BINS = {
    _LATENCY: {bound: i for i, bound in enumerate((*LATENCY_BOUNDS, math.inf))},
    _SCORES: {bound: i for i, bound in enumerate((*SCORE_BOUNDS, math.inf))},
}

Series = dict[tuple[str, float | None], float]
"""One process's counts of one cell: metric name and upper bound (None without one) to value."""


class PrometheusSignals:
    """The signals of a Prometheus server. Each service must be scraped once, and by no second job.

    Counts are those of the last scrape. A service that restarts counts from nothing again, and one that cannot be
    scraped has no counts: both give less evidence than there was, never more. That includes the errors of a candidate
    that took its process down with it, which the request log keeps: alert on restarts during a rollout.

    A window is the difference of two scrapes of the same process, so its ends are rounded to scrapes, and its counts
    are whole. What a process counted that restarted in the window is what it counted since.

    Unlike in the request log, an entity that is scored twice counts twice among the scores: series know no entities.

    Args:
        url: Address of the server, such as `http://127.0.0.1:9090`; a path is kept as a prefix.
        timeout: Seconds for a whole question; a server that trickles its answer gets no more.
        failures: So many failed questions in a row open the breaker.
        cool_down: Seconds that an open breaker answers Unavailable at once, before it lets one question through.
        clock: Monotonic seconds; tests give their own.

    Raises:
        InvalidInput: The address is none.
    """

    def __init__(
        self,
        url: str,
        timeout: float = 2.0,
        *,
        failures: int = 3,
        cool_down: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._parts, self._url = _address(url), url.rstrip("/")
        self._timeout = timeout
        self._breaker = Breaker(failures, cool_down, clock)

    def cells(self, product: str, generation: int, *, window: float | None = None) -> tuple[Cell, ...]:
        """As the port.

        Raises:
            Unavailable: The server does not answer in time, or not with what was asked; or the breaker is open.
        """
        return cells_of(self._ask(question(product, generation, window)))

    def outcomes(self, product: str, generation: int) -> Mapping[Arm, Outcomes] | None:
        """None: series know no labels."""
        return None

    def _ask(self, query: str) -> list[Any]:
        """The samples of an instant query."""
        self._breaker.check(self._url)
        try:
            answer = json.loads(self._fetch(f"/api/v1/query?{urlencode({'query': query})}"))
            if answer["status"] != "success" or answer["data"]["resultType"] != "vector":
                raise ValueError(f"not the vector that was asked for: {str(answer)[:200]}")
            samples = cast("list[Any]", answer["data"]["result"])
        except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as error:
            self._breaker.failed()
            raise Unavailable(
                f"Prometheus cannot be read: {error or type(error).__name__}", where=self._url,
                hint="check the server, and PLINTH_PROMETHEUS_URL",
            ) from error  # fmt: skip
        self._breaker.worked()
        return samples

    def _fetch(self, path: str) -> bytes:
        """In a thread, because a deadline over name resolution, connection, headers and body together needs one."""
        parts = self._parts
        make = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = make(str(parts.hostname), parts.port, timeout=self._timeout)
        answers: queue.SimpleQueue[bytes | Exception] = queue.SimpleQueue()

        def work() -> None:
            try:
                connection.request("GET", parts.path.rstrip("/") + path)
                response = connection.getresponse()
                body = response.read(MAX_ANSWER + 1)
                if response.status != 200:
                    raise ValueError(f"status {response.status}: {body[:200].decode(errors='replace')}")
                if len(body) > MAX_ANSWER:
                    raise ValueError(f"the answer is larger than {MAX_ANSWER} bytes")
                answers.put(body)
            except Exception as error:  # noqa: BLE001  (carried over to the caller's thread)
                answers.put(error)
            finally:
                connection.close()

        threading.Thread(target=work, name="plinth-prometheus", daemon=True).start()
        try:
            answer = answers.get(timeout=self._timeout)
        except queue.Empty:
            with suppress(OSError, AttributeError):  # not connected yet, or gone by now
                connection.sock.shutdown(2)  # ends the thread
            raise TimeoutError(f"no whole answer within {self._timeout:g} s") from None
        if isinstance(answer, Exception):
            raise answer
        return answer


class Breaker:
    """Keeps a dead server from costing a deadline on every question.

    Args:
        failures: So many failures in a row open it.
        cool_down: Seconds it stays open, before it lets one question through.
        clock: Monotonic seconds.
    """

    def __init__(self, failures: int, cool_down: float, clock: Callable[[], float]) -> None:
        self._limit = failures
        self._cool_down = cool_down
        self._clock = clock
        self._failures = 0
        self._closed_at = -math.inf
        self._lock = threading.Lock()

    def check(self, where: str) -> None:
        """Whether to ask.

        Raises:
            Unavailable: It is open.
        """
        with self._lock:
            if self._failures < self._limit:
                return
            wait = self._closed_at - self._clock()
            if wait <= 0:  # this caller tries; the others wait for what it finds
                self._closed_at = self._clock() + self._cool_down
                return
        raise Unavailable(
            f"Prometheus did not answer {self._limit} times in a row; asked again in {wait:.0f} s", where=where,
            hint="check the server, and PLINTH_PROMETHEUS_URL",
        )  # fmt: skip

    def worked(self) -> None:
        """The question was answered."""
        with self._lock:
            self._failures = 0

    def failed(self) -> None:
        """It was not."""
        with self._lock:
            self._failures += 1
            if self._failures >= self._limit:
                self._closed_at = self._clock() + self._cool_down


def question(product: str, generation: int, window: float | None) -> str:
    """The query for one generation's series of each process: `when="now"`, and `when="then"` before the window."""
    selector = f'{{__name__=~"{"|".join(_NAMES)}",product={_quoted(product)},generation="{generation}",step!="0"}}'
    now = f'label_replace({selector}, "when", "now", "", "")'
    if window is None:
        return now
    before = max(1, round(window * 1000))
    return f'{now} or label_replace({selector} offset {before}ms, "when", "then", "", "")'


def cells_of(samples: Iterable[Any]) -> tuple[Cell, ...]:
    """The cells of the samples of `question`, summed over processes.

    Raises:
        Unavailable: A sample is not one of ours.
    """
    found: dict[tuple[int, Arm, str], Cell] = {}
    try:
        for key, counts in _counted(samples):
            cell = _cell(key, counts)
            if cell.requests:  # none in this window
                found[key] = found[key] + cell if key in found else cell
    except (LookupError, ValueError, TypeError) as error:
        raise Unavailable(
            f"Prometheus has series that are not a rollout's: {error!r}",
            hint="scrape services of one version of plinth, and let no rule write plinth_rollout_* series",
        ) from error
    return tuple(found[key] for key in sorted(found, key=lambda key: (key[0], ARMS.index(key[1]), key[2])))


def _counted(samples: Iterable[Any]) -> Iterable[tuple[tuple[int, Arm, str], Series]]:
    """Each cell with the counts of each process, those before the window taken off."""
    now: dict[Any, Series] = defaultdict(dict)
    then: dict[Any, Series] = defaultdict(dict)
    for sample in samples:
        labels = dict(sample["metric"])
        name, when, bound = labels.pop("__name__"), labels.pop("when"), labels.pop("le", None)
        value = float(sample["value"][1])
        if not math.isfinite(value):
            raise ValueError(f"{name} is {value}")
        side = now if when == "now" else then
        side[tuple(sorted(labels.items()))][name, None if bound is None else float(bound)] = value
    for process, counts in now.items():
        labels = dict(process)
        before = then.get(process, {})
        if any(value < before.get(series, 0) for series, value in counts.items()):
            before = {}  # it restarted in between: what it has now, it counted since
        arm = labels["arm"]
        if arm not in ARMS:
            raise ValueError(f"arm {arm!r}")
        yield (
            (int(labels["step"]), cast("Arm", arm), labels["release"]),
            {series: value - before.get(series, 0) for series, value in counts.items()},
        )


def _cell(key: tuple[int, Arm, str], counts: Series) -> Cell:
    step, arm, release = key

    def count(name: str) -> int:
        return round(counts[name, None])

    return Cell(
        step, arm, release, count(_REQUESTS), count(_ERRORS), _bins(counts, _LATENCY), _bins(counts, _SCORES),
        count(_ROWS), count(_DEFAULTED), counts[_BUSY, None],
    )  # fmt: skip


def _bins(counts: Series, name: str) -> tuple[int, ...]:
    """Counts by bin of what Prometheus has as counts up to each bound."""
    places = _BINS[name]
    upto = [0.0] * len(places)
    found = [(places[cast("float", bound)], value) for (of, bound), value in counts.items() if of == name]
    if len(found) != len(places):
        raise ValueError(f"{name} has {len(found)} bounds, not {len(places)}")
    for place, value in found:
        upto[place] = value
    return tuple(round(b - a) for a, b in zip([0.0, *upto[:-1]], upto, strict=True))


def _address(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        fits = parts.scheme in {"http", "https"} and parts.hostname and (parts.port or True) and "@" not in parts.netloc
    except ValueError:  # a port that is none
        fits = False
    if not fits:
        raise InvalidInput(
            "the address of Prometheus is no plain HTTP address", where="PLINTH_PROMETHEUS_URL",
            hint="write http://host:9090, without a user's name",
        )  # fmt: skip
    return parts


def _quoted(text: str) -> str:
    """A string of PromQL."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
