"""Sequential tests of a candidate against the serving release. Pure: counts in, evidence out.

Every test gives an e-value: a non-negative number that, while its hypothesis H0 is true, is 1 or less on average at
whatever moment one looks. By Ville's inequality it then ever reaches 1/alpha with probability alpha at most, so a
controller may look every second and act at once. Sources:

- Ville, Étude critique de la notion de collectif (1939); Ramdas, Grünwald, Vovk, Shafer, "Game-theoretic statistics
  and safe anytime-valid inference", Statistical Science 2023: e-values, e-processes, optional stopping.
- Wasserman, Ramdas, Balakrishnan, "Universal inference", PNAS 2020: the ratio used for shares, a mixture over the
  likelihoods of all alternatives divided by the largest likelihood under H0. It needs no known split of the traffic,
  takes tolerances of any form, and is exact at counts as low as 0.
- Lindon, Sanden, Shirikian, "Rapid regression detection in software deployments through sequential testing", KDD 2022,
  and Lindon, Malek, "Anytime-valid inference for multinomial count data", NeurIPS 2022: what to test in a canary
  (order of distributions, counts of errors) and mixtures over the unknown rates.
- Waudby-Smith, Ramdas, "Estimating means of bounded random variables by betting", JRSS B 2024: the tests of means.

docs/explanation/rollout-gates.md says it in plain words, with what was measured.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]

Null = Literal["at-most", "at-least"]
"""H0 of a test: the candidate's share is at most, or at least, the serving release's share plus a margin."""


@dataclass(frozen=True, slots=True)
class Prior:
    """What the mixture over the alternatives expects of a share; it decides how soon a test speaks, never its validity.

    Attributes:
        zero: Weight of a share of exactly 0.
        rare: Weight of Beta(1/2, 10), a share of some percent.
        any: Weight of Jeffreys' Beta(1/2, 1/2).
    """

    zero: float
    rare: float
    any: float


RARE = Prior(zero=0.3, rare=0.45, any=0.25)
"""For errors and the like, which are 0 when all is well."""
ANY = Prior(zero=0.1, rare=0.0, any=0.9)
"""For the share beyond some bound."""

_MEANS = 200
"""Steps in which the comparison of two means looks for the serving release's: finer costs time and wins little."""

CLASS_ROWS = 4
"""Labelled rows of each class that close a block for the AUC: small enough to bet on, large enough to lose little."""

BETS = np.array([0.02, 0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.75, 0.9])
"""Shares of the largest safe bet that the tests of means mix over."""

_LARGEST = 690.0  # e^690 is the largest round number that a float holds: evidence stays finite


@dataclass(frozen=True, slots=True, eq=False)
class Arms:
    """Counts of both arms, one row a stratum (a step of the rollout), one column a question.

    Attributes:
        candidate_n: Trials of the candidate, [strata, questions], or [strata, 1] when all questions share them.
        candidate_k: Those that were hits, [strata, questions].
        serving_n: Trials of the serving release, likewise.
        serving_k: Its hits, [strata, questions].
    """

    candidate_n: Counts
    candidate_k: Counts
    serving_n: Counts
    serving_k: Counts

    @classmethod
    def of(cls, strata: Sequence[tuple[int, int, int, int]]) -> Arms:
        """One question, from (candidate_n, candidate_k, serving_n, serving_k) of each stratum."""
        table = np.array(strata, dtype=np.int64).reshape(-1, 4)
        return cls(table[:, :1], table[:, 1:2], table[:, 2:3], table[:, 3:4])


def e_value(log_e: float) -> float:
    """An e-value from its logarithm, kept finite."""
    return math.exp(max(-_LARGEST, min(_LARGEST, log_e)))


def log_e_share(arms: Arms, null: Null, margin: float, *, prior: Prior = RARE, same: bool = False) -> Floats:
    """Evidence against H0 "candidate's share <= (or >=) serving's share + margin in every stratum".

    Shares may differ between strata; hits are independent given their stratum and arm.

    Args:
        arms: The counts.
        null: The direction of H0.
        margin: What is added to the serving release's share, 0 or more.
        prior: Of each arm's share under the alternatives.
        same: Whether "both shares are equal" is among the alternatives, which proves equality sooner.

    Returns:
        Natural logarithm of the e-value for each question, [questions].
    """
    candidate_k, serving_k = arms.candidate_k.sum(axis=0), arms.serving_k.sum(axis=0)
    candidate_n, serving_n = arms.candidate_n.sum(axis=0), arms.serving_n.sum(axis=0)
    # One call for all marginals: each stratum and arm, both arms over all strata, everything together.
    marginals = _marginal(
        np.vstack([arms.candidate_k, arms.serving_k, candidate_k, serving_k, candidate_k + serving_k]),
        np.vstack([arms.candidate_n, arms.serving_n, candidate_n, serving_n, candidate_n + serving_n]),
        prior,
    )
    alternatives = np.logaddexp(marginals[:-3].sum(axis=0), marginals[-3] + marginals[-2]) - math.log(2)
    if same:
        alternatives = np.logaddexp(alternatives, marginals[-1]) - math.log(2)
    return np.asarray(alternatives - _largest_likelihood(arms, null, margin).sum(axis=0))


