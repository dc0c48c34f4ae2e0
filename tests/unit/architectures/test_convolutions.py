from collections import Counter
from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate

from convnets import (
    FAMILIES,
    DiffusersBlock,
    DiffusionUNet,
    bottleneck_resnet,
    mobilenet_v2,
    resnet,
    settled,
    vgg,
)
from shoal.architectures.convolutions import find_convolutions
from shoal.errors import UnknownArchitectureError
from shoal.surgery.entries import PUBLISHED, find_entries
from shoal.units import Segment

IMAGE = (1, 3, 224, 224)
MOBILE_LENGTHS = [50, 34, 18, 8, 7, 11, 5, 6, 9, 4, 3, 4, 1, 1, 3, 1, 1, 2, 1, 1, 1]
# Network, input, layers, entries, reducible layers, largest kernel, distinct shapes, segments by length.
# Kim et al., 2024, https://arxiv.org/abs/2406.12837, the released code's tables; widths do not matter.
PUBLISHED_COUNTS = {
    "resnet34": (
        lambda: resnet(width=8),
        lambda: torch.zeros(IMAGE),
        (33, 150, 29, 21, 29),
        {1: 32, 2: 13, 4: 9, 6: 5, 8: 2, 10: 1},
    ),
    "resnet50": (
        lambda: bottleneck_resnet(width=8),
        lambda: torch.zeros(IMAGE),
        (49, 192, 14, 11, 48),
        {1: 48, 2: 29, 3: 13, 6: 9, 9: 5, 12: 2, 15: 1},
    ),
    "mobilenet_v2": (
        mobilenet_v2,
        lambda: torch.zeros(IMAGE),
        (52, 391, 13, 15, 137),
        dict(enumerate(MOBILE_LENGTHS, 1)),
    ),
    "ddpm": (
        lambda: DiffusionUNet(channels=32),
        lambda: (torch.randn(1, 3, 32, 32), torch.zeros(1, dtype=torch.long)),
        (52, 98, 34, 5, None),
        {1: 51, 2: 22},
    ),
}


@cache
def published(name: str):
    make, example, *_ = PUBLISHED_COUNTS[name]
    return find_convolutions(make(), example())


def image(size: int = 16, batch: int = 1, channels: int = 3) -> Tensor:
    return torch.randn(batch, channels, size, size)


def segments(found) -> list[tuple[int, int]]:
    return [(r.segment.start, r.segment.stop) for r in found.regions() if len(r.segment) > 1]


def names(found) -> list[str]:
    return [layer.name for layer in found.layers]


class Own(nn.Module):
    """Three convolutions of 8 channels and what else a network holds, called in some way."""

    def __init__(self, way, **modules: nn.Module) -> None:
        super().__init__()
        self.way = way
        self.a, self.b, self.c = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x):
        return self.way(self, x)


def of(way, **modules: nn.Module):
    return find_convolutions(Own(way, **modules), image(channels=8))


def in_a_row(*modules: nn.Module):
    return find_convolutions(settled(nn.Sequential(*modules)), image(channels=8))


# The oracle: what is called a region is run without its activations.


def unbent(region, x: Tensor, terms: dict[fx.Node, Tensor]) -> Tensor:
    """What a region puts out once its activations and the norms with statistics of the data are gone."""
    values = {region.entry: x, **terms}
    traced, operations = region.piece.traced, region.piece.operations
    for node in region.nodes:
        if operations[node].kind in ("activation", "statistics", "identity"):
            values[node] = values[operations[node].inputs[0]]
            continue
        args, kwargs = (
            map_aggregate(each, lambda arg: values[arg].clone() if isinstance(arg, fx.Node) else arg)
            for each in (node.args, node.kwargs)
        )
        called = traced.get_submodule(node.target) if node.op == "call_module" else node.target
        values[node] = called(*args, **kwargs)
    return values[region.exit]


