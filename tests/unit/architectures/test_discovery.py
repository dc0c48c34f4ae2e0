import copy
import random

import numpy as np
import pytest
import torch
from cifar_resnet import CifarResNet, resnet56
from torch import nn

from networks import NETWORKS, Attention, Branches, PreActivation, Residual, feedforward, images, tokens
from shoal import analyze
from shoal.architectures import bypassed, find_units
from shoal.calling import to_device
from shoal.errors import ConfigError, DataError, UnknownArchitectureError

UNITS = {
    "residual": [f"layer{s}.{b}" for s, n in ((1, 3), (2, 3), (3, 2)) for b in range(n)],
    "short_stages": ["layer1.0", "layer2.0", "layer3.0"],
    "bottleneck": ["layer1.0", "layer1.1", "layer1.2", "layer2.0", "layer2.1"],
    "attributes": ["first", "second", "third"],
    **{name: [f"features.{index}" for index in range(1, 7)] for name in ("inverted", "gated")},
    "convnext": [f"stages.{s}.blocks.{b}" for s, n in ((0, 2), (1, 3)) for b in range(n)],
    "vit": [f"blocks.{index}" for index in range(4)],
    "vgg": [
        *("features.0:3", "features.3:6", "features.7:10", "features.10:13", "features.13:16"),
        *("classifier.0:3", "classifier.3:5", "classifier.5"),
    ],
    "mlp": ["0:2", "2:4", "4:6", "6:8", "8:10", "10"],
    **{name: [f"layers.{i}" for i in range(4)] for name in ("listed", "between", "numbered", "tapped")},
    "side_by_side": [f"layers.{index}" for index in range(4)],
    "branches": [f"layers.{layer}.{part}" for layer in range(3) for part in range(2)],
    "shared": ["1.0", "1.1"],
    "tuples": ["layers.0", "layers.1", "layers.2"],
    "overwriting": ["blocks.0", "blocks.1", "blocks.2"],
    "eager": ["1.0", "1.1", "1.2"],
    "post_norm": ["layers.0", "layers.1", "layers.2"],
    "weight_normed": ["1", "2", "3"],
    "pairs": ["1", "2", "3"],
}
# What is in the chain and cannot be removed, and a part of the reason.
FIXED = {
    "residual": {"layer2.0": "shape from (2, 16, 16, 16) to (2, 32, 8, 8)", "layer3.0": "shape"},
    "short_stages": {"layer2.0": "shape", "layer3.0": "shape"},
    "bottleneck": {"layer1.0": "shape", "layer2.0": "shape"},
    **{name: {"features.2": "shape", "features.5": "shape"} for name in ("inverted", "gated")},
    "vgg": {
        **dict.fromkeys(["features.0:3", "features.7:10", "classifier.0:3"], "shape"),
        "classifier.5": "shape from (2, 32) to (2, 10)",
    },
    "mlp": {"0:2": "shape from (2, 8) to (2, 16)", "10": "shape from (2, 16) to (2, 4)"},
    "shared": {"1.0": "used 2 times (shared weights)"},
}


