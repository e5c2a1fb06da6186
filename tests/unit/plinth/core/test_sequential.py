import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plinth.core import sequential
from plinth.core.sequential import RARE, Arms

SEED = 20260901
ALPHA = 0.05


def share(strata, null, margin, **more):
    return float(sequential.log_e_share(Arms.of(strata), null, margin, **more)[0])


def peeked(dice, probability, weight, *, runs, looks, requests=20):
    """Cumulative counts of one step at every look of every run, one question each: [1, runs * looks]."""
    candidate_n = dice.binomial(requests, weight, (runs, looks))
    serving_n = requests - candidate_n
    candidate_k, serving_k = (dice.binomial(n, p) for n, p in zip((candidate_n, serving_n), probability, strict=True))
    counts = (candidate_n, candidate_k, serving_n, serving_k)
    return Arms(*(np.cumsum(count, axis=1).reshape(1, -1) for count in counts))


def ever(log_e, runs, alpha=ALPHA):
    """Share of the runs in which the evidence reaches 1/alpha at any look."""
    return np.mean((log_e.reshape(runs, -1) >= math.log(1 / alpha)).any(axis=1))


@pytest.mark.parametrize(
    ("probability", "margin"),
    [((0.0, 0.0), 0.0), ((0.002, 0.002), 0.0), ((0.3, 0.3), 0.0), ((0.021, 0.001), 0.02), ((0.02, 0.0), 0.02)],
)
@pytest.mark.parametrize("weight", [0.1, 0.5])
def test_looking_all_the_time_raises_no_more_false_alarms_than_alpha(probability, margin, weight):
    print("seed", SEED)
    dice = np.random.default_rng(SEED)
    arms = peeked(dice, probability, weight, runs=300, looks=100)
    for prior in (sequential.RARE, sequential.ANY):
        assert ever(sequential.log_e_share(arms, "at-most", margin, prior=prior), 300) <= ALPHA


@pytest.mark.parametrize("same", [False, True])
def test_a_regression_at_the_edge_is_hardly_ever_taken_for_none(same):
    print("seed", SEED)
    dice = np.random.default_rng(SEED)
    arms = peeked(dice, (0.02, 0.0), 0.5, runs=300, looks=100)
    assert ever(sequential.log_e_share(arms, "at-least", 0.02, same=same), 300) <= ALPHA


def test_the_average_of_the_ratio_is_at_most_one_whatever_the_share_under_the_hypothesis():
    # Exactly: all outcomes of small samples, weighted by their probabilities.
    for p in (0.0, 0.03, 0.2, 0.5, 0.9):
        for margin in (0.0, 0.05):
            for null, shares in (("at-most", (p + margin, p)), ("at-least", (p + margin, p))):
                mean = sum(
                    math.comb(6, a) * shares[0] ** a * (1 - shares[0]) ** (6 - a)
                    * math.comb(9, b) * shares[1] ** b * (1 - shares[1]) ** (9 - b)
                    * math.exp(share([(6, a, 9, b)], null, margin, same=True))
                    for a in range(7) for b in range(10)
                )  # fmt: skip
                assert mean <= 1 + 1e-9, (p, margin, null)


def test_the_ratio_is_the_mixture_over_the_largest_likelihood():
    # Against a numerical integral over both shares and a search over H0.
    arms, margin = (30, 4, 60, 1), 0.01
    grid = (np.arange(20000) + 0.5) / 20000
    prior = 1 / (math.pi * np.sqrt(grid * (1 - grid)))

    def mixed(n, k):
        any_share = np.mean(prior * grid**k * (1 - grid) ** (n - k))
        rare = np.mean(grid ** (k - 0.5) * (1 - grid) ** (n - k + 9)) / np.mean(grid**-0.5 * (1 - grid) ** 9)
        return RARE.any * any_share + RARE.rare * rare + RARE.zero * (k == 0)

    serving = grid[grid < 1 - margin]
    edge = serving + margin
    largest = np.max(edge**4 * (1 - edge) ** 26 * serving * (1 - serving) ** 59)
    expected = math.log(mixed(30, 4) * mixed(60, 1) / largest)
    assert share([arms], "at-most", margin) == pytest.approx(expected, abs=0.03)