def check_region(found, region) -> None:
    """Check that a region is affine and closed, and holds just its layers."""
    inside, operations = set(region.nodes), region.piece.operations
    assert {found.index[node] for node in inside if node in found.index} == set(region.segment)
    assert region.nodes[-1] is region.exit
    assert all(user in inside for node in region.nodes[:-1] for user in node.users)
    from_outside = {each for node in inside for each in node.all_input_nodes} - inside - {region.entry}
    shifted = {each for node in inside if operations[node].kind == "shift" for each in node.all_input_nodes}
    assert from_outside <= shifted
    terms = {node: torch.randn(node.meta["shape"]) for node in from_outside}
    x, y = torch.randn(2, *region.entry.meta["shape"])
    with torch.no_grad():
        one, other, both, none = (unbent(region, each, terms) for each in (x, y, x + y, 0 * x))
    scale = float(torch.stack([one, other, none]).abs().max())
    torch.testing.assert_close(one + other - none, both, rtol=0, atol=1e-5 * scale)
    assert one.shape == region.exit.meta["shape"]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_region_is_affine_and_closed(name):
    found = find_convolutions(settled(FAMILIES[name]()), image())
    regions = list(found.regions())
    for region in regions[:: 1 + len(regions) // 60]:
        check_region(found, region)


@pytest.mark.parametrize("name", FAMILIES)
def test_regions_are_found_alone_as_among_all(name):
    found = find_convolutions(FAMILIES[name](), image())
    listed = {region.segment: region for region in found.regions()}
    count = len(found.layers)
    for start in range(0, count, 1 + count // 12):
        for stop in range(start + 1, count + 1):
            alone, among = found.region(Segment(start, stop)), listed.get(Segment(start, stop))
            if among is not None:
                assert (alone.entry, alone.exit, alone.nodes) == (among.entry, among.exit, among.nodes)
            elif alone is not None:
                # Layers that are kept apart are a region, but in no list.
                assert found.layers[start].apart or any(found.layers[i].apart for i in range(start, stop))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet", [(1, 3), (1, 5), (1, 7), (1, 9), (3, 5), (3, 7), (3, 9), (5, 7), (5, 9), (7, 9)]),
        ("vgg", [(0, 2), (2, 4), (4, 6)]),
        # The stem's output goes around the first block.
        ("pre-activated", [(0, 3), (0, 5), (0, 6), (1, 3), (3, 5)]),
        ("averaged shortcut", [(0, 4), (0, 5), (1, 3), (1, 4), (1, 5), (2, 4)]),
        ("reparametrisable", [(0, 2), (0, 3), (0, 4), (1, 3), (1, 4), (2, 4)]),
        ("dense", [(0, 4), (0, 5)]),
        ("excited", []),
        ("next", []),
        ("shuffled", [(1, 3), (1, 4), (2, 4), (4, 6), (4, 7), (5, 7)]),
        ("joined", [(0, 4), (0, 5), (0, 6), (1, 4), (1, 5), (1, 6), (2, 4), (4, 6)]),
        ("grouped", [(0, 2), (0, 3), (0, 4), (1, 3), (1, 4), (2, 4)]),
        ("diffusers", [(1, 3)]),
    ],
)
def test_segments_follow_from_the_graph(name, expected):
    assert segments(find_convolutions(FAMILIES[name](), image())) == expected


@pytest.mark.parametrize("name", PUBLISHED_COUNTS)
def test_the_published_rules_give_the_published_counts(name):
    _, _, (layers, count, reducible, kernel, shapes), lengths = PUBLISHED_COUNTS[name]
    found = published(name)
    entries = find_entries(found, PUBLISHED)
    assert len(found.layers) == layers
    assert len(entries) == count
    assert sum(layer.reducible for layer in found.layers) == reducible
    assert max(max(entry.merged.kernel) for entry in entries if entry.merged) == kernel
    assert Counter(len(segment) for segment in {entry.segment for entry in entries}) == lengths
    if shapes is not None:
        assert len({replace(entry.merged, activation="") for entry in entries}) == shapes


