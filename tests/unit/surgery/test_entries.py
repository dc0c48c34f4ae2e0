"""Entries are held against every set of layers that might stay, and against published numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import combinations

import pytest
import torch
from torch import nn

from convnets import DiffusionUNet, bottleneck_resnet, mobilenet_v2, resnet, settled
from merge_networks import NETWORKS, conv, small
from merge_plans import apart, steps_from
from shoal import Plan, apply, find_units
from shoal.architectures.convolutions import find_convolutions
from shoal.architectures.symbolic import shape_of
from shoal.errors import ConfigError, UnitError
from shoal.steps import Merge
from shoal.surgery.entries import PUBLISHED, EntryRules, find_entries
from shoal.surgery.expanding import expand_, merge_
from shoal.surgery.rewriting import merged_shape, rewrite

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

MAGNITUDES = {"raw": "magnitude", "folded": "folded_magnitude"}


def by_brute_force(found, region, rules):
    """Shape of a kernel → the largest weights of all sets of layers that lead to it."""
    best = {}
    layers = [found.layers[index] for index in region.segment]
    fixed = [layer.index for layer in layers if not layer.reducible]
    free = [layer.index for layer in layers if layer.reducible]
    for count in range(len(free) + 1):
        for chosen in combinations(free, count):
            kept = [*fixed, *chosen]
            if not kept and not rules.empty:
                continue
            try:
                shape = merged_shape(rewrite(found, region, kept))
            except UnitError:
                continue
            if shape is not None and max(shape.kernel) > (rules.largest_kernel or 999):
                continue
            key = shape and (shape.kernel, shape.stride, shape.dilation, shape.groups)
            weight = sum(getattr(found.layers[index], MAGNITUDES[rules.magnitude]) for index in kept)
            best[key] = max(best.get(key, 0), weight)
    # All layers may go, whatever channels there are between, if what comes out looks like what goes in.
    shapes = {shape_of(region.entry), shape_of(region.exit)}
    if (
        rules.empty
        and len(layers) > 1
        and len(shapes) == 1
        and merged_shape(rewrite(found, region, ())) is None
    ):
        best[None] = 0
    return best


@pytest.mark.parametrize("magnitude", MAGNITUDES)
@pytest.mark.parametrize("name", NETWORKS)
def test_what_stays_are_the_heaviest_layers_of_all_that_lead_to_a_kernel(name, magnitude):
    net, example = small(name)
    found, rules = find_convolutions(net, example), EntryRules(magnitude=magnitude)
    entries = find_entries(found, rules)
    for region in found.regions():
        if len(region.segment) > 5:
            continue
        mine = {}
        for entry in entries:
            if entry.segment == region.segment:
                shape = entry.merged
                key = shape and (shape.kernel, shape.stride, shape.dilation, shape.groups)
                assert key not in mine
                layers = (found.layers[index] for index in entry.kept)
                mine[key] = sum(getattr(layer, MAGNITUDES[magnitude]) for layer in layers)
        assert mine == pytest.approx(by_brute_force(found, region, rules))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_may_stay_as_it_is(name):
    net, example = small(name)
    found = find_convolutions(net, example)
    alone = [entry for entry in find_entries(found) if entry.unchanged]
    assert [entry.kept for entry in alone] == [(layer.index,) for layer in found.layers]
    for entry, layer in zip(alone, found.layers, strict=True):
        assert any(shape.kernel == layer.shape.kernel for shape in entry.separate)


@pytest.mark.parametrize("name", NETWORKS)
def test_entries_become_what_they_say(name):
    net, example = small(name)
    found = find_convolutions(net, example)
    entries = [entry for entry in find_entries(found) if not entry.unchanged]
    for entry in entries[:: max(1, len(entries) // 12)]:
        (step,) = steps_from([entry], 0)
        expanded, merged = expand_(found.copy(), [step]).eval(), merge_(found.copy(), [step]).eval()
        assert apart(merged, expanded, example) < 1e-12
        kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
        kernels = Counter(tuple(each.kernel_size) for each in merged.modules() if isinstance(each, kinds))
        assert entry.merged is None or kernels[entry.merged.kernel]
        assert entry.empty == (entry.merged is None)


def test_without_merging_only_single_layers_are_rewritten():
    net, example = small("resnet")
    found = find_convolutions(net, example)
    entries = find_entries(found, EntryRules(merge=False))
    assert {len(entry.segment) for entry in entries} == {1}
    assert sum(entry.empty for entry in entries) == sum(layer.reducible for layer in found.layers)


def test_without_pruning_all_layers_stay():
    net, example = small("resnet")
    entries = find_entries(find_convolutions(net, example), EntryRules(prune=False))
    assert all(entry.kept == tuple(entry.segment) for entry in entries)
    assert max(len(entry.segment) for entry in entries) > 1


def test_nothing_is_left_out_whole_unless_asked_for():
    net, example = small("resnet")
    found = find_convolutions(net, example)
    assert any(entry.empty for entry in find_entries(found))
    assert not any(entry.empty for entry in find_entries(found, EntryRules(empty=False)))


def test_a_convolution_behind_up_sampling_may_go_in_any_case():
    net, example = small("unet")
    found = find_convolutions(net, example)
    entries = find_entries(found, EntryRules(empty=False))
    (empty,) = (entry for entry in entries if entry.empty)
    assert found.layers[empty.segment.start].name == "up.0.upsample.conv"


def test_segments_end_at_strides_where_they_may_not_pass():
    net, example = small("resnet")
    found = find_convolutions(net, example)
    entries = find_entries(found, EntryRules(strided=False, ends=True))
    strided = [layer.index for layer in found.layers if set(layer.shape.stride) != {1}]
    assert all(index in (entry.segment.stop - 1,) for entry in entries for index in strided
               if index in entry.segment)  # fmt: skip
    passing = [
        e for e in find_entries(found) for index in strided if e.segment.start <= index < e.segment.stop - 1
    ]
    assert passing


def test_stem_and_head_are_not_searched_unless_asked_for():
    net, example = small("mobilenet")
    found = find_convolutions(net, example)
    layers = {index for entry in find_entries(found, EntryRules(ends=False)) for index in entry.segment}
    assert layers == set(range(1, len(found.layers) - 1))


@pytest.mark.parametrize("largest", [1, 3, 5, None])
def test_no_kernel_grows_beyond_the_largest(largest):
    net, example = small("vgg")
    found = find_convolutions(net, example)
    entries = find_entries(found, EntryRules(largest_kernel=largest))
    rewritten = [entry for entry in entries if entry.merged is not None and not entry.unchanged]
    assert all(max(entry.merged.kernel) <= (largest or 99) for entry in rewritten)
    # A layer stays as it is, whatever its size.
    assert sum(entry.unchanged for entry in entries) == 6
    assert bool(rewritten) == (largest != 1)


def test_projections_count_where_they_stand():
    net, example = small("resnet")
    found = find_convolutions(net, example)
    entries = {(e.segment.start, e.segment.stop, e.kept): e for e in find_entries(found)}
    inside, outside = entries[5, 7, (5, 6)], entries[6, 7, (6,)]
    assert [shape.kernel for shape in inside.separate] == [(3, 3), (3, 3), (1, 1)]
    assert [shape.activation for shape in inside.separate] == ["", "relu", ""]
    assert inside.beside == ()
    assert [shape.kernel for shape in outside.beside] == [(1, 1)]
    assert [shape.kernel for shape in outside.separate] == [(3, 3)]


def test_mixing_channels_may_be_given_up_for_a_depthwise_convolution():
    """A dense convolution of one tap makes no kernel larger, but mixes channels."""
    net = nn.Sequential(conv(6, 6, groups=6), nn.ReLU(), conv(6, 6, 1), nn.ReLU(), conv(6, 6, groups=6))
    found = find_convolutions(net.eval(), torch.randn(1, 6, 8, 8))
    whole = [entry for entry in find_entries(found) if len(entry.segment) == 3]
    shapes = {(entry.merged.kernel[0], entry.merged.groups) for entry in whole if entry.merged}
    assert shapes == {(5, 1), (5, 6), (3, 1), (3, 6), (1, 1)}


def test_a_single_branch_beside_a_projection_is_no_pair_of_itself():
    net, example = small("rep_vgg")
    found = find_convolutions(net, example)
    entry = next(e for e in find_entries(found) if e.unchanged and e.segment.start == 1)
    assert sorted(shape.kernel for shape in entry.separate) == [(1, 1), (3, 3)]


@pytest.mark.parametrize(
    ("network", "example", "entries", "segments", "largest", "shapes", "lengths"),
    [
        (resnet, (3, 64, 64), 150, 62, 21, 29, {1: 32, 2: 13, 4: 9, 6: 5, 8: 2, 10: 1}),
        (bottleneck_resnet, (3, 64, 64), 192, 107, 11, 48, {1: 48, 2: 29, 3: 13, 6: 9, 9: 5, 12: 2, 15: 1}),
        (mobilenet_v2, (3, 64, 64), 391, 171, 15, 137,
         {1: 50, 2: 34, 3: 18, 4: 8, 5: 7, 6: 11, 7: 5, 8: 6, 9: 9, 10: 4, 11: 3, 12: 4, 13: 1, 14: 1, 15: 3,
          16: 1, 17: 1, 18: 2, 19: 1, 20: 1, 21: 1}),
        (DiffusionUNet, (3, 32, 32), 98, 73, 5, None, {1: 51, 2: 22}),
    ],
)  # fmt: skip
def test_published_rules_give_the_published_numbers(
    network, example, entries, segments, largest, shapes, lengths
):
    """Reference: Kim et al., 2024, LayerMerge, https://arxiv.org/abs/2406.12837, and its code."""
    inputs = (torch.zeros(1, *example), torch.tensor([1]))[: 2 if network is DiffusionUNet else 1]
    found = find_entries(find_convolutions(network().eval(), inputs), PUBLISHED)
    assert len(found) == entries
    assert len({entry.segment for entry in found}) == segments
    merged = [entry.merged for entry in found if entry.merged is not None]
    assert max(max(shape.kernel) for shape in merged) == largest
    assert shapes in (None, len({replace(shape, activation="") for shape in merged}))
    assert Counter(len(segment) for segment in {entry.segment for entry in found}) == lengths


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"magnitude": "heaviest"}, "asked for magnitude='heaviest': 'raw' and 'folded' work"),
        ({"largest_kernel": 0}, "asked for largest_kernel=0: a merged convolution has one tap or more"),
        ({"largest_kernel": -3}, "asked for largest_kernel=-3"),
    ],
)
def test_rules_that_make_no_sense_are_refused(fields, told):
    with pytest.raises(ConfigError, match=told):
        EntryRules(**fields)


