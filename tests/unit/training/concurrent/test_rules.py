import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies

from shoal.errors import ConfigError
from shoal.training.concurrent.rules import Gain, attracted, moved, price_of_prior


def log_prior(p, gamma):
    """The hyper-prior p(π | γ) of Guenter & Sideris, 2024; for γ > 1 its mirror image."""
    shut = 1 - p if gamma < 1 else p
    return np.log((gamma - 1) / np.log(gamma)) - np.log1p((gamma - 1) * shut)


def over_prior(theta, gamma):
    """max over π of log p(π | γ) − KL(θ ‖ π), by Newton's method on a bracket; and where it is."""
    low, high = -60.0, 60.0

    def slope(logit):
        # d/dlogit of both terms, π = sigmoid(logit).
        p = 1 / (1 + math.exp(-logit))
        shut = 1 - p if gamma < 1 else p
        sign = 1 if gamma < 1 else -1
        return (theta - p) + sign * (gamma - 1) * p * (1 - p) / (1 + (gamma - 1) * shut)

    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    p = 1 / (1 + math.exp(-low))
    divergence = theta * math.log(theta / p) + (1 - theta) * math.log((1 - theta) / (1 - p))
    return float(log_prior(p, gamma)) - divergence, p


GAMMAS = (0.01, 0.3, 100.0, 3.0)
THETAS = (0.05, 0.2, 0.5, 0.8, 0.95)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_the_hyper_prior_integrates_to_one(gamma):
    nodes, weights = np.polynomial.legendre.leggauss(200)
    assert (weights / 2 * np.exp(log_prior((nodes + 1) / 2, gamma))).sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("samples", [1, 1300])
def test_maximised_over_pi_the_objective_is_affine_in_theta_with_the_price_as_its_slope(gamma, samples):
    values = [over_prior(theta, gamma)[0] for theta in THETAS]
    slopes = np.diff(values) / np.diff(THETAS)
    # Of what is maximised: what is minimised rises by it, for each sample.
    assert -slopes / samples == pytest.approx(price_of_prior(gamma, samples), abs=1e-8 / samples)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("theta", THETAS)
def test_the_best_pi_is_that_of_the_closed_form(gamma, theta):
    below = gamma if gamma < 1 else 1 / gamma
    closed = below * theta / (1 - theta + below * theta)
    assert over_prior(theta, gamma)[1] == pytest.approx(closed, abs=1e-8)


@pytest.mark.parametrize("gamma", [0, -1, 1, math.inf, math.nan])
def test_a_prior_out_of_range_is_refused(gamma):
    with pytest.raises(ConfigError, match=r"a prior of gamma=.*: a number above 0 other than 1 works"):
        price_of_prior(gamma, 10)


@pytest.mark.parametrize("samples", [0, -3])
def test_a_prior_on_no_samples_is_refused(samples):
    with pytest.raises(ConfigError, match=f"a prior on {samples} samples: 1 or more works"):
        price_of_prior(0.1, samples)


@settings(deadline=None, max_examples=60)
@given(
    strategies.lists(strategies.floats(-10, 10), max_size=30),
    strategies.sampled_from([0.0, 0.5, 0.9, 0.98]),
)
def test_averages_are_those_of_explicit_weights(values, memory):
    gain = Gain(memory=memory)
    for value in values:
        gain.add(value)
    assert gain.count == len(values)
    if not values:
        assert (gain.mean, gain.deviation, gain.error) == (0, math.inf, math.inf)
        return
    weights = np.array([memory ** (len(values) - 1 - at) for at in range(len(values))])
    mean = (weights * values).sum() / weights.sum()
    variance = (weights * (np.array(values) - mean) ** 2).sum() / weights.sum()
    assert gain.mean == pytest.approx(mean, abs=1e-9)
    if len(values) == 1:
        assert (gain.deviation, gain.error) == (math.inf, math.inf)
        return
    assert gain.deviation == pytest.approx(math.sqrt(variance), abs=1e-5)
    counting = weights.sum() ** 2 / (weights**2).sum()
    if memory == 0 or len(values) < 10:
        assert gain.error == math.inf
    else:
        assert gain.error == pytest.approx(math.sqrt(variance / (counting - 1)), abs=1e-5)