def test_the_pairs_of_the_published_diffusion_network_are_those_of_its_blocks():
    found = published("ddpm")
    # Counted from 0, with the first convolution.
    starts = [*range(1, 5, 2), 6, 8, 11, 13, *range(16, 30, 2), *range(31, 37, 2), *range(38, 44, 2)]
    starts += [*range(45, 51, 2)]
    assert segments(found) == [(start, start + 2) for start in starts]
    irreducible = {1, 6, 7, 11, 16, 25, 27, 29, 32, 34, 36, 39, 41, 43, 46, 48, 50, 52}
    assert {layer.index + 1 for layer in found.layers if not layer.reducible} == irreducible
    assert [layer.index for layer in found.layers if layer.after_resize] == [30, 37, 44]


def test_the_first_stage_of_a_resnet_works_behind_the_pooling():
    found = published("resnet34")
    sizes = [layer.shape.in_size[0] for layer in found.layers]
    assert sizes == [224, *[56] * 7, *[28] * 8, *[14] * 12, *[7] * 5]
    first = [entry for entry in find_entries(found, PUBLISHED) if entry.segment.stop <= 7]
    assert {entry.merged.in_size for entry in first} == {(56, 56)}


def test_layers_are_named_in_the_order_in_which_they_run():
    found = find_convolutions(bottleneck_resnet((1, 1), width=4), image(32))
    blocks = [f"stages.{stage}.0.conv{number}" for stage in (0, 1) for number in (1, 2, 3)]
    assert names(found) == ["conv1", *blocks]
    assert [layer.norm for layer in found.layers] == [name.replace("conv", "bn") for name in names(found)]
    assert [layer.index for layer in found.layers] == list(range(7))
    assert [layer.shape.activation for layer in found.layers] == ["relu"] * 7


def test_one_convolution_used_twice_is_kept_apart():
    found = of(lambda self, x: self.b(F.relu(self.a(F.relu(self.a(x))))))
    assert names(found) == ["a", "a", "b"]
    assert [layer.apart for layer in found.layers] == ["it is used 2 times (shared weights)"] * 2 + [""]
    assert segments(found) == []
    assert found.notes["a"] == "it is used 2 times (shared weights)"


def test_two_convolutions_that_share_a_weight_are_kept_apart():
    net = Own(lambda self, x: self.c(self.b(self.a(x))))
    net.b.weight = net.a.weight
    found = find_convolutions(net, image(channels=8))
    assert [layer.apart for layer in found.layers] == [
        "it shares its weights with b",
        "it shares its weights with a",
        "",
    ]
    assert segments(found) == []


def test_squeeze_and_excite_is_kept_apart_and_ends_segments():
    found = find_convolutions(FAMILIES["excited"](), image())
    apart = {layer.name: layer.apart for layer in found.layers if layer.apart}
    assert list(apart) == ["3.reduce", "3.expand"]
    assert set(apart.values()) == {"it works on a single place, as the convolutions of squeeze-excite do"}


def test_small_maps_are_no_pooled_ones():
    found = find_convolutions(mobilenet_v2(classes=10, scale=0.25, last=32), image())
    assert found.layers[-1].shape.in_size == (1, 1)
    assert not any(layer.apart for layer in found.layers)