def test_a_block_whose_layers_change_channels_on_the_way_may_go_whole():
    net = settled(mobilenet_v2(scale=0.25, last=32, classes=4))
    x = torch.randn(2, 3, 32, 32)
    found = find_convolutions(net, x)
    empty = {str(entry.segment) for entry in find_entries(found) if entry.empty}
    # The second block of the second stage keeps channels and size; the first does not.
    assert "[6, 9)" in empty
    assert "[3, 6)" not in empty
    chain = find_units(net, x, granularity="layer")
    names = tuple(unit.name for unit in chain)[6:9]
    small = apply(net, Plan.merging(chain, [Merge(start=6, stop=9, kept=(), layers=names)]))
    net[0][3].forward = lambda value: value
    torch.testing.assert_close(small(x), net(x), rtol=1e-4, atol=1e-5)


def test_layers_that_do_not_give_what_they_take_cannot_go_together():
    net, x = mobilenet_v2(scale=0.25, last=32, classes=4).eval(), torch.randn(2, 3, 32, 32)
    chain = find_units(net, x, granularity="layer")
    names = tuple(unit.name for unit in chain)[3:6]
    with pytest.raises(UnitError, match="cannot be removed"):
        Plan.merging(chain, [Merge(start=3, stop=6, kept=(), layers=names)])