def log_e_shift(candidate: Counts, serving: Counts, null: Null, bins: int) -> Floats:
    """Evidence against H0 "the candidate's values lie at most (or at least) `bins` bins above the serving release's".

    "At most" says that P(candidate > bound i + bins) <= P(serving > bound i) for every i; "at least" turns the sign.
    Each bound is a question of its own; their average is an e-value again.

    Args:
        candidate: Values by bin, [strata, n bins].
        serving: Values by bin, [strata, n bins].
        null: The direction of H0.
        bins: The margin in whole bins, 0 or more.

    Returns:
        Natural logarithm of the e-value at each bound, [n bins - 1 - bins].
    """
    above_candidate, above_serving = _above(candidate)[:, bins:], _above(serving)
    questions = above_candidate.shape[1]
    above_serving = above_serving[:, :questions]
    if questions < 1:
        return np.zeros(0)
    # Below all values and above all values every bound asks the same: one of them speaks for the others.
    moves = np.flatnonzero(np.any(np.diff(np.vstack([above_candidate, above_serving]), axis=1), axis=0))
    first, last = (int(moves[0]), int(moves[-1]) + 1) if moves.size else (0, 0)
    asked = slice(first, last + 1)
    arms = Arms(
        candidate.sum(axis=1, keepdims=True),
        above_candidate[:, asked],
        serving.sum(axis=1, keepdims=True),
        above_serving[:, asked],
    )
    log_e = log_e_share(arms, null, 0.0, prior=ANY)
    return np.asarray(np.pad(log_e, (first, questions - 1 - last), mode="edge"))


def log_average(log_e: Floats) -> float:
    """Logarithm of the average of e-values, itself an e-value. Nothing to average is no evidence (0)."""
    if log_e.size == 0:
        return 0.0
    top = float(log_e.max())
    return top + math.log(float(np.exp(log_e - top).mean()))


def log_e_above(n: Counts, k: Counts, maximum: float) -> Floats:
    """Evidence against H0 "the share is at most `maximum`" from k hits in n trials: one arm, no comparison.

    Args:
        n: Trials, any shape.
        k: Hits, of the same shape.
        maximum: The bound.
    """
    return np.asarray(_marginal(k, n, RARE) - _log_likelihood(k, n, np.minimum(k / np.maximum(n, 1), maximum)))


def log_e_mean(values: Floats, null: Null, bound: float) -> float:
    """Evidence against H0 "the mean is at most (or at least) `bound`", of values in [-1, 1] in the order they came."""
    if values.size == 0:
        return 0.0
    gains = values - bound if null == "at-most" else bound - values
    worst = 1.0 + bound if null == "at-most" else 1.0 - bound  # the largest possible loss of a bet of 1
    wealth = np.log1p(np.outer(BETS / worst, gains)).sum(axis=1)
    return log_average(wealth)


def log_e_means(candidate: Counts, serving: Counts, null: Null, margin: float) -> float:
    """Evidence against H0 "the candidate's mean is at most (or at least) the serving release's plus `margin`".

    Values lie in [0, 1] and are counted in equal bins; each is taken for the end of its bin that speaks for H0, so the
    evidence holds for the values themselves. Whatever the serving release's mean is, one arm or the other must be off
    its side of it for H0 to be wrong: the product of both arms' bets, at the mean where it is least.

    Args:
        candidate: Values by bin, [strata, n bins].
        serving: Values by bin, [strata, n bins].
        null: The direction of H0.
        margin: What is added to the serving release's mean, in (-1, 1).

    Returns:
        Natural logarithm of the e-value.
    """
    if null == "at-least":  # the same in a mirror
        return log_e_means(candidate[:, ::-1], serving[:, ::-1], "at-most", -margin)
    bins = candidate.shape[1]
    ends = np.arange(bins + 1) / bins
    # Bets fall with the candidate's bound and rise with the serving release's: between two of these means the product
    # is at least that of the ends.
    means = np.arange(_MEANS + 1) / _MEANS
    bounds = np.minimum(1.0, means[1:] + margin)
    possible = bounds > 0  # a mean below 0 cannot be: H0 does not allow for it
    above, below = bounds[possible, None, None], means[:-1][possible, None, None]
    stakes = BETS[:, None]
    rises = np.log1p(stakes * (ends[:-1] - above) / above)  # [means, stakes, bins]
    falls = np.log1p(stakes * (below - ends[1:]) / (1.0 - below))
    log_e = _mixture(rises @ candidate.T) + _mixture(falls @ serving.T)  # [means, strata]
    return float(log_e.min(axis=0).sum())


