"""layermerge takes out layers and activations at once, where either alone would lose more."""

import pytest
import torch
from torch import nn

from merge_networks import conv
from shoal import apply, make_plan
from shoal.architectures.convolutions import find_convolutions
from shoal.errors import BudgetError
from shoal.methods.layermerge import PAPER, LayerMergeSettings
from shoal.surgery import find_entries

SETTINGS = {"importance": {"form": "reconstruction"}, "tolerance": 0.0}
BY_TABLES = SETTINGS | {"whole_steps": 0}


@pytest.fixture
def images():
    return [torch.randn(4, 3, 8, 8) for _ in range(2)]


@pytest.fixture
def net():
    """Of 3×3 convolutions one changes nothing, and one is followed by a ReLU that changes nothing and a 1×1
    convolution.
    """
    torch.manual_seed(0)
    passing, point, still = conv(4, 4), conv(4, 4, 1), conv(4, 4)
    with torch.no_grad():
        passing.weight.abs_()
        passing.bias.abs_()
        nn.init.dirac_(still.weight)
        still.bias.zero_()
    layers = [conv(3, 4), passing, point, conv(4, 4), still, conv(4, 4)]
    return nn.Sequential(*(nn.Sequential(layer, nn.ReLU()) for layer in layers)).eval()


@pytest.fixture
def without_both(net):
    """What is left, in MACs, without the convolution that changes nothing and with the 1×1 merged."""
    macs = 64 * (9 * 3 * 4 + 9 * 4 * 4 * 3)
    return f"macs={macs}"


def test_a_layer_goes_and_an_activation_goes_in_one_plan(net, images, without_both):
    plan = make_plan(net, images, method="layermerge", budget=without_both, settings=BY_TABLES)
    assert plan.predicted["added_loss"] == 0
    assert plan.removed == (4,)
    assert (1, 3, (1, 2), True) in {(step.start, step.stop, step.kept, step.fused) for step in plan.merges}
    torch.testing.assert_close(apply(net, plan)(images[0]), net(images[0]), rtol=1e-4, atol=1e-5)


def test_either_alone_loses_more_or_cannot_be_had(net, images, without_both):
    alone = make_plan(net, images, method="layer_only", budget=without_both, settings=SETTINGS)
    assert alone.predicted["added_loss"] > 0
    with pytest.raises(BudgetError, match="Ask for macs="):
        make_plan(net, images, method="depth_merge", budget=without_both, settings=SETTINGS)


@pytest.mark.parametrize("left", [1, 3, 6])
def test_by_the_tables_it_loses_no_more_than_its_special_cases(net, images, left):
    lost = {
        method: make_plan(
            net,
            images,
            method=method,
            budget=f"units={left}",
            settings=BY_TABLES if method == "layermerge" else SETTINGS,
        ).predicted["added_loss"]
        for method in ("layermerge", "layer_only", "depth_merge")
    }
    assert lost["layermerge"] <= min(lost.values()) + 1e-9


def test_in_the_end_the_plan_that_does_best_as_a_whole_network_is_taken(net, images):
    plan = make_plan(
        net, images, method="layermerge", budget="units=3", settings=SETTINGS | {"whole_steps": 1}
    )
    losses = plan.predicted["compared_whole"]
    assert set(losses) == {"merges and removals", "removals alone", "merges alone"}
    alone = make_plan(net, images, method="layer_only", budget="units=3", settings=SETTINGS)
    assert (plan.identity == alone.identity) == (min(losses, key=losses.get) == "removals alone")


def test_as_published_no_layer_goes_by_itself(net, images):
    found = find_convolutions(net, images[0])
    published, general = (
        [entry for entry in find_entries(found, rules) if not entry.unchanged]
        for rules in (PAPER.rules, LayerMergeSettings().rules)
    )
    assert all(len(entry.segment) > 1 and entry.kept for entry in published)
    alone = [entry.segment.start for entry in general if entry.empty and len(entry.segment) == 1]
    assert alone == [1, 2, 3, 4, 5]


def test_as_published_times_are_rounded_down_to_a_tenth_of_a_millisecond():
    assert (PAPER.quantum, PAPER.rounding) == (1e-4, "floor")
    assert (PAPER.objective, PAPER.measure) == ("published", "all")
    assert PAPER.importance.fresh_single
