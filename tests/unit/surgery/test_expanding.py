"""The merged network is held against the expanded one, and both against what was written by hand."""

from __future__ import annotations

import copy
import io
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convnets import DiffusionUNet, bottleneck_resnet, mobilenet_v2, resnet
from merge_networks import NETWORKS, Flow, conv, settled_, small
from merge_plans import apart, merge, plan_of, steps_from, steps_of
from shoal.architectures.convolutions import find_convolutions
from shoal.errors import PlanError, SurgeryError, UnitError
from shoal.surgery import apply, expand, merge_layers
from shoal.surgery.entries import PUBLISHED, find_entries
from shoal.surgery.expanding import adopt_, expand_, merge_, rewritten
from shoal.units import Segment

# PyTorch says that other zeros before than behind are a copy of the input.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

# Kept activations 0, 5, 8, 11, 14, 17 to 35, 38 to 50; pruned convolutions 1, 7, 13 and 37.
PUBLISHED_MOBILENET = [
    merge(1, 6, [2, 3, 4, 5], added="relu6"),
    merge(6, 9, [6, 8], added="relu6"),
    merge(9, 12, [9, 10, 11], added="relu6"),
    merge(12, 15, [12, 14], added="relu6"),
    merge(15, 18, [15, 16, 17], added="relu6"),
    merge(36, 39, [36, 38], added="relu6"),
]


def both(net, example, steps):
    found = find_convolutions(net, example)
    return expand_(found.copy(), steps).eval(), merge_(found.copy(), steps).eval()


def larger(example):
    """The same with feature maps of another size, where the network takes any."""
    return tuple(F.pad(x, (0, 1) * (x.dim() - 2)) if x.dim() > 2 else x for x in example)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", NETWORKS)
def test_a_merged_network_equals_the_expanded_one(name, seed):
    net, example = small(name)
    steps = steps_of(find_convolutions(net, example), seed)
    expanded, merged = both(net, example, steps)
    assert apart(merged, expanded, example) < 1e-12
    if name != "unet":
        assert apart(merged, expanded, larger(example)) < 1e-12


@pytest.mark.parametrize(("name", "limit"), [(name, 2e-6 if name == "unet" else 1e-6) for name in NETWORKS])
def test_in_float32_they_differ_by_rounding(name, limit):
    net, example = small(name, torch.float32)
    expanded, merged = both(net, example, steps_of(find_convolutions(net, example), 1))
    assert apart(merged, expanded, example) < limit


def test_in_bfloat16_the_weights_keep_their_dtype():
    net, example = small("resnet", torch.bfloat16)
    expanded, merged = both(net, example, [merge(1, 3, [1, 2]), merge(3, 5, [4], fused=False)])
    assert {each.dtype for each in merged.parameters()} == {torch.bfloat16}
    assert apart(merged, expanded, example) < 0.05


@pytest.mark.parametrize("name", ["resnet", "bottleneck", "vgg", "rep_vgg", "signal", "pooled"])
def test_no_steps_fold_batch_norms_and_change_nothing(name):
    net, example = small(name)
    expanded, merged = both(net, example, [])
    assert apart(expanded, net, example) == 0
    assert apart(merged, net, example) < 1e-12
    left = [each for each in merged.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]
    # The identity of a block with branches is no convolution.
    assert len(left) == (3 if name == "rep_vgg" else 0)


def test_segments_that_are_not_fused_lose_their_batch_norms_too():
    net, example = small("vgg")
    _, merged = both(net, example, [merge(0, 2, [0, 1], fused=False)])
    assert not any(isinstance(each, nn.BatchNorm2d) for each in merged.modules())


# Removed blocks: what is left is the network without them, written by hand.

GONE = {
    "one segment": [merge(3, 5, [])],
    "layer by layer": [merge(3, 4, []), merge(4, 5, [])],
    "not fused": [merge(3, 4, [], fused=False), merge(4, 5, [])],
}


@pytest.mark.parametrize("steps", GONE.values(), ids=GONE)
def test_a_block_that_loses_all_its_layers_gives_what_it_was_given(steps):
    net, example = small("resnet")
    rest = copy.deepcopy(net)
    rest.stages[0][1] = nn.Identity()
    for found in both(net, example, steps):
        assert apart(found, rest, example) < 1e-12


