from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn

from networks import NETWORKS
from shoal import Budget, Plan, find_units
from shoal.errors import BudgetError, DataError
from shoal.importance import EvidenceSettings, collect_evidence
from shoal.methods import Request
from shoal.methods.angular import METHOD, AngularSettings, choose
from shoal.units import Segment

DEFAULT, PAPER = METHOD.presets["default"], METHOD.presets["paper"]


def random_angles(length, seed):
    """Distances by window as a walk has them: longer windows turn further, but not by the sum."""
    states = torch.randn(length + 1, 3, generator=torch.Generator().manual_seed(seed)).cumsum(0)
    cosines = nn.functional.cosine_similarity(states[:, None], states[None], dim=-1).clamp(-1, 1)
    angles = (cosines.arccos() / torch.pi).double().numpy()
    return np.where(np.arange(length + 1)[None] > np.arange(length)[:, None], angles[:length], np.nan)


def cost(angles, units):
    return sum(angles[run.start, run.stop] for run in Segment.runs(units))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("count", [0, 1, 3, 7, 8])
def test_of_all_sets_of_windows_that_save_enough_the_nearest_goes(ask_chain, seed, count):
    angles = random_angles(8, seed)
    plan = choose(ask_chain(f"units={max(8 - count, 0.01)}", params=[10] * 8, angles=angles), DEFAULT)
    enough = [units for size in range(count, 9) for units in combinations(range(8), size)]
    least = min(cost(angles, units) for units in enough) if count else 0
    assert cost(angles, plan.removed) == pytest.approx(least)
    assert sum(plan.predicted["angular_distance"]) == pytest.approx(least)
    assert Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("count", [1, 3, 7])
def test_the_paper_removes_the_nearest_window_of_that_length(ask_chain, seed, count):
    angles = random_angles(8, seed)
    plan = choose(ask_chain(f"units={8 - count}", params=[10] * 8, angles=angles), PAPER)
    start = min(range(8 - count + 1), key=lambda start: angles[start, start + count])
    assert plan.predicted["windows"] == [[start, start + count]]
    assert plan.predicted["angular_distance"] == [angles[start, start + count]]


@pytest.mark.parametrize("start", [0, 3])
@pytest.mark.parametrize("settings", [DEFAULT, PAPER])
def test_windows_at_both_ends_of_the_chain_may_go(ask_chain, settings, start):
    angles = np.full((5, 6), 0.5)
    angles[start, start + 2] = 0.1
    assert choose(ask_chain(angles=angles), settings).removed == (start, start + 1)


def test_a_single_window_that_saves_enough_may_be_longer_where_units_are_small(ask_chain):
    angles = random_angles(5, 0)
    plan = choose(ask_chain("params=210", params=[40, 10, 10, 10, 60], angles=angles), PAPER)
    # 20 of 230 must go: two small units, or one of the others.
    near = {(0, 1): angles[0, 1], (1, 3): angles[1, 3], (2, 4): angles[2, 4], (4, 5): angles[4, 5]}
    assert tuple(plan.predicted["windows"][0]) == min(near, key=near.__getitem__)


def test_what_a_single_window_can_save_at_most_is_named(ask_chain):
    request = ask_chain("units=2", params=[10] * 6, fixed=[2], angles=random_angles(6, 0))
    assert len(choose(request, DEFAULT).removed) == 4
    with pytest.raises(
        BudgetError, match=r"units=2: with \[3, 6\), one window, gone units=3 remain; the least .* is units=3"
    ):
        choose(request, PAPER)


def turning(*matrices):
    """A chain of linear layers without a bias, and a head."""
    layers = [nn.Linear(4, 4, bias=False) for _ in matrices]
    for layer, matrix in zip(layers, matrices, strict=True):
        layer.weight.data = matrix
    return nn.Sequential(*layers, nn.Linear(4, 2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_the_distance_is_zero_of_equal_half_of_orthogonal_and_one_of_opposite_states(dtype):
    one = torch.eye(4)
    quarter = torch.kron(torch.eye(2), torch.tensor([[0.0, -1.0], [1.0, 0.0]]))
    model, x = turning(one, quarter, -one).to(dtype), torch.randn(8, 4).to(dtype)
    found = collect_evidence(model, find_units(model, x), [x], settings=EvidenceSettings(gradients=False))
    angles = [found.angular_distance[at, at + 1] for at in range(3)]
    np.testing.assert_allclose(angles, [0, 0.5, 1], atol=1e-3 if dtype == torch.float16 else 1e-6)
    assert np.isfinite(found.angular_distance[np.triu_indices(3, 1)]).all()


def test_of_one_state_the_cosine_of_the_distance_is_what_block_influence_leaves_of_one():
    model = turning(*torch.randn(4, 4, 4))
    # A linear chain turns multiples of one state alike.
    x = torch.randn(1, 4) * torch.tensor([[1.0], [2.0], [3.0], [5.0]])
    found = collect_evidence(model, find_units(model, x), [x], settings=EvidenceSettings(gradients=False))
    np.testing.assert_allclose(
        np.cos(np.pi * found.importance["angular_distance"]),
        1 - found.importance["block_influence"],
        atol=1e-6,
    )


@pytest.mark.parametrize("settings", [DEFAULT, PAPER])
def test_one_pass_forward_without_labels_is_enough(ask_images, settings):
    request = ask_images(batches=[torch.randn(8, 3, 8, 8)])
    plan = choose(request, settings)
    angles = request.evidence.angular_distance
    assert len(plan.removed) >= 3
    assert sum(plan.predicted["angular_distance"]) == pytest.approx(cost(angles, plan.removed))
    assert "drop_estimate" not in request.evidence.importance


@pytest.mark.parametrize(("settings", "budget"), [(DEFAULT, "units=0.1"), (PAPER, "units=1")])
def test_where_the_shape_changes_between_units_the_parts_of_a_window_are_added(settings, budget):
    model, x = NETWORKS["convnext"]()
    request = Request(
        model=model,
        chain=find_units(model, x),
        batches=[x.repeat(4, 1, 1, 1)],
        example=x,
        budget=Budget.parse(budget),
    )
    plan = choose(request, settings)
    angles = request.evidence.angular_distance
    assert np.isnan(angles[1, 3])
    by_hand = {
        (0, 1, 2, 3): angles[0, 2] + angles[2, 4],
        (1, 2, 3, 4): angles[1, 2] + angles[2, 5],
        (0, 1, 2, 3, 4): angles[0, 2] + angles[2, 5],
    }
    assert sum(plan.predicted["angular_distance"]) == pytest.approx(by_hand[plan.removed])


def test_units_that_cannot_be_compared_are_refused(ask_chain):
    angles = random_angles(5, 0)
    angles[:2, 2:] = np.nan
    angles[1, 2] = np.nan
    with pytest.raises(DataError, match=r"angular distance of the units \[1\]: .* such as sleb"):
        choose(ask_chain(angles=angles), DEFAULT)


@pytest.mark.parametrize("settings", [DEFAULT, PAPER])
def test_a_budget_that_the_network_meets_looks_at_no_data(ask_text, settings):
    request = ask_text("units=5")
    assert choose(request, settings).removed == ()
    assert request.evidence is None


def test_settings_are_two_words():
    assert AngularSettings(windows="one") == PAPER
