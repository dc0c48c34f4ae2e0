"""Folded networks are held against the networks before folding, in float64 and at every place of a map."""

from __future__ import annotations

import copy
import random
from itertools import pairwise

import pytest
import torch
from torch import nn

from shoal.architectures import find_units
from shoal.architectures.hidden import Bypass
from shoal.errors import DataError, ShoalWarning, SurgeryError, UnitError
from shoal.measurement.counting import count_macs
from shoal.plan import Plan
from shoal.surgery import apply
from shoal.surgery.shortcut_folding import fold_shortcuts
from shoal.surgery.shortcuts import Projected, Shortcut, with_shortcuts
from shoal.training.concurrent.gates import Gates

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


@pytest.fixture(autouse=True)
def float64_throughout():
    torch.set_default_dtype(torch.float64)


def conv_block(taken, given, norm, **geometry):
    geometry = {"kernel_size": 3, "padding": 1, "bias": not norm} | geometry
    return [nn.Conv2d(taken, given, **geometry), *([nn.BatchNorm2d(given)] if norm else []), nn.ReLU()]


def vgg(norm=True):
    """Two layers of one width, a pool, and again twice as wide; then a hidden linear layer."""
    features = nn.Sequential(
        *conv_block(3, 4, norm),
        *conv_block(4, 4, norm),
        nn.MaxPool2d(2),
        *conv_block(4, 8, norm),
        *conv_block(8, 8, norm),
        *conv_block(8, 8, norm),
    )
    head = [nn.Flatten(), nn.Linear(128, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 16), nn.ReLU()]
    return nn.Sequential(features, nn.Sequential(*head, nn.Dropout(), nn.Linear(16, 5))), (3, 8, 8)


def lenet_5():
    features = [nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2), nn.Flatten()]
    return nn.Sequential(*features, nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10)), (1, 28, 28)


def mlp(*widths):
    pairs = pairwise(widths)
    return nn.Sequential(*[m for pair in pairs for m in (nn.Linear(*pair), nn.ReLU())][:-1]), widths[:1]