def test_an_emptied_block_inside_a_longer_segment_gives_what_it_was_given():
    net, example = small("resnet")
    rest = copy.deepcopy(net)
    first, second = rest.stages[0]
    # Of the first block the first layer stays, of the second none; the ReLU behind stays.
    first.forward = lambda x: first.bn1(first.conv1(x)) + x
    second.forward = lambda x: second.relu(x)
    for found in both(net, example, [merge(1, 5, [1])]):
        assert apart(found, rest, example) < 1e-12


class Projected(nn.Module):
    """A residual block of two reducible convolutions with a projection on its shortcut."""

    def __init__(self):
        super().__init__()
        self.stem, self.one, self.two, self.last = conv(4, 4), conv(4, 4), conv(4, 4), conv(4, 4)
        self.short, self.norm = conv(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x):
        x = F.relu(self.stem(x))
        branch = self.two(F.relu(self.one(x)))
        return self.last(F.relu(branch + self.norm(self.short(x))))


@pytest.mark.parametrize("steps", [[merge(1, 3, [])], [merge(1, 2, []), merge(2, 3, [])]])
def test_an_emptied_block_with_a_projection_gives_the_projection(steps):
    net, x = Projected().double().eval(), (torch.randn(2, 4, 7, 6).double(),)

    def rest(x):
        return net.last(F.relu(net.norm(net.short(F.relu(net.stem(x))))))

    found = find_convolutions(net, x)
    assert [layer.name for layer in found.layers] == ["stem", "one", "two", "last"]
    for each in both(net, x, steps):
        assert apart(each, rest, x) < 1e-12


UNET = {"channels": 8, "size": 8, "attention": 4, "multipliers": (1, 2)}


class Passed(nn.Module):
    def forward(self, x, temb):
        return x


@pytest.mark.parametrize("steps", [[merge(1, 3, [])], [merge(1, 2, []), merge(2, 3, [])]])
def test_an_emptied_block_that_norms_first_gives_what_it_was_given(steps):
    net, example = small("unet")
    rest = copy.deepcopy(net)
    rest.down[0].block[0] = Passed()
    for found in both(net, example, steps):
        assert apart(found, rest, example) < 1e-12
        # Nor is anything left of what it did besides.
        assert not any(name.startswith("down.0.block.0") for name in found.state_dict())


@pytest.mark.parametrize("steps", [[merge(0, 2, [1])], [merge(0, 1, [])]])
def test_a_skip_behind_a_layer_that_goes_stays(steps):
    """What goes lies before the place where branch and skip part, and its input is used elsewhere too."""
    net = Flow(
        lambda net, x: net.last(torch.cat([F.relu(net.one(x) + net.two(net.one(x))), x], dim=1)),
        one=conv(4, 4), two=conv(4, 4), last=conv(8, 4),
    )  # fmt: skip
    net.flow = lambda net, x: _behind(net, net.one(x), x)
    net, x = net.double().eval(), (torch.randn(2, 4, 6, 7).double(),)
    for found in both(net, x, steps):
        assert apart(found, lambda x: _behind(net, x, x), x) < 1e-12


def _behind(net, h, x):
    return net.last(torch.cat([F.relu(h + net.two(h)), x], dim=1))


def test_what_takes_the_place_of_a_layer_is_not_overwritten():
    net = (
        Flow(lambda net, x: _doubled(net, F.hardswish(x), net.one), one=conv(4, 4), last=conv(8, 4))
        .double()
        .eval()
    )
    x = (torch.randn(2, 4, 6, 7).double(),)
    for found in both(net, x, [merge(0, 1, [])]):
        assert apart(found, lambda x: _doubled(net, F.hardswish(x), torch.clone), x) < 1e-12


def _doubled(net, x, one):
    h = one(x)
    h = h.mul_(2)
    return net.last(torch.cat([h, x], dim=1))


def test_average_pooling_alone_may_be_left():
    net = Flow(
        lambda net, x: net.last(F.relu(net.two(F.relu(net.pool(net.one(x)))))),
        one=conv(4, 4), pool=nn.AvgPool2d(3, 1, 1), two=conv(4, 4), last=conv(4, 4),
    )  # fmt: skip
    net, x = net.double().eval(), (torch.randn(2, 4, 6, 7).double(),)
    for found in both(net, x, [merge(0, 2, [])]):
        assert apart(found, lambda x: net.last(F.relu(net.pool(x))), x) < 1e-12


