"""CKA layer pruning on the networks that it was published for."""

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


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_and_limits_are_the_published_ones(name):
    whole, block, most, reductions = PUBLISHED[name]
    model, size = resnet50() if name == "resnet50" else cifar_net(int(name.removeprefix("resnet")))
    chain = find_units(model, torch.zeros(1, 3, 32, 32))
    request = Request(model=model, chain=chain, batches=[], example=None, budget=Budget.parse("units=1"))
    with pytest.raises(BudgetError, match=f"is units={len(chain) - most}\\."):
        choose(request, PAPER)
    macs = count_macs(model.to("meta"), torch.zeros(1, 3, size, size, device="meta"))
    assert macs.total == whole
    assert {macs.by_module[unit.name] for unit in chain if unit.removable} == {block}
    assert {n: round(100 * n * block / whole, 2) for n in reductions} == reductions


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