def odd_maps():
    """Strides, crops, groups, dilation, even and one-sided kernels; what comes out are whole maps."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU(),
        *conv_block(4, 4, True, groups=2),
        *conv_block(4, 6, True, stride=2),
        *conv_block(6, 6, False, kernel_size=2, padding="same"),
        *conv_block(6, 6, False, padding=2, dilation=2),
        *conv_block(6, 4, False, kernel_size=(1, 3), padding=(0, 2)),
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 3, 3, padding=1),
    ), (2, 13, 12)


def rows():
    """Convolutions on one axis, listed by name, in lists inside lists."""
    inner = nn.Sequential(nn.Conv1d(4, 6, 3, padding=1), nn.Tanh())
    last = nn.Sequential(nn.Conv1d(6, 6, 3, padding="same"), nn.BatchNorm1d(6), nn.GELU())
    network = nn.Sequential()
    for name, module in (("stem", nn.Conv1d(2, 4, 3)), ("bend", nn.ReLU()), ("inner", inner), ("last", last)):
        network.add_module(name, module)
    network.add_module("head", nn.Conv1d(6, 2, 3, padding=1))
    return network, (2, 9)


NETWORKS = {
    "VGG with norms": vgg,
    "VGG": lambda: vgg(norm=False),
    "LeNet-5": lenet_5,
    "LeNet-300-100": lambda: mlp(784, 300, 100, 10),
    "MLP of ten equal layers": lambda: mlp(12, *[16] * 11, 4),
    "odd maps": odd_maps,
    "rows": rows,
}


def lived(network, x):
    """Let the batch norms see data, and put numbers into what begins as zero or one."""
    network.train()
    with torch.no_grad():
        for _ in range(2):
            network(torch.randn_like(x))
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.weight.uniform_(-1, 2)
                module.bias.normal_()
    return network.eval()


def with_shortcuts_lived(name, seed=0):
    plain, shape = NETWORKS[name]()
    x = torch.randn(3, *shape)
    return lived(with_shortcuts(plain, x, seed=seed), x), x


def without(network, x, removed):
    chain = find_units(network, x)
    return apply(network, Plan.removing(chain, removed)) if removed else network


def assert_equal(found, expected):
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-12 * expected.abs().max()


def assert_ordinary(network):
    kinds = {type(module) for module in network.modules()}
    assert all(kind.__module__.startswith("torch.nn.modules") for kind in kinds)
    assert not kinds & {nn.Identity}


def assert_folds(network, x):
    folded = fold_shortcuts(network)
    with torch.no_grad():
        assert_equal(folded(x), network(x))
    assert_ordinary(folded)
    return folded


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_but_the_first_and_the_last_becomes_a_removable_unit(name):
    plain, shape = NETWORKS[name]()
    x = torch.randn(2, *shape)
    layers = [m for m in plain.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d)]
    chain = find_units(with_shortcuts(plain, x), x)
    assert len(chain.removable) == len(chain) == len(layers) - 2
    assert not any(unit.is_branch for unit in chain)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 1.0])
def test_a_folded_network_answers_as_before_whatever_was_removed(name, share):
    network, x = with_shortcuts_lived(name)
    units = find_units(network, x).removable
    for seed in range(1 if share in (0, 1) else 3):
        removed = random.Random(seed).sample(units, round(share * len(units)))
        assert_folds(without(network, x, removed), x)


def any_convolution(draw, taken, axes):
    groups = draw.choice([1, 1, taken])
    numbers = {"kernel_size": (1, 4), "stride": (1, 2), "padding": (0, 3), "dilation": (1, 2)}
    geometry = {name: [draw.randint(*ends) for _ in range(axes)] for name, ends in numbers.items()}
    if draw.random() < 0.3:
        geometry |= {"padding": draw.choice(["same", "valid"]), "stride": [1] * axes}
    given = draw.choice([taken, taken, 2 * taken, 4])
    given = given if given % groups == 0 else taken
    kind = (nn.Conv1d, nn.Conv2d)[axes - 1]
    return kind(taken, given, groups=groups, bias=draw.random() < 0.5, **geometry)


@pytest.mark.parametrize("seed", range(30))
def test_convolutions_of_any_geometry_fold(seed):
    draw = random.Random(seed)
    axes, row = draw.choice([1, 2]), []
    x = torch.randn(2, 2, *([120] if axes == 1 else [60, 50]))
    y = x
    for _ in range(5):
        layer = any_convolution(draw, y.shape[1], axes)
        try:
            y = layer(y)
        except RuntimeError:
            # The map is smaller than the kernel.
            break
        row += [layer, *([nn.ReLU()] if draw.random() < 0.5 else [])]
    network = with_shortcuts(nn.Sequential(*row), x).eval()
    for number, module in enumerate(network):
        if draw.random() < 0.6 and isinstance(module, Shortcut):
            network[number] = Bypass()
        elif draw.random() < 0.6 and isinstance(module, Projected):
            module.shortcut = Bypass()
    assert_folds(network, x)


def test_a_network_of_which_nothing_is_left_but_one_way_around_is_linear():
    network, x = with_shortcuts_lived("LeNet-300-100")
    folded = assert_folds(without(network, x, [0]), x)
    assert [tuple(m.weight.shape) for m in folded if isinstance(m, nn.Linear)] == [(300, 784), (10, 300)]


def test_layers_of_one_width_vanish_with_their_activations():
    network, x = with_shortcuts_lived("MLP of ten equal layers")
    folded = assert_folds(without(network, x, list(range(10))), x)
    assert [type(module) for module in folded] == [nn.Linear, nn.ReLU, nn.Linear]


def test_a_way_around_that_is_left_becomes_part_of_the_convolution_behind_it():
    network, x = with_shortcuts_lived("VGG with norms")
    folded = assert_folds(without(network, x, [1]), x)
    kernels = [m.weight.shape for m in folded.modules() if isinstance(m, nn.Conv2d)]
    assert [tuple(kernel) for kernel in kernels] == [(4, 3, 3, 3), (4, 4, 3, 3), (8, 4, 3, 3), (8, 8, 3, 3)]


def test_a_way_around_stays_apart_where_it_costs_less_so():
    plain = nn.Sequential(
        *conv_block(1, 32, False), *conv_block(32, 2, False), *conv_block(2, 2, False), nn.Conv2d(2, 1, 1)
    )
    x = torch.randn(1, 1, 6, 6)
    network = with_shortcuts(plain, x)
    folded = assert_folds(without(network, x, [0]), x)
    assert [m.kernel_size for m in folded if isinstance(m, nn.Conv2d)] == [(3, 3), (1, 1), (3, 3), (1, 1)]
    assert count_macs(folded, x).total < count_macs(plain, x).total


def test_a_way_around_that_pads_stays_apart_behind_a_bias():
    plain = nn.Sequential(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 3, 1, padding=1), nn.Conv2d(3, 2, 1))
    x = torch.randn(1, 2, 4, 4)
    network = with_shortcuts(plain, x)
    folded = assert_folds(without(network, x, [0]), x)
    assert [m.in_channels for m in folded] == [2, 4]


def test_folding_costs_no_more_than_the_plain_network():
    for name in NETWORKS:
        plain, shape = NETWORKS[name]()
        x = torch.randn(1, *shape)
        network = with_shortcuts(plain, x)
        assert count_macs(network, x).total >= count_macs(plain, x).total
        assert count_macs(fold_shortcuts(network), x).total == count_macs(plain, x).total


def test_the_model_that_comes_in_stays_as_it_was_and_shortcuts_follow_the_seed():
    plain, shape = vgg()
    x = torch.randn(2, *shape)
    names, state = [name for name, _ in plain.named_modules()], torch.get_rng_state()
    networks = [with_shortcuts(plain, x, seed=seed) for seed in (3, 3, 4)]
    assert [name for name, _ in plain.named_modules()] == names
    assert torch.equal(torch.get_rng_state(), state)
    around = [[m.around[-1].weight for m in net.modules() if isinstance(m, Projected)] for net in networks]
    assert [len(weights) for weights in around] == [2, 2, 2]
    assert all(map(torch.equal, around[0], around[1]))
    assert not any(map(torch.equal, around[0], around[2]))
    first = networks[0]
    assert all(module.training for module in first.modules())
    assert not any(module.training for module in with_shortcuts(plain.eval(), x).modules())
    before = {key: value.clone() for key, value in first.state_dict().items()}
    fold_shortcuts(first)
    assert all(torch.equal(value, before[key]) for key, value in first.state_dict().items())


def test_without_its_way_around_a_layer_computes_what_it_did():
    layer = nn.Sequential(nn.Linear(3, 3))
    shortcut, x = Shortcut(layer, nn.ReLU()), torch.randn(2, 3)
    assert torch.equal(shortcut.alone(x), layer(x).relu())
    assert torch.equal(shortcut(x), (layer(x) + x).relu())
    assert torch.equal(shortcut(2 * x, x), (layer(x) + 2 * x).relu())


def test_weights_keep_their_dtype_and_what_was_frozen_stays_frozen():
    plain, shape = vgg()
    x = torch.randn(1, *shape).float()
    network = with_shortcuts(plain.float(), x).requires_grad_(False)
    folded = fold_shortcuts(network.train())
    assert {p.dtype for p in folded.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in folded.parameters())
    assert all(module.training for module in folded.modules())


def test_gates_skip_layers_and_what_has_left_in_training_folds():
    plain, shape = mlp(4, 6, 6, 5, 3)
    x = torch.randn(8, *shape)
    network = with_shortcuts(plain, x)
    gates = Gates(network, find_units(network, x), start=0.5)
    for _ in range(5):
        network(x).square().mean().backward()
    gates.remove_(1)
    with pytest.raises(UnitError, match=r"the layer of '3.shortcut' has left.*finish"):
        fold_shortcuts(network)
    folded = assert_folds(gates.finished().eval(), x)
    assert [m.out_features for m in folded if isinstance(m, nn.Linear)] == [6, 6, 3]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_steps_from_fresh_weights_make_a_network_that_takes_the_state(name):
    network, x = with_shortcuts_lived(name)
    removed = find_units(network, x).removable[::2]
    folded = fold_shortcuts(without(network, x, removed))
    other, _ = with_shortcuts_lived(name, seed=1)
    fresh = fold_shortcuts(without(other, x, removed))
    assert not torch.equal(fresh(x), folded(x))
    fresh.load_state_dict(folded.state_dict())
    assert torch.equal(fresh(x), folded(x))


def test_layers_that_can_have_no_shortcut_are_told():
    tied = nn.Linear(4, 4)
    plain = nn.Sequential(
        nn.Linear(2, 4), tied, nn.Linear(4, 4), tied, nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    )
    plain.append(nn.Linear(4, 4))
    with pytest.warns(ShoalWarning, match=r"2 of 3 layers .*1: its weights are used more than once; 4: "):
        network = with_shortcuts(plain, torch.randn(1, 2))
    assert [name for name, m in network.named_modules() if isinstance(m, Shortcut)] == ["2"]


class ByNumber(nn.Module):
    def __init__(self, least):
        super().__init__()
        self.features, self.least = mlp(3, 3, 3, 3, 3)[0], least

    def forward(self, x):
        for number in range(0, max(len(self.features), self.least), 2):
            x = self.features[number](x)
        return x


class Around(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


class ByHand(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(3, 3) for _ in range(3))

    def forward(self, x):
        return self.third(self.second(self.first(x).relu()).relu())


class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Shortcut(nn.Sequential(nn.Linear(3, 3)), nn.ReLU())

    def forward(self, x):
        return self.inner(x)


def test_rows_with_a_forward_of_their_own_and_what_is_shared_stay_as_they_are():
    shared = nn.Linear(5, 5)
    plain = nn.Sequential(
        *mlp(3, 4, 5, 6)[0],
        nn.ReLU(),
        Around(nn.Linear(6, 6)),
        nn.Linear(6, 5),
        shared,
        shared,
        nn.Linear(5, 2),
    )
    x = torch.randn(3, 3)
    with pytest.warns(ShoalWarning, match=r"1 of 4 layers .*8: its weights are"):
        network = with_shortcuts(plain, x)
    chain = find_units(network, x)
    names = [unit.name for unit in chain if "shortcut" in unit.name]
    small = apply(network, Plan.removing(chain, names))
    folded = fold_shortcuts(small)
    assert_equal(folded(x), small(x))
    assert folded[-2] is folded[-3]
    assert [type(m) for m in folded][-5:-3] == [Around, nn.Linear]


class Widening(nn.Module):
    """A residual block that changes the width, with a projection on its path."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6))
        self.around = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6))

    def forward(self, x):
        return torch.relu(self.around(x) + self.inner(x))


