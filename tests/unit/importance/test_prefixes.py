import pytest
import torch
from torch import nn

from convnets import DiffusionUNet, resnet, vgg
from shoal.architectures.convolutions import find_convolutions
from shoal.errors import DataError
from shoal.importance.prefixes import Cut, CutBatches, cut_of, parted, whole_network
from shoal.importance.reconstruction import expanded
from shoal.surgery.entries import find_entries

NETWORKS = {
    "plain": (lambda: vgg(((4, 4), (6,)), classes=3), lambda: (torch.randn(3, 3, 8, 8),)),
    "residual": (lambda: resnet((2, 1), 4, classes=3), lambda: (torch.randn(3, 3, 16, 16),)),
    "unet": (
        lambda: DiffusionUNet(8, (1, 2), 1, attention=4, size=8),
        lambda: (torch.randn(3, 3, 8, 8), torch.arange(3)),
    ),
}


def convolutions_of(kind):
    torch.manual_seed(0)
    make, inputs = NETWORKS[kind]
    return find_convolutions(make().eval(), inputs()), inputs()


@pytest.mark.parametrize("kind", NETWORKS)
def test_both_parts_in_a_row_are_the_network_wherever_it_is_cut(kind):
    found, inputs = convolutions_of(kind)
    network = whole_network(found)
    points = {cut_of(found, layer.index) for layer in found.layers}
    assert len(points) > 2
    for point in points:
        cut = Cut(network, point)
        with torch.no_grad():
            values = cut.values(inputs)
            assert torch.equal(cut.behind(network)(*values), network(*inputs))
        assert len(values[0]) == 3


@pytest.mark.parametrize("kind", NETWORKS)
def test_what_is_rewritten_behind_a_cut_takes_what_the_original_gives_there(kind):
    found, inputs = convolutions_of(kind)
    changed = [entry for entry in find_entries(found) if not entry.unchanged]
    for entry in [*changed[:3], *changed[-3:]]:
        cut = Cut(whole_network(found), cut_of(found, entry.segment.start))
        whole = expanded(found, entry)
        with torch.no_grad():
            assert torch.equal(cut.behind(whole)(*cut.values(inputs)), whole(*inputs))


def test_the_part_behind_shares_its_weights_with_the_network_and_has_no_others():
    found, _ = convolutions_of("plain")
    network = whole_network(found)
    behind = Cut(network, cut_of(found, 2)).behind(network)
    shared = {id(parameter) for parameter in network.parameters()}
    assert {id(parameter) for parameter in behind.parameters()} < shared
    assert sum(isinstance(module, nn.Conv2d) for module in behind.modules()) == 1


def test_without_a_call_to_be_cut_at_all_of_the_network_stands_behind():
    found, inputs = convolutions_of("plain")
    cut = Cut(found.pieces.model)
    assert cut.values(inputs) is inputs
    assert cut.behind(found.pieces.model) is found.pieces.model


@pytest.mark.parametrize(("bytes_", "runs"), [(0, 4), (3 * 4 * 8 * 8 * 4, 3), (1e9, 2)])
def test_what_fits_into_memory_is_computed_once(bytes_, runs, monkeypatch):
    found, _ = convolutions_of("plain")
    network = whole_network(found)
    cut = Cut(network, cut_of(found, 1))
    data = [(torch.randn(3, 3, 8, 8), number) for number in range(2)]
    calls, values = [], cut.values
    monkeypatch.setattr(cut, "values", lambda inputs: calls.append(1) or values(inputs))
    batches = CutBatches(cut, data, network, bytes_)
    for _ in range(2):
        for (kept,), (images, _) in zip((b[0] for b in batches), data, strict=True):
            assert torch.equal(kept, values(images)[0])
            kept.zero_()
    assert len(calls) == runs
    assert [labels for _, labels in batches] == [0, 1]
    assert len(batches) == 2


def test_every_other_batch_is_tuned_on_where_no_others_are_given():
    batches = [(torch.full((4, 1), float(number)), torch.full((4,), number)) for number in range(5)]
    judged, tuned = parted(batches, None, 100)
    assert [int(labels[0]) for _, labels in judged] == [0, 2, 4]
    assert [int(labels[0]) for _, labels in tuned] == [1, 3]


@pytest.mark.parametrize(("samples", "sizes"), [(1, [1]), (4, [4]), (6, [4, 2]), (9, [4, 4])])
def test_no_more_samples_are_taken_than_asked_for(samples, sizes):
    batches = [{"x": torch.zeros(4, 1), "labels": torch.zeros(4)} for _ in range(2)]
    judged, tuned = parted(batches, batches[:1], samples)
    assert [len(inputs["x"]) for inputs, _ in judged] == sizes
    assert [len(labels) for _, labels in judged] == sizes
    assert [len(inputs["x"]) for inputs, _ in tuned] == [min(4, samples)]


def test_a_shuffling_loader_leaves_the_random_state_as_it_was():
    loader = torch.utils.data.DataLoader(torch.randn(8, 2), batch_size=2, shuffle=True)
    state = torch.get_rng_state()
    judged, tuned = parted(loader, None, 4)
    assert torch.equal(torch.get_rng_state(), state)
    assert not {tuple(row) for b, _ in judged for row in b.tolist()} & {
        tuple(row) for b, _ in tuned for row in b.tolist()
    }


def test_one_sample_is_not_enough_for_both():
    with pytest.raises(DataError, match="there is a single one"):
        parted([torch.zeros(1, 2)], None, 10)


def test_no_batches_are_refused():
    with pytest.raises(DataError, match="found none"):
        parted([], None, 10)