def test_two_percent_errors_against_none_are_found_within_sixteen_hundred_requests():
    dice = np.random.default_rng(SEED)
    log_e = sequential.log_e_share(peeked(dice, (0.02, 0.0), 0.5, runs=60, looks=200), "at-most", 0.001)
    found = log_e.reshape(60, 200) >= math.log(100)
    assert found.any(axis=1).all()
    requests = 20 * (1 + found.argmax(axis=1))
    assert np.median(requests) < 1600


def test_one_failure_in_ten_requests_proves_nothing():
    assert share([(10, 1, 90, 0)], "at-most", 0.001) < math.log(20)


def test_steps_are_compared_within_themselves():
    # Errors come in the first step, in which the candidate has half the traffic, and equally often in both arms.
    # Added up they would look like a candidate that is five times as bad.
    strata = [(500, 50, 500, 50), (100, 0, 4500, 0)]
    assert share(strata, "at-most", 0.0) < 0
    assert share([tuple(map(sum, zip(*strata, strict=True)))], "at-most", 0.0) > math.log(20)


@given(
    st.integers(0, 40), st.integers(0, 40), st.integers(1, 40), st.integers(1, 40), st.sampled_from([0.0, 0.02, 0.5])
)
def test_a_share_inside_the_hypothesis_is_never_evidence_against_it(a, b, n, m, margin):
    k, j = min(a, n), min(b, m)
    if k / n <= j / m + margin:
        assert share([(n, k, m, j)], "at-most", margin) <= 0
    else:
        assert share([(n, k, m, j)], "at-least", margin, same=True) <= 0


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=4))
def test_without_a_second_arm_there_is_no_evidence(arms):
    strata = [(n, min(k, n), 0, 0) for n, k in arms]
    assert share(strata, "at-most", 0.001) <= 0
    assert share(strata, "at-least", 0.02) <= 0


def histogram(dice, n, shift=0, spread=2.0, bins=30):
    return np.bincount(
        np.clip(np.round(dice.normal(bins * 0.4 + shift, spread, n)), 0, bins - 1).astype(int), minlength=bins
    )


def test_a_shift_within_the_tolerance_raises_no_more_false_alarms_than_alpha():
    print("seed", SEED)
    dice = np.random.default_rng(SEED)
    alarms = 0
    for _ in range(100):
        steps = [(histogram(dice, 4, shift=1), histogram(dice, 16)) for _ in range(40)]
        candidate, serving = (np.cumsum([step[arm] for step in steps], axis=0) for arm in (0, 1))
        alarms += any(
            sequential.log_average(sequential.log_e_shift(one[None], other[None], "at-most", 1)) >= math.log(1 / ALPHA)
            for one, other in zip(candidate, serving, strict=True)
        )
    assert alarms / 100 <= ALPHA


def test_a_shift_beyond_the_tolerance_is_found_and_none_is_proved():
    dice = np.random.default_rng(SEED)
    serving, same, slow = histogram(dice, 600)[None], histogram(dice, 600)[None], histogram(dice, 600, shift=2)[None]
    assert sequential.log_average(sequential.log_e_shift(slow, serving, "at-most", 1)) > math.log(100)
    assert sequential.log_average(sequential.log_e_shift(slow, serving, "at-least", 2)) < math.log(20)
    assert sequential.log_average(sequential.log_e_shift(same, serving, "at-most", 1)) < 0
    assert sequential.log_average(sequential.log_e_shift(same, serving, "at-least", 2)) > math.log(1e4)


def test_a_shift_is_questioned_at_every_bound_that_both_arms_have():
    empty = np.zeros((1, 30), dtype=np.int64)
    assert sequential.log_e_shift(empty, empty, "at-most", 2).shape == (27,)
    assert np.all(sequential.log_e_shift(empty, empty, "at-most", 2) <= 0)


def support(dice, n, lost=0.06, whole=0.72):
    """How well answers are supported: most of them wholly, some partly, refusals not at all."""
    values = np.where(dice.random(n) < whole, 1.0, dice.uniform(0.6, 1.0, n))
    values = np.where(dice.random(n) < lost, 0.0, values)
    return np.bincount(np.minimum((values * 40).astype(int), 39), minlength=40)