def test_layers_that_a_path_leads_around_get_no_other():
    block = Around(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    plain = nn.Sequential(
        nn.Linear(2, 4), block, nn.Linear(4, 4), Widening(), nn.Linear(6, 6), nn.Linear(6, 1)
    )
    x = torch.randn(3, 2)
    network = with_shortcuts(plain.eval(), x)
    names = [name for name, module in network.named_modules() if isinstance(module, Shortcut)]
    assert names == ["2", "3.inner.0.shortcut", "3.inner.1", "4"]
    assert [unit.name for unit in find_units(network, x) if unit.removable] == ["1", *names]
    assert_equal(fold_shortcuts(network)(x), network(x))
    with pytest.raises(UnitError, match=r"none of the 2 layers .* \(a path leads around 2 already\)"):
        with_shortcuts(nn.Sequential(nn.Linear(2, 4), block, nn.Linear(4, 1)), x)


def test_entries_keep_their_names_and_new_ones_take_none_of_them():
    network = nn.Sequential()
    for name, module in zip(
        ("a", "b", "c", "b_relu"),
        mlp(2, 3, 3, 2)[0][:1].extend([nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)]),
        strict=True,
    ):
        network.add_module(name, module)
    x = torch.randn(2, 2)
    folded = assert_folds(with_shortcuts(network, x), x)
    assert list(folded._modules) == ["a", "b", "b_relu_relu", "b_relu"]


