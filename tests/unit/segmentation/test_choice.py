import numpy as np
import pytest

from shoal.errors import ConfigError
from shoal.segmentation import bic, penalised, released_rule, segment_series, segment_similarity
from shoal.units import Segmentation


def planted(sizes, noise, seed):
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(len(sizes)), sizes)
    features = rng.standard_normal((len(sizes), 64))[group] + noise * rng.standard_normal((sum(sizes), 64))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return segment_similarity(features @ features.T)


def curve(*losses):
    starts = tuple(tuple(range(k)) for k in range(1, len(losses) + 1))
    return Segmentation(losses=losses, starts=starts, length=len(losses))


@pytest.mark.parametrize("sizes", [(32,), (8, 24), (10, 12, 10), (7, 6, 4, 9, 6)])
@pytest.mark.parametrize("choose", [penalised, bic])
def test_planted_groups_are_counted(choose, sizes):
    counts = [choose(planted(sizes, 0.3, seed)) for seed in range(11)]
    assert np.median(counts) == len(sizes)


@pytest.mark.parametrize(("beta", "k"), [(0.0, 4), (0.5, 3), (1.5, 2), (20.0, 1)])
def test_the_dearer_a_segment_the_fewer_there_are(beta, k):
    assert penalised(curve(10.0, 2.0, 1.0, 0.7), beta=beta) == k


def test_equal_costs_go_to_fewer_segments():
    assert penalised(curve(2.0, 1.0, 0.0), beta=1.0) == 1


@pytest.mark.parametrize("choose", [penalised, bic, lambda found: released_rule(found, most=1)])
def test_a_single_unit_is_one_segment(choose):
    assert choose(segment_series([3.0])) == 1


@pytest.mark.parametrize("length", [1, 2, 3, 8])
@pytest.mark.parametrize(
    "choose", [penalised, bic, lambda found: released_rule(found, most=len(found.losses))]
)
def test_units_that_are_all_alike_are_one_segment(choose, length):
    assert choose(segment_similarity(np.ones((length, length)))) == 1


def test_a_loss_of_zero_does_not_send_the_criterion_to_all_segments():
    assert bic(segment_series([0.0] * 6 + [9.0] * 6)) == 2


@pytest.mark.parametrize("beta", [-1.0, float("nan"), float("inf")])
def test_an_impossible_penalty_is_refused(beta):
    with pytest.raises(ConfigError, match=f"beta={beta}: a number from 0 upwards works"):
        penalised(curve(1.0, 0.0), beta=beta)


@pytest.mark.parametrize(("most", "k"), [(1, 1), (2, 2), (3, 2), (4, 4), (5, 4)])
def test_the_released_rule_takes_the_last_step_that_helps(most, k):
    assert released_rule(curve(10.0, 5.0, 4.9, 2.0, 2.0), most=most) == k


def test_the_released_rule_stops_at_a_loss_of_zero():
    assert released_rule(curve(10.0, 0.0, 0.0), most=3) == 2


@pytest.mark.parametrize("most", [0, 4])
def test_the_released_rule_refuses_what_was_not_computed(most):
    with pytest.raises(ConfigError, match=f"at most {most} segments: segmentations into 1 to 3"):
        released_rule(curve(3.0, 2.0, 0.0), most=most)