@pytest.mark.parametrize("name", NETWORKS)
class TestEveryNetwork:
    def test_has_the_units_that_a_person_would_name(self, name):
        model, example = NETWORKS[name]()
        chain = find_units(model, example)
        assert [unit.name for unit in chain] == UNITS[name]
        assert [unit.index for unit in chain] == list(range(len(chain)))

    def test_says_why_a_unit_cannot_be_removed(self, name):
        model, example = NETWORKS[name]()
        fixed = {unit.name: unit.why for unit in find_units(model, example) if not unit.removable}
        assert fixed.keys() == FIXED.get(name, {}).keys()
        for unit, why in fixed.items():
            assert FIXED[name][unit] in why

    def test_is_left_as_it_was_found(self, name):
        model, example = NETWORKS[name]()
        model.train()
        list(model.modules())[-1].eval()
        for parameter in list(model.parameters())[::2]:
            parameter.grad = torch.ones_like(parameter)
        before, taken = _state(model), copy.deepcopy(example)
        random_states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
        find_units(model, example)
        assert _state(model) == before
        assert torch.equal(torch.get_rng_state(), random_states[0])
        assert (np.random.get_state()[1].tolist(), random.getstate()) == random_states[1:]
        torch.testing.assert_close(example, taken, rtol=0, atol=0)

    def test_has_the_same_units_in_half_precision_and_in_double(self, name):
        model, example = NETWORKS[name]()
        for dtype in (torch.bfloat16, torch.float64):
            cast = torch.utils._pytree.tree_map(
                lambda leaf: leaf.to(dtype) if leaf.is_floating_point() else leaf,  # noqa: B023
                example,
            )
            chain = find_units(copy.deepcopy(model).to(dtype), cast)
            assert [unit.name for unit in chain] == UNITS[name]
            assert [unit.name for unit in chain if not unit.removable] == list(FIXED.get(name, {}))

    def test_counts_its_units_parameters_and_macs(self, name):
        model, example = NETWORKS[name]()
        chain = find_units(model, example)
        assert chain.params == sum(p.numel() for p in model.parameters())
        for unit in chain:
            modules = [model.get_submodule(path) for path in unit.modules]
            assert unit.params == sum(p.numel() for module in modules for p in module.parameters())
            assert unit.macs > 0
            assert model.get_submodule(unit.container) is not None
        assert sum(unit.params for unit in chain) <= chain.params
        assert sum(unit.macs for unit in chain) <= chain.macs


def _state(model):
    """All that a caller could notice: weights, gradients, hooks, modes and attributes of every module."""
    told = []
    for name, module in model.named_modules():
        hooks = [key for key, value in vars(module).items() if "hooks" in key and value]
        told.append((name, id(module), module.training, sorted(vars(module)), hooks, list(module._modules)))
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        gradient = None if tensor.grad is None else (id(tensor.grad), tensor.grad.sum().item())
        told.append((name, id(tensor), tensor.requires_grad, gradient, tensor.tolist()))
    return told


def test_stages_are_the_groups():
    model, x = NETWORKS["residual"]()
    assert find_units(model, x).groups == {"layer1": (0, 1, 2), "layer2": (3, 4, 5), "layer3": (6, 7)}


def test_stages_in_one_list_are_told_apart_by_their_shape():
    model, x = NETWORKS["inverted"]()
    assert find_units(model, x).groups == {"features": (0,), "features#2": (1, 2, 3), "features#3": (4, 5)}


def test_the_network_itself_may_be_the_group():
    model, x = NETWORKS["pairs"]()
    assert find_units(model, x).groups == {"network": (0, 1, 2)}


def test_a_unit_says_what_it_consists_of():
    model, x = NETWORKS["vgg"]()
    unit = find_units(model, x)["features.3:6"]
    assert unit.modules == ("features.3", "features.4", "features.5")
    assert unit.kind == "Conv2d+BatchNorm2d+ReLU"
    assert unit.container == "features"
    assert unit.in_shape == unit.out_shape == (2, 8, 16, 16)
    assert unit.params == 8 * 8 * 9 + 8 + 16
    assert unit.macs == 2 * 16 * 16 * 8 * 8 * 9


def test_what_a_unit_returns_beside_the_hidden_state_is_noted():
    model, example = NETWORKS["tuples"]()
    assert find_units(model, example)[0].outputs == {"tuple": ["hidden", {"kwarg": "mask"}, {"value": None}]}


def test_nothing_stands_in_for_what_a_unit_returns_and_nobody_uses():
    model, example = NETWORKS["tuples"]()
    model.flag = True
    chain = find_units(model, example)
    assert chain.removable == (0, 1, 2)
    assert chain[0].outputs == {"tuple": ["hidden", {"kwarg": "mask"}, {"value": None}]}


@pytest.mark.parametrize("where", ["in another module", "in a result"])
def test_a_unit_that_returns_what_only_it_can_make_and_others_use_is_not_removable(where):
    class Used(type(NETWORKS["tuples"]()[0])):
        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
            for layer in self.layers:
                x, mask, mean = layer(hidden=x, mask=mask, flag=True)
            return {"logits": self.head(x * mean if where == "in another module" else x), "mean": mean}

    chain = find_units(Used(), NETWORKS["tuples"]()[1])
    assert chain.removable == (0, 1)
    assert "only it can make (a tuple)" in chain[2].why