def test_the_error_is_that_of_means_of_as_many_batches():
    draw = np.random.default_rng(0)
    errors, means = [], []
    for _ in range(300):
        gain = Gain(memory=0.9)
        for value in draw.normal(1.0, 2.0, 60):
            gain.add(value)
        errors.append(gain.error)
        means.append(gain.mean)
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(means), rel=0.1)


@settings(deadline=None, max_examples=100)
@given(
    strategies.floats(0, 1),
    strategies.floats(-1, 1),
    strategies.floats(0, 1),
    strategies.floats(0.01, 1e4),
    strategies.floats(1, 20),
    strategies.sampled_from([0.0, 1e-3, 0.5, math.inf]),
)
def test_a_gate_takes_one_projected_step_towards_what_its_unit_is_worth(
    theta, gain, price, step, share, deviation
):
    found = moved(theta, gain, price, step=step, share=share, deviation=deviation)
    rate = step * share
    if deviation > 0:
        rate = min(rate, 0.02 / deviation)
    assert found == pytest.approx(np.clip(theta + rate * (gain - price), 0, 1))
    assert 0 <= found <= 1


SYSTEMS = [(0.5, 1.0, 0.3, 200), (0.5, 0.8, 0.4, 150)]


@pytest.mark.parametrize(("decay", "influence", "price", "count"), SYSTEMS)
def test_the_region_of_attraction_is_where_simulated_training_goes_to_zero(decay, influence, price, count):
    """r' = kθ − λr, θ' = kr − ρ, θ kept in [0, 1], by Euler steps of 1e-3."""
    draw = np.random.default_rng(0)
    saddle_theta, saddle_norm = decay * price / influence**2, price / influence
    starts = draw.uniform(0, [1.0, 2 * saddle_norm], (count, 2))
    expected = [
        attracted(theta, norm, decay=decay, influence=influence, price=price) for theta, norm in starts
    ]
    theta, norm = starts.T.copy()
    for _ in range(40_000):
        change = influence * theta - decay * norm
        theta = np.clip(theta + 1e-3 * (influence * norm - price), 0, 1)
        norm = np.maximum(norm + 1e-3 * change, 0)
    assert 0 < sum(expected) < count
    assert [bool(dead) for dead in (theta == 0) & (norm < 1e-3)] == expected
    # The box that is inside of it, and the saddle itself, which is not.
    assert attracted(0.999 * saddle_theta, 0.999 * saddle_norm, decay=decay, influence=influence, price=price)
    assert not attracted(saddle_theta, saddle_norm, decay=decay, influence=influence, price=price)


def test_the_saddle_is_the_published_one():
    slope = (math.sqrt(0.5**2 + 4 * 0.8**2) - 0.5) / 1.6
    assert slope == pytest.approx(0.7352, abs=1e-4)
    edge = 0.3125 + slope * 0.5
    assert attracted(edge - 1e-6, 0, decay=0.5, influence=0.8, price=0.4)
    assert not attracted(edge + 1e-6, 0, decay=0.5, influence=0.8, price=0.4)


@pytest.mark.parametrize("influence", [0.0, -1.0])
def test_a_unit_that_never_changed_the_loss_is_attracted(influence):
    assert attracted(1.0, 9.0, decay=0.1, influence=influence, price=0.1)


def test_without_decay_only_the_norm_is_measured():
    assert attracted(0.0, 0.09, decay=0.0, influence=1.0, price=0.1)
    assert not attracted(0.02, 0.09, decay=0.0, influence=1.0, price=0.1)