def _mixture(wealth: Floats) -> Floats:
    """Logarithm of the average over the stakes, [means, stakes, strata] to [means, strata]."""
    return np.asarray(np.logaddexp.reduce(wealth, axis=1) - math.log(len(BETS)))


def auc_blocks(score: Sequence[float], label: Sequence[int], most: int | None = None) -> Floats:
    """AUC of consecutive blocks of labelled predictions, [blocks].

    A block ends as soon as it has CLASS_ROWS rows of each class. Where blocks end depends on labels alone, so each
    block's AUC is an unbiased estimate of its own; the unfinished rest is left out. `most`: only so many blocks.
    """
    scores, labels = np.asarray(score, dtype=np.float64), np.asarray(label, dtype=np.int64)
    ends = _block_ends(labels)[:most]
    if not ends:
        return np.zeros(0)
    rows = ends[-1]
    scores, labels = scores[:rows], labels[:rows]
    block = np.searchsorted(np.array(ends), np.arange(rows), side="right")
    order = np.lexsort((scores, block))
    scores, labels, block = scores[order], labels[order], block[order]
    # Ranks of equal scores within a block are their average.
    fresh = np.r_[True, (np.diff(scores) != 0) | (np.diff(block) != 0)]
    group = np.cumsum(fresh) - 1
    first = np.flatnonzero(fresh)
    last = np.r_[first[1:], rows] - 1
    starts = np.r_[0, ends[:-1]]
    rank = ((first + last) / 2)[group] - starts[block] + 1
    positive = np.bincount(block, weights=labels)
    negative = np.bincount(block) - positive
    ranks = np.bincount(block, weights=rank * labels)
    return np.asarray((ranks - positive * (positive + 1) / 2) / (positive * negative), dtype=np.float64)


def detectable_share(share: float, points: tuple[int, int], alpha: float, power: float = 0.8) -> float:
    """Smallest share of the candidate that a sample would tell from `share` with this power; an approximation.

    On the scale 2 asin(sqrt(share)) the difference of two observed shares has variance 1/n + 1/m whatever the shares.

    Args:
        share: The serving release's, tolerance added.
        points: Trials of both arms.
        alpha: Level of the test.
        power: Probability of showing it.
    """
    error = math.sqrt(sum(1 / max(1, n) for n in points))
    angle = 2 * math.asin(math.sqrt(min(1.0, max(0.0, share)))) + _deviations(alpha, _price(points), power) * error
    return math.sin(min(angle, math.pi) / 2) ** 2


def detectable_shift(spreads: tuple[float, float], points: tuple[int, int], alpha: float, power: float = 0.8) -> float:
    """Smallest shift beyond the tolerance, in bins, that a sample would show with this power; an approximation.

    A split at the median knows 2/pi of what the mean knows of a shift of a normal distribution.

    Args:
        spreads: Variance of a value of each arm, in bins.
        points: Values of both arms.
        alpha: Level of the test.
        power: Probability of showing it.
    """
    error = math.sqrt(math.pi / 2 * sum(spread / max(1, n) for spread, n in zip(spreads, points, strict=True)))
    return _deviations(alpha, _price(points) + math.log(_BOUNDS_A_SHIFT_SHOWS_AT), power) * error


def detectable_mean(spread: float, points: int, alpha: float, power: float = 0.8) -> float:
    """Smallest difference of a mean that `points` values of this variance would show; as `detectable_share`."""
    return _deviations(alpha, math.log(len(BETS)), power) * math.sqrt(spread / max(1, points))


_BOUNDS_A_SHIFT_SHOWS_AT = 15.0  # of some sixty bounds about four show a shift well: their average is a fifteenth


def _deviations(alpha: float, price: float, power: float) -> float:
    """Standard errors that a difference has to be away.

    The logarithm of an e-value grows like half the squared deviation, less the price of not knowing the alternative.
    """
    return math.sqrt(2.0 * (math.log(1.0 / alpha) + price)) + NormalDist().inv_cdf(power)


def _price(points: tuple[int, int]) -> float:
    """What a mixture over both arms' shares costs: by Jeffreys' prior log(n pi / 2) / 2 for each."""
    return sum(0.5 * math.log(max(1.0, n * math.pi / 2)) for n in points)