def test_a_convolution_that_is_used_twice_keeps_both_its_batch_norms():
    net = Flow(
        lambda net, x: net.last(F.relu(net.b(net.twice(F.relu(net.a(net.twice(x))))))),
        twice=conv(4, 4), a=nn.BatchNorm2d(4), b=nn.BatchNorm2d(4), last=conv(4, 4),
    )  # fmt: skip
    for norm in (net.a, net.b):
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    net, x = net.double().eval(), (torch.randn(2, 4, 6, 7).double(),)
    for found in both(net, x, []):
        assert apart(found, net, x) < 1e-12


# What is added.


@pytest.mark.parametrize("kind", [nn.ReLU6(inplace=True), nn.PReLU(4), F.relu, F.hardswish])
def test_an_added_activation_is_the_last_that_went(kind):
    bend = kind if isinstance(kind, nn.Module) else nn.Identity()
    act = (lambda net, x: net.bend(x)) if isinstance(kind, nn.Module) else (lambda net, x: kind(x))
    net = Flow(
        lambda net, x: net.last(net.pool(net.two(act(net, net.one(x))))),
        one=conv(4, 4), two=conv(4, 4), last=conv(4, 4), bend=bend, pool=nn.MaxPool2d(2),
    )  # fmt: skip
    net, x = net.double().eval(), (torch.randn(2, 4, 6, 7).double(),)
    name = type(kind).__name__.lower() if isinstance(kind, nn.Module) else kind.__name__
    for found in both(net, x, [merge(0, 2, [1], added=name)]):
        assert apart(found, lambda x: net.last(net.pool(act(net, net.two(x)))), x) < 1e-12


def test_two_branches_of_one_sum_bend_it_once():
    def branches(net, x, first, second):
        return net.last(net.pool(first(x) + second(x)))

    net = Flow(
        lambda net, x: branches(net, x, net.first, net.second),
        first=nn.Sequential(conv(4, 4), nn.Sigmoid(), conv(4, 4)),
        second=nn.Sequential(conv(4, 4), nn.Sigmoid(), conv(4, 4)),
        last=conv(4, 4), pool=nn.MaxPool2d(2),
    )  # fmt: skip
    net, x = net.double().eval(), (torch.randn(2, 4, 6, 7).double(),)

    def rest(x):
        return net.last(net.pool(torch.sigmoid(net.first[2](x) + net.second[2](x))))

    steps = [merge(0, 2, [1], added="sigmoid"), merge(2, 4, [3], added="sigmoid")]
    for found in both(net, x, steps):
        assert apart(found, rest, x) < 1e-12


@pytest.mark.parametrize("added", ["relu6", "gelu"])
def test_no_other_activation_can_be_added(added):
    net, example = small("mobilenet")
    found = find_convolutions(net, example)
    # Between these two layers there is none.
    segment = next(region.segment for region in found.regions() if len(region.segment) == 2)
    step = merge(segment.start, segment.stop, [segment.start, segment.stop - 1], added="tanh")
    with pytest.raises(PlanError, match="asked to put 'tanh' behind the layers .* is relu6"):
        rewritten(found, step)
    with pytest.raises(PlanError, match=f"asked to put '{added}' .* is none"):
        rewritten(found, merge(2, 3, [2], added=added))


# Something that is added inside.


def test_a_time_step_is_taken_in_by_its_linear_layer():
    net, example = small("unet")
    expanded, merged = both(net, example, [merge(1, 3, [1, 2])])
    assert apart(merged, expanded, example) < 1e-12
    count = sum(isinstance(each, nn.Conv2d) for each in expanded.modules())
    assert sum(isinstance(each, nn.Conv2d) for each in merged.modules()) == count - 1


def test_what_no_linear_layer_takes_in_is_led_through_a_convolution():
    net, example = small("timed")
    expanded, merged = both(net, example, [merge(0, 3, [0, 1, 2])])
    assert apart(merged, expanded, example) < 1e-12
    kernels = sorted(each.kernel_size for each in merged.modules() if isinstance(each, nn.Conv2d))
    # What is added behind the last of the three needs none.
    assert kernels == [(1, 1), (3, 3), (7, 7)]