@pytest.mark.parametrize(("null", "lost"), [("at-most", 0.06 + 0.1 / 0.94), ("at-least", 0.06)])
def test_looking_at_two_means_all_the_time_raises_no_more_false_alarms_than_alpha(null, lost):
    print("seed", SEED)
    dice = np.random.default_rng(SEED)
    margin = -0.1 if null == "at-most" else 0.0  # the very edge of the hypothesis
    alarms = 0
    for _ in range(100):
        steps = [(support(dice, 5, lost), support(dice, 15)) for _ in range(40)]
        candidate, serving = (np.cumsum([step[arm] for step in steps], axis=0) for arm in (0, 1))
        alarms += any(
            sequential.log_e_means(one[None], other[None], null, margin) >= math.log(1 / ALPHA)
            for one, other in zip(candidate, serving, strict=True)
        )
    assert alarms / 100 <= ALPHA


def test_that_answers_lost_no_support_is_proved_though_most_have_no_room_to_be_higher():
    dice = np.random.default_rng(SEED)
    serving, same, worse = support(dice, 500)[None], support(dice, 500)[None], support(dice, 500, lost=0.4)[None]
    assert sequential.log_e_means(same, serving, "at-most", -0.15) > math.log(1e4)
    assert sequential.log_e_means(worse, serving, "at-most", -0.15) < 0
    assert sequential.log_e_means(worse, serving, "at-least", -0.05) > math.log(1e4)
    # The order of the distributions says next to nothing here.
    assert sequential.log_average(sequential.log_e_shift(same[:, ::-1], serving[:, ::-1], "at-least", 6)) < math.log(10)


def test_means_are_compared_within_each_step():
    # Both arms are the same in each step; the candidate had most of its answers in the worse one.
    dice = np.random.default_rng(SEED)
    good, bad = support(dice, 100), support(dice, 100, lost=0.5)
    candidate, serving = np.array([good, 9 * bad]), np.array([9 * good, bad])
    assert sequential.log_e_means(candidate, serving, "at-least", -0.05) < 0
    pooled = candidate.sum(axis=0)[None], serving.sum(axis=0)[None]
    assert sequential.log_e_means(*pooled, "at-least", -0.05) > math.log(100)


def test_two_means_without_values_are_no_evidence_and_a_margin_may_leave_the_range():
    empty, full = np.zeros((1, 40), dtype=np.int64), np.eye(1, 40, 39, dtype=np.int64) * 1000
    assert sequential.log_e_means(empty, empty, "at-most", -0.15) == pytest.approx(0)
    assert sequential.log_e_means(empty, full, "at-least", -0.05) <= 0
    assert sequential.log_e_means(full, full, "at-most", 0.5) <= 0
    assert sequential.log_e_means(full, full, "at-most", -0.99) > math.log(1e4)


def test_an_average_of_nothing_is_no_evidence():
    assert sequential.log_average(np.zeros(0)) == 0.0
    assert sequential.log_average(np.array([0.0, math.log(3)])) == pytest.approx(math.log(2))


@pytest.mark.parametrize("maximum", [0.005, 0.07, 0.5])
def test_one_arm_against_a_maximum_raises_no_more_false_alarms_than_alpha(maximum):
    print("seed", SEED)
    dice = np.random.default_rng(SEED)
    hits = np.cumsum(dice.random((400, 300)) < maximum, axis=1)
    trials = np.broadcast_to(np.arange(1, 301), hits.shape)
    assert ever(sequential.log_e_above(trials, hits, maximum), 400) <= ALPHA
    assert sequential.log_e_above(np.array(100), np.array(100), maximum) > math.log(100)
    assert sequential.log_e_above(np.array(0), np.array(0), maximum) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("mean", [-0.005, 0.0])
def test_betting_on_a_mean_raises_no_more_false_alarms_than_alpha(mean):
    print("seed", SEED)
    dice = np.random.default_rng(SEED)
    alarms = 0
    for _ in range(100):
        values = np.clip(dice.normal(mean, 0.2, 300), -1, 1)
        alarms += any(
            sequential.log_e_mean(values[:n], "at-least", -0.005) >= math.log(1 / ALPHA) for n in range(1, 300, 3)
        )
    assert alarms / 100 <= ALPHA


def test_betting_finds_a_loss_and_proves_its_absence():
    dice = np.random.default_rng(SEED)
    worse, equal = (np.clip(dice.normal(mean, 0.2, 1000), -1, 1) for mean in (-0.05, 0.0))
    assert sequential.log_e_mean(worse, "at-least", -0.005) > math.log(100)
    assert sequential.log_e_mean(worse, "at-most", -0.05) < math.log(20)
    assert sequential.log_e_mean(equal, "at-most", -0.05) > math.log(1e4)
    assert sequential.log_e_mean(np.zeros(0), "at-most", 0.0) == 0.0