def _above(histogram: Counts) -> Counts:
    """How many values lie above each bound, [strata, bins - 1]."""
    return histogram[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]


def _block_ends(labels: Counts) -> list[int]:
    """Row after the last one of each complete block."""
    positive, negative = np.flatnonzero(labels == 1).tolist(), np.flatnonzero(labels != 1).tolist()
    ends: list[int] = []
    one = other = CLASS_ROWS - 1  # where the next block has enough of each class
    while one < len(positive) and other < len(negative):
        ends.append(1 + max(positive[one], negative[other]))
        one = bisect_left(positive, ends[-1], one) + CLASS_ROWS - 1
        other = bisect_left(negative, ends[-1], other) + CLASS_ROWS - 1
    return ends


def _marginal(k: Counts, n: Counts, prior: Prior) -> Floats:
    """Log likelihood of k hits in n trials, averaged over the prior of the share."""
    hits, trials = np.asarray(k, dtype=np.float64), np.asarray(n, dtype=np.float64)
    some, misses = _log_gamma(hits + 0.5), trials - hits
    mixed = some + _log_gamma(misses + 0.5) - _log_gamma(trials + 1) - math.log(math.pi) + math.log(prior.any)
    if prior.rare:
        rare = some + _log_gamma(misses + 10) - _log_gamma(trials + 10.5) - _RARE + math.log(prior.rare)
        mixed = np.logaddexp(mixed, rare)
    return np.asarray(np.logaddexp(mixed, np.where(hits == 0, math.log(prior.zero), -np.inf)))


_RARE = math.lgamma(0.5) + math.lgamma(10) - math.lgamma(10.5)


def _log_gamma(x: Floats) -> Floats:
    """log Gamma for x >= 1/2: Stirling's series after moving the argument up by 8; exact to 1e-12."""
    pairs = x * (x + 7.0)  # x (x+1) ... (x+7), its factors taken in pairs from outside in
    product = pairs * (pairs + 6.0) * (pairs + 10.0) * (pairs + 12.0)
    y = x + 8.0
    square = 1.0 / (y * y)
    series = (1 / 12 - (1 / 360 - (1 / 1260 - square / 1680) * square) * square) / y
    return np.asarray((y - 0.5) * np.log(y) - y + 0.5 * math.log(2 * math.pi) + series - np.log(product))


def _log_likelihood(k: Counts, n: Counts, share: Floats | float) -> Floats:
    """k log p + (n - k) log(1 - p), with 0 log 0 = 0."""
    p = np.asarray(share, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        hits = np.where(k > 0, k * np.log(p), 0.0)
        misses = np.where(n > k, (n - k) * np.log1p(-p), 0.0)
    return np.asarray(hits + misses)


def _largest_likelihood(arms: Arms, null: Null, margin: float) -> Floats:
    """Log of the largest likelihood that H0 allows, [strata, questions]."""
    candidate, serving = (
        arms.candidate_k / np.maximum(arms.candidate_n, 1),
        arms.serving_k / np.maximum(arms.serving_n, 1),
    )
    inside = candidate <= serving + margin if null == "at-most" else candidate >= serving + margin
    # Without trials an arm says nothing, and H0 is never contradicted.
    inside = inside | (arms.candidate_n == 0) | (arms.serving_n == 0)
    if margin == 0.0:
        both = (arms.candidate_k + arms.serving_k) / np.maximum(arms.candidate_n + arms.serving_n, 1)
        edge = both
    else:
        edge = np.zeros(inside.shape)
        counts = np.broadcast_arrays(arms.candidate_n, arms.candidate_k, arms.serving_n, arms.serving_k)
        for place in zip(*np.nonzero(~inside), strict=True):
            edge[place] = _edge([int(count[place]) for count in counts], margin)
    return np.asarray(
        _log_likelihood(arms.candidate_k, arms.candidate_n, np.where(inside, candidate, edge + margin))
        + _log_likelihood(arms.serving_k, arms.serving_n, np.where(inside, serving, edge))
    )


def _edge(counts: Sequence[int], margin: float) -> float:
    """Serving's share p that makes the counts (as `Arms`) likeliest when the candidate's is exactly p + margin."""
    candidate_n, candidate_k, serving_n, serving_k = counts
    low, high = 0.0, 1.0 - margin
    for _ in range(60):  # the likelihood is concave: its slope changes sign once
        p = (low + high) / 2
        slope = (
            serving_k / p - (serving_n - serving_k) / (1 - p)
            + candidate_k / (p + margin) - (candidate_n - candidate_k) / (1 - p - margin)
        )  # fmt: skip
        low, high = (p, high) if slope > 0 else (low, p)
    return (low + high) / 2