@pytest.mark.parametrize("joined", [False, True])
def test_the_same_parameter_may_be_added_twice_also_in_branches_that_are_joined(joined):
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.three = conv(4, 4), conv(4, 4), conv(8 if joined else 4, 4)
            self.shift = nn.Parameter(torch.randn(1, 4, 1, 1))

        def forward(self, x):
            h = F.relu(self.one(x) + self.shift)
            g = F.relu(self.two(x if joined else h) + self.shift)
            return self.three(torch.cat([h, g], dim=1) if joined else g)

    net, x = Shifted().double().eval(), (torch.randn(2, 4, 6, 7).double(),)
    expanded, merged = both(net, x, [merge(0, 3, [0, 1, 2])])
    assert apart(merged, expanded, x) < 1e-12
    assert sum(each.kernel_size == (3, 3) for each in merged.modules() if isinstance(each, nn.Conv2d)) == 0


def test_the_norm_between_two_layers_moves_behind_them():
    net, example = small("unet")
    block = net.down[0].block[0]
    expanded, _ = both(net, example, [merge(1, 3, [1, 2])])
    assert "down.0.block.0.norm2.weight" not in expanded.state_dict()
    norm = expanded.get_submodule("down.0.block.0.conv1_norm")
    assert (norm.num_groups, norm.num_channels, norm.eps) == (block.conv1.out_channels, 8, 1e-5)


# The networks that go in and come out.


def test_the_network_that_came_in_stays_as_it_was():
    net, example = small("mobilenet")
    plan = plan_of(net, example, steps_of(find_convolutions(net, example), 3))
    net.train()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    paddings = [each.padding for each in net.modules() if isinstance(each, nn.Conv2d)]
    random = torch.get_rng_state()
    small_net = apply(net, plan)
    expanded = expand(net, plan)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert [each.padding for each in net.modules() if isinstance(each, nn.Conv2d)] == paddings
    assert all(each.training for each in net.modules())
    mine = {each.data_ptr() for each in net.parameters()}
    for found in (small_net, expanded):
        assert found.training
        assert not mine & {each.data_ptr() for each in found.parameters()}


def trained(net, plan, example, steps=3):
    expanded = expand(net, plan).train()
    optimiser = torch.optim.SGD(expanded.parameters(), lr=0.05)
    for _ in range(steps):
        optimiser.zero_grad()
        expanded(*(x.clone() for x in example)).square().mean().backward()
        optimiser.step()
    return expanded.eval()


@pytest.mark.parametrize("name", ["resnet", "mobilenet", "unet", "concatenated", "timed", "signal"])
def test_merging_what_was_trained_computes_what_was_trained(name):
    net, example = small(name)
    plan = plan_of(net, example, steps_of(find_convolutions(net, example), 1))
    before = apart(expand(net, plan), trained(net, plan, example), example)
    expanded = trained(net, plan, example)
    assert before > 1e-3
    assert apart(merge_layers(net, plan, expanded), expanded, example) < 1e-11


def test_what_came_in_with_the_plan_brings_the_weights_that_it_has_learnt():
    net, example = small("unet")
    steps = [merge(1, 3, [1, 2])]
    expanded, _ = both(net, example, steps)
    norm = expanded.get_submodule("down.0.block.0.conv1_norm")
    nn.init.uniform_(norm.weight)
    nn.init.uniform_(norm.bias)
    merged = merge_(find_convolutions(net, example), steps, expanded).eval()
    found = merged.get_submodule("down.0.block.0.conv1_norm")
    assert torch.equal(found.weight, norm.weight)
    assert apart(merged, expanded, example) < 1e-12


def test_an_added_activation_brings_its_weights_too():
    net = nn.Sequential(conv(4, 4), nn.PReLU(4), conv(4, 4), nn.MaxPool2d(2), conv(4, 4)).double().eval()
    x, steps = (torch.randn(2, 4, 6, 7).double(),), [merge(0, 2, [0, 1], added="prelu")]
    expanded, _ = both(net, x, steps)
    nn.init.constant_(expanded.get_submodule("0_activation").weight, -2)
    merged = merge_(find_convolutions(net, x), steps, expanded).eval()
    assert apart(merged, expanded, x) < 1e-12


def test_weights_of_another_network_are_refused():
    net, example = small("vgg")
    found = find_convolutions(net, example)
    expanded, _ = both(net, example, [merge(0, 2, [0])])
    with pytest.raises(SurgeryError, match="asked to merge .*: it is not what the plan expands"):
        adopt_(found, [merge(0, 2, [0, 1])], expanded)


