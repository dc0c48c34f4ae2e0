"""layer_only takes single convolutions out, and touches nothing of those that stay."""

import pytest
import torch
from torch import nn

from merge_networks import conv
from shoal import apply, make_plan
from shoal.errors import BudgetError

SETTINGS = {"importance": {"form": "reconstruction"}}
LAYERS = 5


@pytest.fixture
def images():
    return [torch.randn(4, 3, 8, 8) for _ in range(2)]


@pytest.fixture
def net():
    """A stem that cannot go, as it changes the number of channels, and four layers that can."""
    torch.manual_seed(0)
    layers = [conv(3, 4), *(conv(4, 4) for _ in range(LAYERS - 1))]
    return nn.Sequential(*(nn.Sequential(layer, nn.ReLU()) for layer in layers)).eval()


@pytest.fixture
def plan_for(net, images):
    return lambda budget: make_plan(net, images, method="layer_only", budget=budget, settings=SETTINGS)


@pytest.mark.parametrize("idle", [1, 2, 4])
def test_the_layer_that_does_nothing_is_the_one_that_goes(net, plan_for, images, idle):
    with torch.no_grad():
        nn.init.dirac_(net[idle][0].weight)
        net[idle][0].bias.zero_()
    plan = plan_for(f"units={LAYERS - 1}")
    assert plan.removed == (idle,)
    assert plan.predicted["added_loss"] == 0
    torch.testing.assert_close(apply(net, plan)(images[0]), net(images[0]))


@pytest.mark.parametrize("left", [1, 2, 4, LAYERS])
def test_what_stays_is_as_it_was_and_nothing_merges(net, plan_for, left):
    plan = plan_for(f"units={left}")
    assert plan.left == left
    assert all(len(step.segment) == 1 for step in plan.merges)
    stayed = [part for part in apply(net, plan).modules() if isinstance(part, nn.Conv2d)]
    kept = [net[index][0] for index in range(LAYERS) if index not in plan.removed]
    assert len(stayed) == len(kept) == left
    for now, before in zip(stayed, kept, strict=True):
        assert now.kernel_size == (3, 3)
        assert torch.equal(now.weight, before.weight)
        assert torch.equal(now.bias, before.bias)


def test_a_layer_goes_with_its_activation(net, plan_for):
    plan = plan_for(f"units={LAYERS - 2}")
    bends = [part for part in apply(net, plan).modules() if isinstance(part, nn.ReLU)]
    assert len(plan.removed) == 2
    assert len(bends) == LAYERS - 2


def test_a_layer_that_changes_channels_never_goes(plan_for):
    assert plan_for("units=1").removed == (1, 2, 3, 4)
    with pytest.raises(BudgetError, match="Ask for macs="):
        plan_for("macs=0.01")
