"""CKA layer pruning on the networks that it was published for."""

import re
from dataclasses import replace

import pytest
import torch
from cifar_resnet import load_checkpoint, resnet56
from torch import nn

from shoal import Budget, Plan, apply, find_units
from shoal.architectures import bypassed
from shoal.errors import BudgetError
from shoal.measurement import count_macs
from shoal.methods import Request
from shoal.methods.cka import PAPER, choose


class Block(nn.Module):
    """Convolutions and a shortcut, which is a 1 × 1 convolution where the shape changes."""

    def __init__(self, width_in, widths, kernels, stride):
        super().__init__()
        sizes = list(zip([width_in, *widths], widths, kernels, strict=False))
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, k, 1 if at else stride, k // 2, bias=False) for at, (a, b, k) in enumerate(sizes)
        )
        same = stride == 1 and width_in == widths[-1]
        self.shortcut = nn.Identity() if same else nn.Conv2d(width_in, widths[-1], 1, stride, bias=False)

    def forward(self, x):
        *inner, last = self.convs
        out = x
        for convolution in inner:
            out = convolution(out).relu()
        return (last(out) + self.shortcut(x)).relu()


def stages(stem, width, blocks, classes):
    model = nn.Sequential(stem)
    for number, (widths, kernels, depth) in enumerate(blocks):
        stage = nn.Sequential()
        for at in range(depth):
            stage.append(Block(width, widths, kernels, 2 if number and not at else 1))
            width = widths[-1]
        model.append(stage)
    return model.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)])


def cifar_net(depth):
    blocks = [((width, width), (3, 3), (depth - 2) // 6) for width in (16, 32, 64)]
    return stages(nn.Conv2d(3, 16, 3, padding=1, bias=False), 16, blocks, 10), 32


def resnet50():
    """The first version, with the stride in the first 1 × 1 convolution."""
    stem = nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    depths = zip((64, 128, 256, 512), (3, 4, 6, 3), strict=True)
    blocks = [((width, width, 4 * width), (1, 3, 1), depth) for width, depth in depths]
    return stages(stem, 64, blocks, 1000), 224


# Pons et al., 2024: MACs, those of one identity block, blocks that can go, reductions by blocks removed.
PUBLISHED = {
    "resnet32": (69_124_736, 4_718_592, 9, {7: 47.78, 8: 54.61, 9: 61.44}),
    "resnet44": (97_436_288, 4_718_592, 15, {11: 53.27, 13: 62.96, 15: 72.64}),
    "resnet56": (
        125_747_840,
        4_718_592,
        21,
        {10: 37.52, 13: 48.78, 15: 56.29, 16: 60.04, 17: 63.79, 19: 71.30, 20: 75.05, 21: 78.80},
    ),
    "resnet110": (
        253_149_824,
        4_718_592,
        48,
        {24: 44.73, 27: 50.33, 35: 65.24, 36: 67.10, 38: 70.83, 41: 76.42, 47: 87.61, 48: 89.47},
    ),
    "resnet50": (3_857_973_248, 218_365_952, 8, {4: 22.64, 5: 28.30, 7: 39.62, 8: 45.28}),
}


def limit(model, size):
    """Return the units, and how many of them can go at most."""
    chain = find_units(model, torch.zeros(1, 3, size, size))
    request = Request(model=model, chain=chain, batches=[], example=None, budget=Budget.parse("units=1"))
    with pytest.raises(BudgetError, match="the least that can be asked for is units=") as refused:
        choose(request, PAPER)
    return chain, len(chain) - int(re.search(r"is units=(\d+)\.$", str(refused.value))[1])


def blocks_that_can_go(chain):
    """Two of every stage stay, and the very first."""
    kept = [index for group in chain.groups.values() for index in group[:2]]
    return [index for index in chain.removable if index not in kept]


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_and_limits_are_the_published_ones(name):
    whole, block, most, reductions = PUBLISHED[name]
    model, size = resnet50() if name == "resnet50" else cifar_net(int(name.removeprefix("resnet")))
    chain, found = limit(model, 32)
    order = blocks_that_can_go(chain)
    assert found == len(order) == most
    # Weights do not matter from here on.
    model, x = model.to("meta"), torch.zeros(1, 3, size, size, device="meta")
    macs = count_macs(model, x)
    assert macs.total == whole
    assert {macs.by_module[unit.name] for unit in chain if unit.removable} == {block}
    for count, reduction in reductions.items():
        cut = apply(model, Plan.removing(chain, order[:count]))
        assert round(100 * (1 - count_macs(cut, x).total / whole), 2) == reduction, count


class InvertedResidual(nn.Module):
    """Sandler et al., 2018, https://arxiv.org/abs/1801.04381: wider inside, around it a shortcut where
    the shape stays.
    """

    def __init__(self, width_in, width, stride, expansion):
        super().__init__()
        inner = expansion * width_in
        self.shortcut = stride == 1 and width_in == width
        self.conv = nn.Sequential(
            nn.Conv2d(width_in, inner, 1, bias=False),
            nn.ReLU6(inplace=True),
            nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False),
            nn.ReLU6(inplace=True),
            nn.Conv2d(inner, width, 1, bias=False),
        )

    def forward(self, x):
        return x + self.conv(x) if self.shortcut else self.conv(x)


def mobilenet():
    """The blocks of MobileNetV2, an eighth as wide: width, blocks, stride of the first."""
    stages = [(2, 1, 1), (3, 2, 2), (4, 3, 2), (8, 4, 2), (12, 3, 1), (20, 3, 2), (40, 1, 1)]
    features, width = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1, bias=False)), 4
    for number, (wide, depth, stride) in enumerate(stages):
        for at in range(depth):
            features.append(InvertedResidual(width, wide, 1 if at else stride, 6 if number else 1))
            width = wide
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def test_five_blocks_of_mobilenet_v2_can_go():
    """Stages of 2, 3, 4, 3 and 3 blocks, of which two each stay."""
    model, x = mobilenet(), torch.randn(16, 3, 64, 64)
    chain, most = limit(model, 64)
    expected = blocks_that_can_go(chain)
    assert most == len(expected) == 5
    stages = [group for group in chain.groups.values() if len(group) > 1]
    assert [len(set(stage).intersection(expected)) for stage in stages] == [0, 1, 2, 1, 1]
    budget = Budget.parse(f"units={len(chain) - most}")
    request = Request(model=model, chain=chain, batches=[x], example=x, budget=budget)
    plan = choose(request, replace(PAPER, heal=None))
    assert [len(set(stage).intersection(plan.removed)) for stage in stages] == [0, 1, 2, 1, 1]
    cut = apply(model, plan)
    assert len(cut[0]) == len(model[0]) - 5
    assert cut(x).shape == (16, 10)


@pytest.fixture(scope="module")
def trained(assets):
    return load_checkpoint(resnet56(), str(assets / "cifar10-resnets" / "resnet56-4bfd9763.th"))


def test_a_trained_network_without_a_block_is_the_network_that_skips_it(trained):
    x = torch.randn(2, 3, 32, 32)
    chain = find_units(trained, x)
    candidates = chain.removable[1:]
    assert len(candidates) == 24
    with torch.no_grad():
        for index in candidates:
            with bypassed(trained, chain, [index]):
                skipped = trained(x)
            deleted = apply(trained, Plan.removing(chain, [index]))(x)
            torch.testing.assert_close(skipped, deleted, rtol=0, atol=1e-5)