@pytest.mark.parametrize("name", ["resnet", "unet", "uneven"])
def test_states_are_saved_and_read_back(name):
    net, example = small(name)
    steps = steps_of(find_convolutions(net, example), 2)
    again = both(net, example, steps)
    for found, other in zip(both(net, example, steps), again, strict=True):
        for parameter in found.parameters():
            nn.init.normal_(parameter, std=0.1)
        buffer = io.BytesIO()
        torch.save(found.state_dict(), buffer)
        buffer.seek(0)
        other.load_state_dict(torch.load(buffer, weights_only=True))
        assert apart(other, found, example) == 0
        assert apart(copy.deepcopy(found), found, example) == 0


# What cannot be.


def test_a_segment_that_is_no_region_is_refused():
    net, example = small("vgg")
    with pytest.raises(PlanError, match=r"asked to rewrite the layers \[1, 3\): they are no region"):
        rewritten(find_convolutions(net, example), merge(1, 3, [1, 2]))


def test_a_layer_that_has_to_stay_is_refused():
    net, example = small("vgg")
    with pytest.raises(UnitError, match=r"asked to leave out the layer 0 \(0\): it makes 8 channels of 3"):
        rewritten(find_convolutions(net, example), merge(0, 2, [1]))


def test_single_layers_without_anything_to_do_stay_as_they_are():
    net, example = small("vgg")
    expanded, _ = both(net, example, [merge(1, 2, [1], fused=False)])
    assert expanded.state_dict().keys() == net.state_dict().keys()


# Published networks and plans.


def sizes(net):
    return [
        (each.in_channels, each.out_channels, each.kernel_size[0], each.stride[0], each.padding)
        for each in net.modules()
        if isinstance(each, nn.Conv2d)
    ]


def test_the_published_plan_of_mobilenet_v2_gives_the_published_convolutions():
    """Layers are those of the released code; the plan for 13.4 ms is the released one.

    Reference: Kim et al., 2024, LayerMerge, https://arxiv.org/abs/2406.12837, and its code.
    """
    torch.manual_seed(0)
    net, x = mobilenet_v2().eval(), (torch.randn(1, 3, 64, 64),)
    merged = apply(net, plan_of(net, x, PUBLISHED_MOBILENET))
    found = sizes(merged)
    assert len(found) == 38
    assert [each[:4] for each in found[:6]] == [
        (3, 32, 3, 2), (32, 24, 3, 2), (24, 24, 1, 1), (24, 32, 3, 2), (32, 32, 1, 1), (32, 32, 3, 1)
    ]  # fmt: skip
    assert (96, 96, 1, 1, (0, 0)) in found
    assert sum(each.numel() for each in merged.parameters()) == 3_352_056
    assert apart(merged, expand(net, plan_of(net, x, PUBLISHED_MOBILENET)), x) < 1e-6


def test_the_published_plan_of_a_diffusion_network_merges_nine_blocks():
    """For 38 ms; layers are numbered from 1 there."""
    net = DiffusionUNet(channels=32).eval()
    example = (torch.randn(1, 3, 32, 32), torch.tensor([5]))
    gone = {2, 5, 31, 38, 40, 42, 44, 45, 47, 49, 51}
    straight = {2, 4, 7, 39, 41, 43, 46, 48, 50}
    steps, at = [], 1
    while at <= 52:
        stop = at + 1 + (at in straight)
        kept = [index - 1 for index in range(at, stop) if index not in gone]
        if stop - at > 1 or not kept:
            steps.append(merge(at - 1, stop - 1, kept))
        at = stop
    plan = plan_of(net, example, steps)
    assert sum(len(step.segment) == 2 for step in plan.merges) == 9
    assert sum(not step.kept for step in plan.merges) == 3
    merged = apply(net, plan)
    assert [size[2] for size in sizes(merged)].count(5) == 1
    assert plan.left == 52 - 9 - 3
    assert apart(merged, expand(net, plan), example) < 2e-6