def test_a_branch_that_is_not_added_like_the_others_is_not_removable():
    class Ends(Branches):
        def __init__(self) -> None:
            super().__init__()
            self.last = Attention(16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for attention, mlp in self.layers:
                x = attention(x) + x
                x = mlp(x) + x
            return self.head(self.last(x))

    chain = find_units(Ends(), tokens())
    assert chain.removable == (0, 1, 2, 3, 4, 5)
    assert chain["last"].why.startswith("its output is not added to the hidden state")


def test_a_branch_is_bypassed_by_zeros_in_the_structure_that_it_returned():
    class Tupled(Attention):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
            return super().forward(x), None

    class Drawn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(Tupled(16) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                x = x + layer(x)[0]
            return x

    model, x = Drawn(), tokens()
    chain = find_units(model, x)
    assert chain[0].outputs == {"tuple": ["zeros", {"value": None}]}
    with bypassed(model, chain, [0, 1, 2]):
        assert torch.equal(model(x), x)


def test_a_unit_held_under_two_names_is_not_removable():
    model, x = NETWORKS["residual"]()
    model.favourite = model.layer1[1]
    unit = find_units(model, x)["layer1.1"]
    assert unit.why == "it is held under 2 names (layer1.1, favourite)"


def test_units_that_share_a_parameter_are_not_removable():
    model, x = NETWORKS["vit"]()
    model.blocks[1].mlp[1].weight = model.blocks[2].mlp[1].weight
    chain = find_units(model, x)
    assert chain.removable == (0, 3)
    assert chain[1].why == chain[2].why == "it shares weights with another unit"


def test_a_change_of_dtype_is_not_removable():
    class Cast(Residual):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).double()

    model = nn.Sequential(nn.Linear(16, 16), *(Residual(feedforward(16)) for _ in range(3)))
    model.append(Cast(feedforward(16)))
    chain = find_units(model, tokens())
    assert [unit.name for unit in chain if unit.removable] == ["1", "2", "3"]


def test_the_last_layer_of_a_plain_stack_is_its_head():
    stack = [layer for _ in range(3) for layer in (nn.Linear(16, 16), nn.ReLU())]
    chain = find_units(nn.Sequential(*stack, nn.Linear(16, 16)), tokens())
    assert chain["6"].why == "it is the last layer of the network (the head)"
    assert chain.removable == (0, 1, 2)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (nn.Linear(16, 4), "no residual blocks, no branches that are added, no lists"),
        (nn.Sequential(nn.ReLU(), nn.Identity()), "looked at 2 modules, and found none"),
        (
            nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)),
            r"0:2: it changes the hidden state's shape",
        ),
        (nn.Sequential(nn.LSTM(16, 16)), "0: it returns values beside the hidden state"),
        (nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 2)), "0: no floating-point hidden state goes in"),
    ],
    ids=["layer", "no weights", "narrowing", "recurrent", "embedding"],
)
def test_a_network_without_units_is_refused_in_words(model, reason):
    example = torch.arange(4)[None] if isinstance(next(model.children(), None), nn.Embedding) else tokens()
    name = type(model).__name__
    with pytest.raises(UnknownArchitectureError, match=f"removable units of {name}.*{reason}.*works"):
        find_units(model, example)


