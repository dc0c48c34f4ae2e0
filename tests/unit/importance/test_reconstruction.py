import pytest
import torch
from torch import nn

from convnets import mobilenet_v2, resnet
from shoal.architectures.convolutions import find_convolutions
from shoal.errors import SurgeryError
from shoal.importance.prefixes import Cut, CutBatches, cut_of, whole_network
from shoal.importance.reconstruction import (
    Mixing,
    MixingSums,
    expanded,
    reconstructed,
    with_mixing,
)
from shoal.surgery.entries import find_entries
from shoal.units import Segment


def convolutions_of(model, size=16):
    torch.manual_seed(0)
    return find_convolutions(model.eval(), torch.zeros(1, 3, size, size))


@pytest.fixture
def residual():
    torch.manual_seed(0)
    return convolutions_of(resnet((2, 1), 4, classes=3))


def led_back(found, entry, ridge=1e-8, recalibrate=False):
    network = whole_network(found)
    cut = Cut(network, cut_of(found, entry.segment.start))
    batches = CutBatches(cut, [(torch.randn(8, 3, 16, 16), None) for _ in range(2)], network, 1e9)
    tail = reconstructed(found, entry, cut, batches, ridge=ridge, recalibrate=recalibrate)
    return lambda images: tail(*cut.values(images))


def test_mixing_is_the_least_squares_fit_of_places_by_channels():
    mine, theirs = (torch.randn(5, 3, 4, 4, dtype=torch.double) for _ in range(2))
    sums = MixingSums()
    for rows in (slice(0, 2), slice(2, 5)):
        sums.add(mine[rows], theirs[rows])
    matrix, bias = sums.solve(1e-12)
    rows = mine.transpose(0, 1).flatten(1).T
    padded = torch.cat([rows, torch.ones(len(rows), 1)], dim=1)
    expected = torch.linalg.lstsq(padded, theirs.transpose(0, 1).flatten(1).T).solution
    torch.testing.assert_close(torch.cat([matrix, bias[:, None]], dim=1), expected.T, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("channels", [1, 4])
def test_what_is_right_already_is_left_as_it_is(channels):
    x = torch.randn(6, channels, 3, 3, dtype=torch.double)
    sums = MixingSums()
    sums.add(x, x)
    for ridge in (1e-6, 1e-2, 10.0):
        matrix, bias = sums.solve(ridge)
        torch.testing.assert_close(matrix, torch.eye(channels, dtype=torch.double))
        torch.testing.assert_close(bias, torch.zeros(channels, dtype=torch.double))


def test_channels_that_are_always_the_same_are_no_obstacle():
    sums = MixingSums()
    sums.add(torch.ones(2, 3, 2, 2), torch.full((2, 3, 2, 2), 5.0))
    matrix, bias = sums.solve(1e-2)
    torch.testing.assert_close(matrix.sum(dim=1) + bias, torch.full((3,), 5.0, dtype=torch.double))


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_a_mixing_mixes_channels_place_by_place(axes):
    mixing, x = Mixing(), torch.randn(2, 3, *[4] * axes)
    assert mixing(x) is x
    matrix, bias = torch.randn(5, 3), torch.randn(5)
    mixing.set_(matrix, bias)
    expected = torch.nn.functional.linear(x.movedim(1, -1), matrix, bias).movedim(-1, 1)
    torch.testing.assert_close(mixing(x), expected)


def test_with_no_matrix_yet_the_network_is_the_one_without_the_mixing(residual):
    x = torch.randn(2, 3, 16, 16)
    for entry in find_entries(residual):
        if entry.unchanged or entry.empty:
            continue
        whole, mixing = with_mixing(residual, entry.segment, entry)
        original, _ = with_mixing(residual, entry.segment)
        assert torch.equal(whole(x), expanded(residual, entry)(x))
        assert torch.equal(original(x), whole_network(residual)(x))
        assert mixing in set(whole.modules())


def test_a_mixing_stands_before_an_activation_that_is_added():
    torch.manual_seed(0)
    found = convolutions_of(mobilenet_v2(classes=3, scale=0.1, last=8), size=32)
    entry = next(entry for entry in find_entries(found) if entry.added and not entry.empty)
    whole, mixing = with_mixing(found, entry.segment, entry)
    channels = entry.merged.out_channels
    seen = []
    mixing.register_forward_hook(note_after(seen))
    mixing.set_(torch.zeros(channels, channels), torch.full((channels,), 100.0))
    handles = [m.register_forward_hook(note_after(seen)) for m in whole.modules() if isinstance(m, nn.ReLU6)]
    whole(torch.randn(2, 3, 32, 32))
    at = next(n for n, value in enumerate(seen) if value.min() == 100)
    assert seen[at + 1].max() == seen[at + 1].min() == 6
    assert handles


def note_after(seen):
    # A copy: calls behind may overwrite it.
    return lambda module, args, output: seen.append(output.clone())


def test_segments_without_activations_inside_come_back_to_rounding():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 1), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 256, 2)
    )
    found = convolutions_of(model)
    (entry,) = [entry for entry in find_entries(found) if len(entry.segment) == 2]
    x = torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(led_back(found, entry)(x), model(x), rtol=1e-4, atol=1e-4)


def test_an_activation_that_only_scales_is_made_up_for_by_the_mixing():
    torch.manual_seed(0)
    first = nn.Conv2d(3, 4, 3, padding=1)
    with torch.no_grad():
        # What comes out is negative everywhere, and scaled by the slope.
        first.bias.fill_(-20.0)
    behind = [nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 2)]
    model = nn.Sequential(first, nn.PReLU(init=0.25), *behind).eval()
    found = convolutions_of(model)
    (entry,) = [e for e in find_entries(found) if e.segment == Segment(0, 2) and e.kept == (0, 1)]
    x = torch.randn(4, 3, 16, 16)
    assert not torch.allclose(expanded(found, entry)(x), model(x), rtol=0.1)
    torch.testing.assert_close(led_back(found, entry)(x), model(x), rtol=1e-3, atol=1e-3)


def test_the_fit_gets_nearer_to_the_original_than_the_segment_as_it_is(residual):
    x = torch.randn(16, 3, 16, 16)
    for entry in find_entries(residual):
        if entry.unchanged or entry.empty:
            continue
        original, end = with_mixing(residual, entry.segment)
        whole, mixing = with_mixing(residual, entry.segment, entry)
        mine, theirs = [], []
        mixing.register_forward_hook(note_after(mine))
        end.register_forward_hook(note_after(theirs))
        with torch.no_grad():
            original(x), whole(x)
            sums = MixingSums()
            sums.add(mine[0], theirs[0])
            mixing.set_(*sums.solve(1e-6))
            whole(x)
        before, after = ((each - theirs[0]).square().sum() for each in mine)
        assert after <= before * (1 + 1e-5)


def test_recalibration_changes_statistics_of_the_copy_alone(residual):
    entry = next(e for e in find_entries(residual) if len(e.segment) > 1 and not e.empty)
    before = {name: value.clone() for name, value in residual.pieces.model.state_dict().items()}
    x = torch.randn(4, 3, 16, 16)
    torch.manual_seed(1)
    plain = led_back(residual, entry)(x)
    torch.manual_seed(1)
    assert not torch.allclose(plain, led_back(residual, entry, recalibrate=True)(x))
    assert all(torch.equal(value, before[n]) for n, value in residual.pieces.model.state_dict().items())


def test_layers_that_are_no_region_are_refused(residual):
    with pytest.raises(SurgeryError, match="no region with one way in and one way out"):
        with_mixing(residual, Segment(0, len(residual.layers)))
