"""Paired accuracies, held against enumeration of all that could have been."""

import itertools

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap

from pruning_core.errors import InputError
from pruning_core.evaluation.paired import bootstrap_interval, mcnemar, paired_accuracy


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (3, 3), (1, 8), (9, 1), (0, 10), (5, 6)])
def test_the_p_value_is_the_share_of_coin_tosses_that_are_as_uneven(gained: int, lost: int):
    tosses = list(itertools.product([1, -1], repeat=gained + lost))
    as_uneven = sum(abs(sum(toss)) >= abs(gained - lost) for toss in tosses)
    assert mcnemar(gained, lost) == pytest.approx(as_uneven / len(tosses), rel=1e-12)


@pytest.mark.parametrize(("gained", "lost"), [(4, 11), (30, 0), (500, 400), (1100, 1000)])
def test_the_p_value_is_that_of_scipys_binomial_test(gained: int, lost: int):
    assert mcnemar(gained, lost) == pytest.approx(binomtest(gained, gained + lost).pvalue, rel=1e-12)


@pytest.mark.parametrize(("gained", "lost", "items"), [(5, 20, 200), (40, 25, 400)])
def test_the_interval_is_that_of_scipys_bootstrap(gained: int, lost: int, items: int):
    answers = np.repeat([1, 0, -1], [gained, items - gained - lost, lost])
    drawn = np.random.default_rng(1)
    theirs = bootstrap((answers,), np.mean, n_resamples=20_000, method="percentile", batch=1000, rng=drawn)
    # Quantiles of whole items: of two draws they are the same or next to each other.
    assert bootstrap_interval(gained, lost, items) == pytest.approx(theirs.confidence_interval, abs=1.01 / items)


def test_the_p_value_of_thousands_of_items_is_that_of_the_normal_approximation():
    # 1100 of 2100: (|1100 - 1000| - 1)^2 / 2100 is 4.667, whose chi-squared tail with one degree of freedom is 0.0307.
    assert mcnemar(1100, 1000) == pytest.approx(0.0307, abs=2e-4)


@pytest.mark.parametrize("answers", [[1, 1, -1, 0, 0, 0], [1, 0, 0, 0, 0, 0], [-1, -1, -1, 1, 0, 0]])
def test_the_interval_holds_the_middle_95_percent_of_all_resamples(answers: list[int]):
    every = np.array([sum(drawn) for drawn in itertools.product(answers, repeat=len(answers))]) / len(answers)
    low, high = bootstrap_interval(answers.count(1), answers.count(-1), len(answers), resamples=200_000)
    assert low == pytest.approx(np.quantile(every, 0.025)) and high == pytest.approx(np.quantile(every, 0.975))


def test_a_comparison_counts_only_what_one_of_the_two_answers_right():
    own = [True, True, False, False, True]
    dense = [True, False, True, True, True]
    result = paired_accuracy(own, dense)
    assert (result.items, result.gained, result.lost, result.p_value) == (5, 1, 2, 1.0)
    assert result.difference == pytest.approx(np.mean(own) - np.mean(dense))
    assert result.interval[0] <= result.difference <= result.interval[1]
    assert result == paired_accuracy(own, dense)


def test_a_model_does_not_differ_from_itself():
    result = paired_accuracy([True, False, True], [True, False, True])
    assert (result.difference, result.interval, result.p_value) == (0.0, (0.0, 0.0), 1.0)


def test_pairing_tells_apart_what_two_separate_errors_cannot():
    dense = [index % 2 == 0 for index in range(1000)]
    own = [right and index >= 30 for index, right in enumerate(dense)]
    result = paired_accuracy(own, dense)
    separate = 1.96 * np.sqrt(np.var(own) / 1000 + np.var(dense) / 1000)
    assert result.difference + separate > 0 > result.interval[1]
    assert result.p_value < 1e-3


@pytest.mark.parametrize(("own", "dense"), [([True], [True, False]), ([], [])])
def test_answers_to_other_items_are_refused(own, dense):
    with pytest.raises(InputError, match="same items"):
        paired_accuracy(own, dense)