@pytest.mark.parametrize(
    ("way", "expected"),
    [
        (lambda self, x: self.b(F.relu(self.a(x))), [(0, 2)]),
        (lambda self, x: self.b(self.a(x).relu_()), [(0, 2)]),
        (lambda self, x: self.b(F.dropout(F.relu(self.a(x)), 0.5, self.training)), [(0, 2)]),
        (lambda self, x: self.b(F.relu(self.a(x)) / 1.0), [(0, 2)]),
        (lambda self, x: self.b(F.relu(self.a(x)) / 2.0), []),
        (lambda self, x: self.b(F.max_pool2d(self.a(x), 2)), []),
        (lambda self, x: self.b(F.interpolate(self.a(x), scale_factor=2)), []),
        (lambda self, x: self.b(F.conv2d(self.a(x), self.c.weight)), []),
        (lambda self, x: self.b(F.pad(self.a(x), (0, 1, 0, 1))), [(0, 2)]),
        (lambda self, x: self.b(F.pad(self.a(x), (1, 1, 1, 1), "reflect")), []),
        # A tensor inside is taken elsewhere.
        (lambda self, x: (h := self.a(x), (self.b(h), h))[1], []),
        (lambda self, x: (h := self.a(x), self.b(F.relu(h)) * h)[1], []),
        # A skip inside, one that enters, and branches.
        (lambda self, x: (h := self.a(x), self.b(F.relu(h)) + h)[1], [(0, 2)]),
        (lambda self, x: (h := self.a(x), self.b(h) * h.mean((2, 3), keepdim=True))[1], []),
        (lambda self, x: self.c(F.relu(self.b(F.relu(self.a(x))) + x)), [(0, 2), (0, 3)]),
        (lambda self, x: self.b(F.relu(self.a(x)) + self.c(x)), [(0, 2), (0, 3)]),
        (lambda self, x: self.b(torch.cat([self.a(x)[:, :4], x[:, 4:]], 1)), []),
        (lambda self, x: self.b(self.a(x) + x.mean((2, 3), keepdim=True)), [(0, 2)]),
        (lambda self, x: self.b(self.a(x) + x.mean(1, keepdim=True)), []),
        (lambda self, x: self.b(self.a(x).transpose(2, 3)), []),
    ],
)
def test_what_stands_between_decides(way, expected):
    found = of(way)
    assert list(segments(found)) == expected
    for region in found.regions():
        check_region(found, region)


@pytest.mark.parametrize(
    ("middle", "told", "expected"),
    [
        (nn.BatchNorm2d(8), "", [(0, 2)]),
        (nn.SyncBatchNorm(8), "", [(0, 2)]),
        (nn.BatchNorm2d(8, affine=False), "", [(0, 2)]),
        (nn.AvgPool2d(2), "", [(0, 2)]),
        (nn.ZeroPad2d((0, 1, 2, 3)), "", [(0, 2)]),
        (nn.Dropout2d(0.5), "", [(0, 2)]),
        (nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.Identity()), "", [(0, 2)]),
        # Without their norm, layers are merged too.
        (nn.GroupNorm(2, 8), "GroupNorm takes its statistics from the data", [(0, 2)]),
        (
            nn.BatchNorm2d(8, track_running_stats=False),
            "BatchNorm2d takes its statistics from the data",
            [(0, 2)],
        ),
        (nn.MaxPool2d(2), "MaxPool2d is not affine", []),
        (nn.ConvTranspose2d(8, 8, 2, 2), "it is a transposed convolution (ConvTranspose2d)", []),
        (
            nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
            "it pads by reflect, which cannot be moved",
            [],
        ),
        (nn.Upsample(scale_factor=2), "Upsample changes the resolution", []),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_modules_between_are_merged_or_said_to_be_none(middle, told, expected):
    found = in_a_row(nn.Conv2d(8, 8, 3), middle, nn.Conv2d(8, 8, 1))
    assert found.notes.get("1", "") == told
    assert segments(found) == expected
    for region in found.regions():
        check_region(found, region)


def test_statistics_of_the_data_are_not_merged_with_sums():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), DiffusersBlock(8, 8), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3))
    assert segments(find_convolutions(net, image())) == [(1, 3), (3, 5)]


def test_zeros_before_a_convolution_belong_to_it():
    found = in_a_row(nn.Conv2d(8, 8, 3), nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(8, 8, 2))
    last = found.layers[1]
    assert last.reducible
    # With the zeros, which are not in its own padding.
    assert (last.shape.in_size, last.shape.out_size) == ((15, 15), (14, 14))
    assert found.places[1].entry.name == found.places[0].node.name


