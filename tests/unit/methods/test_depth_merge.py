"""depth_merge takes activations away, and every convolution of a segment is in the one that it becomes."""

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
    return [torch.randn(4, 3, 12, 12) for _ in range(2)]


def network(*, padding):
    torch.manual_seed(0)
    layers = [conv(3, 8, padding=padding), *(conv(8, 8, padding=padding) for _ in range(LAYERS - 1))]
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(*(nn.Sequential(layer, nn.ReLU()) for layer in layers)).eval()


@pytest.fixture
def net():
    """Without zeros around images merged convolutions compute the same up to the border."""
    return network(padding=0)


@pytest.fixture
def padded():
    """All layers but the first keep size and channels, so that a method which may leave them out can."""
    return network(padding=1)


@pytest.fixture
def plan_for(images):
    return lambda net, budget: make_plan(net, images, method="depth_merge", budget=budget, settings=SETTINGS)


def let_pass_(layer):
    """Let all that a convolution makes of positive numbers be positive, so that its ReLU changes nothing."""
    with torch.no_grad():
        layer.weight.abs_()


def convolutions(model):
    return [part for part in model.modules() if isinstance(part, nn.Conv2d)]


@pytest.mark.parametrize("idle", [1, 2, 3])
def test_the_activation_that_changes_nothing_is_the_one_that_goes(net, plan_for, images, idle):
    let_pass_(net[idle][0])
    plan = plan_for(net, f"units={LAYERS - 1}")
    (merge,) = (step for step in plan.merges if len(step.segment) > 1)
    assert (merge.start, merge.stop, merge.fused) == (idle, idle + 2, True)
    assert plan.predicted["added_loss"] == 0
    small = apply(net, plan)
    assert [layer.kernel_size[0] for layer in convolutions(small)] == [
        5 if index == idle else 3 for index in range(LAYERS - 1)
    ]
    torch.testing.assert_close(small(images[0]), net(images[0]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("left", [1, 2, 4, LAYERS])
def test_no_convolution_is_ever_left_out(padded, plan_for, left):
    plan = plan_for(padded, f"units={left}")
    assert plan.removed == ()
    assert plan.left == left
    assert all(step.kept == tuple(step.segment) for step in plan.merges)
    # Every convolution widens what an output sees by two, whether it is merged or not.
    assert sum(layer.kernel_size[0] - 1 for layer in convolutions(apply(padded, plan))) == 2 * LAYERS


def test_a_convolution_that_does_nothing_stays_where_leaving_it_out_alone_would_do(padded, plan_for):
    with torch.no_grad():
        nn.init.dirac_(padded[2][0].weight)
    # Without that layer 0.77 of the MACs would be left; kernels that grow save few.
    with pytest.raises(BudgetError, match="Ask for macs=0"):
        plan_for(padded, "macs=0.8")
    assert plan_for(padded, f"units={LAYERS - 1}").removed == ()