@pytest.mark.parametrize("network", [resnet, bottleneck_resnet, mobilenet_v2])
@pytest.mark.parametrize("seed", [0, 1])
def test_networks_of_full_size_are_merged_within_rounding(network, seed):
    torch.manual_seed(0)
    net, x = settled_(network()), (torch.randn(1, 3, 64, 64),)
    entries = find_entries(find_convolutions(net, x), replace(PUBLISHED, largest_kernel=3))
    expanded, merged = both(net, x, steps_from(entries, seed))
    assert apart(merged, expanded, x) < 1e-6


# Weights that others use too.


def twice_padded():
    """One convolution behind zeros of its own, at two places, with a norm at each."""
    net = Flow(
        lambda net, x: F.relu(net.b(net.conv(F.pad(F.relu(net.a(net.conv(F.pad(x, [1] * 4)))), [1] * 4)))),
        conv=nn.Conv2d(4, 4, 3), a=nn.BatchNorm2d(4), b=nn.BatchNorm2d(4),
    )  # fmt: skip
    return settled_(net).double().eval(), (torch.randn(2, 4, 6, 7).double(),)


def test_a_convolution_that_is_used_twice_is_never_rewritten():
    net, x = twice_padded()
    found = find_convolutions(net, x)
    entries = find_entries(found)
    assert {entry.kept for entry in entries if entry.kept} == {(0,), (1,)}
    assert all(entry.merged == entry.separate[0] for entry in entries if entry.kept)
    assert {entry.segment for entry in entries if not entry.kept} >= {Segment(0, 1), Segment(1, 2)}
    for steps in ([], [merge(0, 1, [])], [merge(1, 2, [])]):
        expanded, merged = both(net, x, steps)
        assert apart(merged, expanded, x) < 1e-12


@pytest.mark.parametrize("step", [merge(0, 1, [0]), merge(0, 1, [0], fused=False), merge(1, 2, [1])])
def test_to_rewrite_a_convolution_that_is_used_twice_is_refused(step):
    net, x = twice_padded()
    with pytest.raises(UnitError, match=r"keep conv: it is used 2 times \(shared weights\)"):
        rewritten(find_convolutions(net, x), step)


def test_weights_that_are_read_as_tensors_stay_as_they_are():
    net = Flow(
        lambda net, x: F.conv_transpose2d(F.relu(net.norm(net.conv(net.first(x)))), net.conv.weight),
        first=conv(4, 4), conv=conv(4, 4), norm=nn.BatchNorm2d(4),
    )  # fmt: skip
    net, x = settled_(net).double().eval(), (torch.randn(2, 4, 6, 7).double(),)
    _, merged = both(net, x, [])
    assert apart(merged, net, x) < 1e-12
    assert torch.equal(merged.conv.weight, net.conv.weight)
    with pytest.raises(UnitError, match="keep conv: its weights are read elsewhere"):
        rewritten(find_convolutions(net, x), merge(1, 2, [1]))


def test_a_linear_layer_whose_weights_are_read_elsewhere_takes_nothing_in():
    net = Flow(
        lambda net, x, t: (
            net.last(net.two(net.one(x) + net.lead(t)[:, :, None, None])).mean((2, 3)) @ net.lead.weight
        ),
        one=conv(4, 4), two=conv(4, 4), last=conv(4, 4), lead=nn.Linear(4, 4),
    )  # fmt: skip
    net, example = net.double().eval(), (torch.randn(2, 4, 6, 7).double(), torch.randn(2, 4).double())
    expanded, merged = both(net, example, [merge(0, 2, [0, 1])])
    assert apart(merged, expanded, example) < 1e-12
    assert torch.equal(merged.lead.weight, net.lead.weight)


@pytest.mark.parametrize("frozen", [["one", "two"], ["one"], ["two", "last"], []])
def test_what_was_frozen_stays_frozen(frozen):
    net = Flow(
        lambda net, x: net.norm(net.last(F.relu(net.two(F.relu(net.one(x)))))),
        one=conv(4, 4), two=conv(4, 4), last=conv(4, 4), norm=nn.BatchNorm2d(4),
    ).eval()  # fmt: skip
    for name in frozen:
        net.get_submodule(name).requires_grad_(False)
    _, merged = both(net, (torch.randn(2, 4, 6, 7),), [merge(0, 2, [0, 1])])
    assert {each.requires_grad for each in merged.one.parameters()} == {not {"one", "two"} <= set(frozen)}
    assert {each.requires_grad for each in merged.last.parameters()} == {"last" not in frozen}