def test_a_norm_along_another_axis_is_no_part_of_the_layer():
    plain = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    x = torch.randn(3, 4, 2)
    network = lived(with_shortcuts(plain, x), x)
    assert [type(module) for module in network] == [nn.Linear, Shortcut, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    assert_folds(network, x)


def test_vgg_16_has_nine_layers_with_an_identity_around_and_three_with_a_projection():
    """Layers and MACs: Guenter & Sideris, 2024, https://arxiv.org/abs/2406.04549, network for CIFAR-10."""
    widths, parts = [3], []
    for depth, width in ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)):
        for _ in range(depth):
            parts += conv_block(widths[-1], width, True)
            widths.append(width)
        parts.append(nn.MaxPool2d(2))
    plain = nn.Sequential(*parts, nn.Flatten(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)).float()
    x = torch.randn(1, 3, 32, 32).float()
    network = with_shortcuts(plain, x)
    blocks = [module for module in network if isinstance(module, Shortcut | Projected)]
    assert [isinstance(block, Projected) for block in blocks].count(True) == 3
    assert len(blocks) == 9 + 3 + 1
    assert round(count_macs(plain, x).total / 1e6, 1) == 313.5


def test_networks_that_no_shortcut_fits_are_refused():
    with pytest.raises(UnitError, match=r"none of the 1 layers .*second: it is no entry of an nn.Sequential"):
        with_shortcuts(ByHand(), torch.randn(1, 3))
    with pytest.raises(UnitError, match=r"none of the 0 layers .*there are none"):
        with_shortcuts(mlp(3, 3, 3)[0], torch.randn(1, 3))
    reflecting = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), nn.Conv2d(2, 1, 1)
    )
    with pytest.raises(UnitError, match="1: it pads by reflect"):
        with_shortcuts(reflecting, torch.randn(1, 1, 6, 6))
    with pytest.raises(UnitError, match="1: it is given one sample without a batch axis"):
        with_shortcuts(nn.Sequential(*(nn.Conv2d(1, 1, 1) for _ in range(3))), torch.randn(1, 6, 6))
    transposed = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ConvTranspose2d(1, 1, 1), nn.Conv2d(1, 1, 1))
    with pytest.raises(UnitError, match="1: it is a ConvTranspose2d"):
        with_shortcuts(transposed, torch.randn(1, 1, 6, 6))
    for least in (0, 7):
        with pytest.raises(SurgeryError, match="goes by the numbers of its entries"):
            with_shortcuts(ByNumber(least), torch.randn(1, 3))
    with pytest.raises(DataError, match="asked to run Sequential"):
        with_shortcuts(mlp(3, 3, 3, 3)[0], torch.randn(1, 4))
    with pytest.raises(SurgeryError, match=r"inner is no entry of an nn.Sequential"):
        fold_shortcuts(Wrapped())


def test_compiled_layers_get_ways_around_them_as_others():
    plain, shape = mlp(4, 6, 6, 3)
    x, compiled = torch.randn(2, *shape), copy.deepcopy(plain)
    for index, layer in enumerate(compiled):
        compiled[index] = torch.compile(layer, backend="eager")
    expected, net = with_shortcuts(plain, x), with_shortcuts(compiled, x)
    assert list(net.state_dict()) == list(expected.state_dict())
    assert torch.equal(net(x), expected(x))
