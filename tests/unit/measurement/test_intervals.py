import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shoal.measurement.intervals import MeanTally, student_quantile, wilson_interval


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_the_interval_of_a_share_holds_it_and_lies_between_0_and_1(trials, share):
    successes = round(share * trials)
    low, high = wilson_interval(successes, trials)
    assert 0 <= low <= successes / trials + 1e-12
    assert successes / trials - 1e-12 <= high <= 1


def test_the_interval_of_a_share_solves_its_equation():
    # The bounds are the shares p for which the observed one lies 1.96 standard errors away.
    for bound in wilson_interval(37, 50):
        assert abs(37 / 50 - bound) == pytest.approx(1.959964 * math.sqrt(bound * (1 - bound) / 50))


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 9, 30, 100, 10_000])
def test_the_quantile_is_that_of_students_t(degrees):
    # A statistic of t below q is a chance of 97.5 %: the density is integrated from 0 to q.
    q = student_quantile(degrees)
    x = torch.linspace(0, q, 200_001, dtype=torch.float64)
    scale = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(degrees * math.pi)
    density = scale * (1 + x**2 / degrees) ** (-(degrees + 1) / 2)
    assert torch.trapezoid(density, x).item() == pytest.approx(0.475, abs=1e-4)


def tally_of(values, weights, *cuts):
    tally = MeanTally()
    ends = (0, *cuts, len(values))
    for start, stop in pairwise(ends):
        tally.add(values[start:stop], weights[start:stop])
    return tally


@pytest.mark.parametrize("cuts", [(), (1,), (0, 3, 3)])
def test_the_error_of_a_mean_is_that_of_a_ratio_however_samples_are_batched(cuts):
    values, weights = torch.rand(7).double(), torch.randint(1, 9, (7,))
    mean = (weights * values).sum() / weights.sum()
    error = (7 / 6 * (weights * (values - mean)).square().sum()).sqrt() / weights.sum()
    tally = tally_of(values, weights, *cuts)
    assert (tally.count, tally.weight) == (7, weights.sum())
    assert tally.mean == pytest.approx(mean.item())
    assert tally.error == pytest.approx(error.item())
    low, high = tally.interval
    assert (high - tally.mean) / tally.error == pytest.approx(2.447, rel=1e-3)
    assert low + high == pytest.approx(2 * tally.mean)


def test_equal_weights_give_the_usual_error_of_a_mean():
    values = torch.rand(20).double()
    tally = tally_of(values, torch.full((20,), 3))
    assert tally.error == pytest.approx((values.std() / math.sqrt(20)).item())


def test_values_far_from_0_lose_no_digits():
    values = torch.rand(50).double()
    near, far = (tally_of(values + shift, torch.ones(50)) for shift in (0.0, 1e6))
    assert far.error == pytest.approx(near.error, rel=1e-6)


@pytest.mark.parametrize("zeros", [0, 3])
def test_one_sample_has_no_error_and_what_weighs_nothing_is_no_sample(zeros):
    tally = tally_of(torch.full((1 + zeros,), 2.0).double(), torch.tensor([4] + [0] * zeros))
    assert (tally.mean, tally.error, tally.interval) == (2.0, None, None)


def test_the_interval_of_a_mean_holds_the_truth_in_19_of_20_trials():
    # Sixteen windows of 1 to 20 tokens, whose mean loss is 1.
    generator = torch.Generator().manual_seed(0)
    held = 0
    for _ in range(1000):
        weights = torch.randint(1, 21, (16,), generator=generator)
        low, high = tally_of(1 + torch.randn(16, generator=generator).double(), weights).interval
        held += low <= 1 <= high
    assert held == pytest.approx(950, abs=25)