@pytest.mark.parametrize("axes", [1, 3])
def test_networks_with_one_and_three_axes_work(axes):
    conv, norm = ((nn.Conv1d, nn.BatchNorm1d), None, (nn.Conv3d, nn.BatchNorm3d))[axes - 1]
    net = nn.Sequential(
        conv(2, 4, 3, padding=1), norm(4), nn.ReLU(), conv(4, 4, 3, 2, 1, groups=4), conv(4, 4, 1)
    )
    found = find_convolutions(settled(net), torch.randn(2, 2, *[6] * axes))
    assert [len(layer.shape.kernel) for layer in found.layers] == [axes] * 3
    assert segments(found) == [(0, 2), (0, 3), (1, 3)]
    for region in found.regions():
        check_region(found, region)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_precision_of_the_weights_does_not_matter(dtype):
    found = find_convolutions(FAMILIES["resnet"]().to(dtype), image().to(dtype))
    exact = find_convolutions(FAMILIES["resnet"](), image())
    assert segments(found) == segments(exact)
    assert names(found) == names(exact)


def test_hand_written_swish_is_an_activation():
    found = of(lambda self, x: self.b((h := self.a(x)) * torch.sigmoid(h)))
    assert found.layers[0].shape.activation == "silu"
    assert segments(found) == [(0, 2)]


def test_a_map_that_is_overwritten_and_used_again_is_merged_into_nothing():
    def overwrites(self, x):
        h = self.a(x)
        y = self.b(h)
        h.relu_()
        return self.c(y) + h

    assert segments(of(overwrites)) == []
    assert segments(of(lambda self, x: (h := x * 2, y := self.a(h), h.relu_(), self.b(y) + h)[3])) == []


def test_where_code_cannot_be_followed_the_parts_are_and_the_reason_is_told():
    def dynamic(self, x):
        return self.b(self.a(x)) if x.sum() < 1e9 else x

    net = nn.Sequential(
        nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1), Own(dynamic), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
    )
    found = find_convolutions(net, image(channels=8))
    assert names(found) == ["0", "1", "3", "4", "2.a", "2.b"]
    assert segments(found) == [(0, 2), (2, 4)]
    assert "dynamic control flow" in found.notes["2"]


def test_a_copy_is_cut_alone():
    found = find_convolutions(settled(FAMILIES["resnet"]()), image())
    copied = found.copy()
    assert list(copied.layers) == list(found.layers)
    assert segments(copied) == segments(found)
    assert copied.projections.keys().isdisjoint(found.projections)
    mine = {node for piece in copied.pieces.pieces for node in piece.traced.graph.nodes}
    held = {node for place in copied.places for node in (place.node, place.norm, place.entry, place.exit)}
    assert held | set(copied.projections) <= mine
    for region in copied.regions():
        check_region(copied, region)


def test_a_network_without_convolutions_is_refused():
    with pytest.raises(UnknownArchitectureError, match=r"of Sequential: there are none .*it has none"):
        find_convolutions(nn.Sequential(nn.Linear(4, 4)), torch.randn(2, 4))
    with pytest.raises(UnknownArchitectureError, match=r"there are none .*0: it pads by circular"):
        find_convolutions(
            nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular")), image(channels=8)
        )


@pytest.mark.parametrize("name", FAMILIES)
def test_shapes_lead_to_the_sizes_that_were_seen(name):
    found = find_convolutions(FAMILIES[name](), image())
    for layer, place in zip(found.layers, found.places, strict=True):
        assert layer.shape.out_size == place.node.meta["shape"][2:]


@pytest.mark.parametrize("name", ["resnet", "mobilenet", "diffusers"])
def test_the_batch_of_the_example_does_not_matter(name):
    one, four = (find_convolutions(FAMILIES[name](), image(batch=batch)) for batch in (1, 4))
    assert segments(one) == segments(four)
    assert [layer.shape for layer in one.layers] == [layer.shape for layer in four.layers]


def test_a_plain_network_of_one_layer_is_one_region():
    found = find_convolutions(vgg(((8,),)), image())
    assert [region.segment for region in found.regions()] == [Segment(0, 1)]