def test_the_worst_values_leave_the_bettor_with_something():
    for bound in (-0.05, 0.0, 0.3):
        for null in ("at-most", "at-least"):
            for worst in (-1.0, 1.0):
                assert math.isfinite(sequential.log_e_mean(np.full(50, worst), null, bound))


def auc(score, label):
    positive = [s for s, y in zip(score, label, strict=True) if y == 1]
    negative = [s for s, y in zip(score, label, strict=True) if y == 0]
    wins = sum((p > n) + (p == n) / 2 for p in positive for n in negative)
    return wins / (len(positive) * len(negative))


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.25, 0.4, 0.9]), st.integers(0, 1)), max_size=120))
def test_blocks_are_consecutive_hold_both_classes_and_give_their_auc(rows):
    score, label = [row[0] for row in rows], [row[1] for row in rows]
    expected, start = [], 0
    for end in range(1, len(rows) + 1):
        inside = label[start:end]
        if min(inside.count(0), inside.count(1)) >= sequential.CLASS_ROWS:
            expected.append(auc(score[start:end], inside))
            start = end
    assert sequential.auc_blocks(score, label) == pytest.approx(expected)


def test_without_both_classes_there_are_no_blocks():
    assert len(sequential.auc_blocks([0.1] * 50, [0] * 50)) == 0
    assert len(sequential.auc_blocks([], [])) == 0


@pytest.mark.parametrize("base", [0.0, 0.05, 0.3])
@pytest.mark.parametrize("n", [(300, 2700), (2000, 2000)])
def test_the_detectable_share_is_found_about_four_times_of_five(base, n):
    print("seed", SEED)
    dice = np.random.default_rng(SEED)
    tolerance, alpha = 0.001, 0.01
    least = sequential.detectable_share(base + tolerance, n, alpha)
    arms = Arms(
        np.array([[n[0]]]),
        dice.binomial(n[0], least, (1, 400)),
        np.array([[n[1]]]),
        dice.binomial(n[1], base, (1, 400)),
    )
    found = np.mean(sequential.log_e_share(arms, "at-most", tolerance) >= math.log(1 / alpha))
    print(base, n, least, found)
    assert 0.6 < found <= 0.999


@pytest.mark.parametrize("n", [(300, 2700), (1000, 1000)])
@pytest.mark.parametrize("spread", [2.0, 5.0])
def test_the_detectable_shift_is_found_about_four_times_of_five(n, spread):
    print("seed", SEED)
    dice = np.random.default_rng(SEED)
    alpha = 0.01
    least = sequential.detectable_shift((spread**2, spread**2), n, alpha)
    found = np.mean([
        sequential.log_average(sequential.log_e_shift(
            histogram(dice, n[0], 1 + least, spread, 60)[None], histogram(dice, n[1], 0, spread, 60)[None], "at-most", 1
        )) >= math.log(1 / alpha) for _ in range(100)
    ])  # fmt: skip
    print(n, spread, least, found)
    assert 0.6 < found <= 0.999


def test_the_detectable_mean_is_found_about_four_times_of_five():
    print("seed", SEED)
    dice = np.random.default_rng(SEED)
    alpha, n = 0.01, 400
    least = sequential.detectable_mean(0.04, n, alpha)
    found = np.mean([
        sequential.log_e_mean(np.clip(dice.normal(-0.005 - least, 0.2, n), -1, 1), "at-least", -0.005)
        >= math.log(1 / alpha) for _ in range(200)
    ])  # fmt: skip
    print(least, found)
    assert 0.6 < found <= 0.999


@pytest.mark.parametrize("log_e", [-math.inf, -5000.0, 0.0, 5000.0, math.inf])
def test_an_e_value_is_finite(log_e):
    assert math.isfinite(sequential.e_value(log_e))


@given(st.floats(0.5, 1e9))
def test_the_logarithm_of_gamma_is_the_libraries(x):
    assert float(sequential._log_gamma(np.array(x))) == pytest.approx(math.lgamma(x), rel=1e-12, abs=1e-11)