def test_a_lone_shared_block_is_refused_with_the_reason():
    class Again(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.block = nn.Conv2d(3, 8, 1), PreActivation(8)
            self.head = nn.Conv2d(8, 64, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.block(self.block(self.stem(x))))

    with pytest.raises(UnknownArchitectureError, match=r"block: it is used 2 times \(shared weights\)"):
        find_units(Again(), images())


@pytest.mark.parametrize("example", [torch.zeros(2, 3, 7), {"image": torch.zeros(1)}, ()])
def test_an_example_that_the_network_cannot_take_is_the_caller_s_to_mend(example):
    model, _ = NETWORKS["residual"]()
    with pytest.raises(
        DataError, match="asked to run CifarResNet on the example .* it failed with"
    ) as caught:
        find_units(model, example)
    assert isinstance(caught.value.__cause__, (RuntimeError, TypeError, ValueError))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_half_an_example_s_precision_is_named():
    model, x = NETWORKS["vit"]()
    with pytest.raises(DataError, match=r"float32\[2, 3, 16, 16\].*weights are bfloat16"):
        find_units(model.bfloat16(), x)


def test_a_network_that_does_not_say_what_it_takes_needs_an_example():
    with pytest.raises(ConfigError, match="CifarResNet without an example"):
        find_units(resnet56())


def test_an_example_may_be_a_tuple_or_a_dict():
    model, example = NETWORKS["tuples"]()
    keywords, arguments = find_units(model, example), find_units(model, tuple(example.values()))
    assert keywords == arguments


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_example_follows_the_model_to_its_device():
    model, x = NETWORKS["residual"]()
    expected = find_units(model, x)
    assert find_units(model.cuda(), to_device(x, torch.device("cpu"))) == expected


@pytest.mark.parametrize(
    ("depths", "params", "macs", "units", "removable"),
    [((9, 9, 9), 0.8530, 125.49, 27, 25), ((5, 4, 4), 0.3716, 59.43, 13, 11)],
)
def test_sizes_are_those_of_the_literature(depths, params, macs, units, removable):
    chain = find_units(CifarResNet(depths), torch.zeros(1, 3, 32, 32))
    assert round(chain.params / 1e6, 4) == params
    assert round(chain.macs / 1e6, 2) == macs
    assert (len(chain), len(chain.removable)) == (units, removable)
    assert chain.uncounted == {}


def test_user_hooks_run_as_ever_and_stay():
    model, x = NETWORKS["residual"]()
    calls = []
    handle = model.layer1[0].register_forward_hook(lambda *_: calls.append(1))
    find_units(model, x)
    seen = len(calls)
    model(x)
    assert len(calls) == seen + 1
    handle.remove()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_an_example_on_which_numbers_are_not_finite_is_refused(value):
    model, example = NETWORKS["residual"]()
    with pytest.raises(DataError, match=r"returns numbers that are not finite, the first of \d+ that do"):
        find_units(model, torch.full_like(example, value))


def test_a_branch_that_cannot_be_left_out_is_told_by_what_it_returns():
    class Widening(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList((Mixing(16, 16), Mixing(16, 24), Mixing(24, 24)))
            self.past, self.last = nn.Linear(16, 24), Mixing(24, 24)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first, second, third = self.layers
            x = x + first(x)
            x = self.past(x) + second(x)
            return self.last(x + third(x))

    class Mixing(nn.Module):
        def __init__(self, before: int, after: int) -> None:
            super().__init__()
            self.mix = nn.Linear(before, after)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.mix(x))

    model, x = Widening(), tokens()
    chain = find_units(model, x)
    assert [unit.name for unit in chain if unit.is_branch] == ["layers.0", "layers.2"]
    assert [unit.name for unit in chain if not unit.removable] == ["layers.1", "last"]
    # What it is added to is met by the pass over the data, too.
    batch = x.repeat(4, 1, 1)
    assert analyze(model, [batch], example=x).similarity.shape == (4, 4)


@pytest.mark.parametrize("granularity", ["block", "sublayer", "layer"])
def test_wrappers_of_torch_compile_change_no_units(granularity):
    model, x = NETWORKS["residual" if granularity == "layer" else "vit"]()
    expected = find_units(model, x, granularity=granularity)
    for entries in (
        module for module in model.modules() if isinstance(module, (nn.Sequential, nn.ModuleList))
    ):
        for index, block in enumerate(entries):
            entries[index] = torch.compile(block, backend="eager")
    assert find_units(model, x, granularity=granularity) == expected
    assert find_units(torch.compile(model, backend="eager"), x, granularity=granularity) == expected
