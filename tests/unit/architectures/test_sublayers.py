import copy
import random

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from networks import NETWORKS, Attention, feedforward, gpt2, images, llama, randomised, tokens
from shoal.architectures import bypassed, find_units
from shoal.calling import call, evaluating
from shoal.errors import ConfigError
from shoal.plan import Plan
from shoal.surgery import apply

WIDTH = 16


class Scale(nn.Module):
    """A learned factor for every feature."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((WIDTH,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class DropPath(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if not self.training else x * torch.rand(len(x), 1, 1).round()


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(nn.functional.gelu(self.up(x)))


class Heads(nn.Module):
    """Attention that returns its weights beside the hidden state."""

    def __init__(self) -> None:
        super().__init__()
        self.take, self.give = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden: Tensor, *, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
        query, key, value = self.take(hidden).chunk(3, -1)
        weights = (query @ key.transpose(1, 2) + (0 if bias is None else bias)).softmax(-1)
        return self.give(weights @ value), weights


class Block(nn.Module):
    """What most blocks are made of; each network below draws its own way through it."""

    def __init__(self, way) -> None:
        super().__init__()
        self.norm1, self.attn, self.ls1 = nn.LayerNorm(WIDTH), Heads(), Scale()
        self.norm2, self.mlp, self.ls2 = nn.LayerNorm(WIDTH), Mlp(), Scale()
        self.drop, self.dropout = DropPath(), nn.Dropout(0.1)
        self.gamma = nn.Parameter(torch.full((WIDTH,), 0.5))
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        return self.way(self, x)


def scaled(self, x):
    x = x + self.drop(self.ls1(self.attn(self.norm1(x))[0]))
    return x + self.drop(self.ls2(self.mlp(self.norm2(x))))


def own_scale(self, x):
    x = x + self.gamma * self.attn(self.norm1(x))[0]
    return torch.add(self.mlp(self.norm2(x)) * 0.5, x)


def side_by_side(self, x):
    return x + self.attn(self.norm1(x))[0] + self.mlp(self.norm2(x))


def one_norm(self, x):
    normed = self.norm1(x)
    return self.attn(normed)[0] + self.mlp(normed) + x


def norm_behind(self, x):
    x = x + self.norm1(self.attn(x)[0])
    return x + self.norm2(self.mlp(x))


def post_norm(self, x):
    x = self.norm1(x + self.dropout(self.attn(x)[0]))
    return self.norm2(x + self.dropout(self.mlp(x)))


def deep_norm(self, x):
    x = self.norm1(1.5 * x + self.attn(x)[0])
    return self.norm2(1.5 * x + self.mlp(x))


def modulated(self, x):
    shift, scale = self.gamma * x.mean((1, 2))[:, None, None], 1 + x.mean((1, 2))[:, None, None]
    x = x + scale * self.attn(self.norm1(x) * scale + shift)[0]
    return x + scale * self.mlp(self.norm2(x) * scale + shift)


def inline(self, x):
    x = x + self.attn(hidden=self.norm1(x))[0]
    return x + self.mlp.down(self.mlp.up(self.norm2(x)).relu())


def in_place(self, x):
    attended = self.attn(self.norm1(x))[0]
    attended += x
    attended += self.mlp(self.norm2(attended))
    return attended


def windows(self, x):
    rolled = torch.roll(self.norm1(x), 1, 1).view(-1, 1, WIDTH)
    x = x + torch.roll(self.attn(rolled)[0].view(x.shape), -1, 1)
    return x + self.mlp(self.norm2(x))


# The modules of the two sublayers of a block, and where the state with each added is met.
WAYS = {
    scaled: (["norm1 attn ls1", "norm2 mlp ls2"], ["next", "container"]),
    own_scale: (["norm1 attn", "norm2 mlp"], ["next", "container"]),
    side_by_side: (["norm1 attn", "norm2 mlp"], ["", ""]),
    one_norm: (["attn", "mlp"], ["", ""]),
    norm_behind: (["attn norm1", "mlp norm2"], ["next", "container"]),
    post_norm: (["attn", "mlp"], ["", ""]),
    deep_norm: (["attn", "mlp"], ["", ""]),
    modulated: (["norm1 attn", "norm2 mlp"], ["next", "container"]),
    inline: (["norm1 attn", "norm2 mlp.up mlp.down"], ["next", "container"]),
    in_place: (["norm1 attn", "norm2 mlp"], ["next", "container"]),
    windows: (["attn", "norm2 mlp"], ["", "container"]),
}


def network(way, depth: int = 3) -> nn.Module:
    return randomised(nn.Sequential(nn.Linear(WIDTH, WIDTH), *(Block(way) for _ in range(depth))))


MADE = {way.__name__: lambda way=way: (network(way), tokens()) for way in WAYS}
MAKERS = {**NETWORKS, **MADE, "llama": llama, "gpt2": gpt2}


def outputs(model, example):
    with evaluating(model), torch.no_grad():
        return [leaf for leaf in tree_leaves(call(model, example)) if isinstance(leaf, Tensor)]


def assert_same(first, second):
    assert len(first) == len(second)
    for ours, theirs in zip(first, second, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def removals(chain):
    """Every unit alone, and random sets."""
    generator = random.Random(0)
    most = len(chain.removable)
    some = [generator.sample(chain.removable, min(size, most)) for size in (2, most // 2 + 1)]
    return [[], *([index] for index in chain.removable), *map(sorted, some)]


def test_all_sublayers_may_go():
    for make in (MADE["scaled"], llama, gpt2):
        model, example = make()
        chain = find_units(model, example, granularity="sublayer")
        small = apply(model, Plan.removing(chain, chain.removable))
        with bypassed(model, chain, chain.removable):
            assert_same(outputs(small, example), outputs(model, example))


def silenced(model, units):
    """A copy in which the last module of every unit returns zeros, because all its parameters are zero."""
    copied = copy.deepcopy(model)
    for unit in units:
        for parameter in copied.get_submodule(unit.modules[-1]).parameters():
            nn.init.zeros_(parameter)
    return copied


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
class TestEveryWayThroughABlock:
    def test_has_attention_and_mlp_as_units_with_what_serves_nothing_else(self, way):
        parts, after = WAYS[way]
        chain = find_units(network(way), tokens(), granularity="sublayer")
        expected = [tuple(f"{b}.{name}" for name in part.split()) for b in (1, 2, 3) for part in parts]
        assert [unit.modules for unit in chain] == expected
        assert [unit.after for unit in chain] == after * 3
        assert chain.removable == tuple(range(6))
        assert {unit.container for unit in chain} == {"1", "2", "3"}
        assert chain.groups == {"network": tuple(range(6))}
        assert {unit.removal for unit in chain} == {"bypass"}

    def test_without_a_sublayer_is_the_same_as_with_one_that_returns_zeros(self, way):
        model = network(way)
        chain = find_units(model, tokens(), granularity="sublayer")
        for removed in removals(chain):
            with bypassed(model, chain, removed):
                found = outputs(model, tokens())
            assert_same(found, outputs(silenced(model, chain.select(removed)), tokens()))


@pytest.mark.parametrize("name", MAKERS)
class TestEveryNetwork:
    def test_removing_equals_bypassing(self, name):
        model, example = MAKERS[name]()
        chain = find_units(model, example, granularity="sublayer")
        for removed in removals(chain):
            small = apply(model, Plan.from_json(Plan.removing(chain, removed).to_json()))
            with bypassed(model, chain, removed):
                assert_same(outputs(small, example), outputs(model, example))
            left = sum(parameter.numel() for parameter in small.parameters())
            assert left == chain.params - sum(chain[index].params for index in removed)

    def test_has_its_units_in_the_order_in_which_they_run(self, name):
        model, example = MAKERS[name]()
        chain = find_units(model, example, granularity="sublayer")
        called = []
        for unit in chain:
            note = lambda *_, index=unit.index: called.append(index)  # noqa: E731
            model.get_submodule(unit.modules[0]).register_forward_pre_hook(note)
        outputs(model, example)
        assert [unit.index for unit in chain] == list(range(len(chain)))
        assert list(dict.fromkeys(called)) == sorted(set(called))

    def test_counts_parameters_and_macs_of_every_unit_once(self, name):
        model, example = MAKERS[name]()
        chain = find_units(model, example, granularity="sublayer")
        whole = find_units(model, example)
        for unit in chain:
            modules = nn.ModuleList(model.get_submodule(path) for path in unit.modules)
            assert unit.params == sum(parameter.numel() for parameter in modules.parameters())
            assert unit.macs > 0
            assert unit.name in unit.modules or ":" in unit.name
        assert sum(unit.params for unit in chain) <= sum(unit.params for unit in whole)
        assert sum(unit.macs for unit in chain) <= sum(unit.macs for unit in whole) <= chain.macs

    def test_is_left_as_it_was_found(self, name):
        model, example = MAKERS[name]()
        model.train()
        modules = dict(model.named_modules())
        before = {key: value.clone() for key, value in model.state_dict().items()}
        state = torch.get_rng_state()
        find_units(model, example, granularity="sublayer")
        assert dict(model.named_modules()) == modules
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        assert torch.equal(torch.get_rng_state(), state)
        assert not any(
            "forward" in vars(m) or m._forward_hooks or m._forward_pre_hooks for m in modules.values()
        )
        assert all(module.training for module in modules.values())


@pytest.mark.parametrize(
    "name", ["residual", "bottleneck", "inverted", "gated", "convnext", "weight_normed", "vgg", "listed"]
)
def test_blocks_with_one_branch_and_plain_layers_stay_as_they_are(name):
    model, example = NETWORKS[name]()
    assert find_units(model, example, granularity="sublayer") == find_units(model, example)


def test_half_precision_has_the_same_sublayers():
    model, example = NETWORKS["vit"]()
    chain = find_units(model, example, granularity="sublayer")
    assert [unit.name for unit in chain][:2] == ["blocks.0.attention", "blocks.0.mlp"]
    for dtype in (torch.bfloat16, torch.float64):
        found = find_units(copy.deepcopy(model).to(dtype), example.to(dtype), granularity="sublayer")
        assert [unit.modules for unit in found] == [unit.modules for unit in chain]


def test_a_sublayer_returns_zeros_in_its_structure_and_a_norm_hands_through():
    model, example = llama()
    unit = find_units(model, example, granularity="sublayer")[0]
    assert unit.name == "model.layers.0.self_attn"
    assert unit.modules == ("model.layers.0.input_layernorm", "model.layers.0.self_attn")
    assert unit.kind == "LlamaRMSNorm+LlamaAttention"
    assert unit.outputs == {"each": ["hidden", {"tuple": ["zeros", {"value": None}]}]}
    assert unit.is_branch
    assert (unit.container, unit.group) == ("model.layers.0", "model.layers")


def test_torch_s_attention_is_a_sublayer_with_the_weights_that_nobody_uses():
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
            self.attn, self.mlp = nn.MultiheadAttention(WIDTH, 2, batch_first=True), feedforward(WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            normed = self.norm1(x)
            attended, _ = self.attn(normed, normed, normed)
            x = x + attended
            return x + self.mlp(self.norm2(x))

    model = randomised(nn.Sequential(*(Own() for _ in range(2))))
    chain = find_units(model, tokens(), granularity="sublayer")
    assert [unit.modules for unit in chain][:2] == [("0.norm1", "0.attn"), ("0.norm2", "0.mlp")]
    assert chain[0].outputs == {"each": ["hidden", {"tuple": ["zeros", {"value": None}]}]}
    small = apply(model, Plan.removing(chain, [0, 2]))
    with bypassed(model, chain, [0, 2]):
        assert_same(outputs(small, tokens()), outputs(model, tokens()))


def test_a_branch_across_modules_leaves_the_sum_behind():
    class Output(nn.Module):
        """Adds and normalises, as BERT does."""

        def __init__(self, width_in: int) -> None:
            super().__init__()
            self.dense, self.norm = nn.Linear(width_in, WIDTH), nn.LayerNorm(WIDTH)

        def forward(self, x: Tensor, past: Tensor) -> Tensor:
            return self.norm(self.dense(x) + past)

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.attended = Heads(), Output(WIDTH)
            self.intermediate, self.output = nn.Linear(WIDTH, 2 * WIDTH), Output(2 * WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            x = self.attended(self.attention(x)[0], x)
            return self.output(self.intermediate(x).relu(), x)

    model = randomised(nn.Sequential(*(Layer() for _ in range(2))))
    chain = find_units(model, tokens(), granularity="sublayer")
    assert [unit.modules for unit in chain][:2] == [
        ("0.attention", "0.attended.dense"),
        ("0.intermediate", "0.output.dense"),
    ]
    with bypassed(model, chain, [0, 1]):
        found = outputs(model, tokens())[0]
    layer = model[0]
    assert_same([found], outputs(model[1], layer.output.norm(layer.attended.norm(tokens()))))


def test_a_branch_around_which_the_network_draws_the_path_takes_its_norm_along():
    class Drawn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(3))
            self.layers = nn.ModuleList(Attention(WIDTH) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            for norm, layer in zip(self.norms, self.layers, strict=True):
                x = x + layer(norm(x))
            return x

    model = randomised(Drawn())
    chain = find_units(model, tokens(), granularity="sublayer")
    assert [unit.name for unit in chain] == ["layers.0", "layers.1", "layers.2"]
    assert chain[1].modules == ("norms.1", "layers.1")
    assert find_units(model, tokens())[1].modules == ("layers.1",)


def whole(way):
    """Whether blocks with this way through them stay units."""
    chain = find_units(network(way), tokens(), granularity="sublayer")
    return [unit.name for unit in chain] == ["1", "2", "3"]


def test_a_block_whose_attention_is_looked_into_stays_whole():
    def way(self, x):
        x = x + self.attn(self.norm1(x))[0] * self.attn.take.weight.mean()
        return x + self.mlp(self.norm2(x))

    assert whole(way)


def test_a_block_that_uses_a_branch_twice_stays_whole():
    def way(self, x):
        attended = self.attn(self.norm1(x))[0]
        x = x + attended
        return x + self.mlp(self.norm2(x + attended))

    assert whole(way)


def test_a_block_that_hands_its_weights_of_attention_on_stays_whole():
    def way(self, x):
        attended, weights = self.attn(self.norm1(x))
        x = x + attended
        return x + weights.mean() * self.mlp(self.norm2(x))

    assert whole(way)


def test_a_block_whose_branches_are_little_of_it_stays_whole():
    def way(self, x):
        x = x + self.ls1(self.norm1(x)) + nn.functional.linear(x, self.attn.give.weight)
        return x + nn.functional.linear(self.mlp.up(x), self.mlp.down.weight)

    assert whole(way)


def test_two_ways_that_are_added_to_each_other_are_no_branches():
    def way(self, x):
        return self.attn(x)[0] + self.mlp(x)

    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), *(nn.Sequential(Block(way), nn.ReLU()) for _ in range(3)))
    chain = find_units(randomised(model), tokens(), granularity="sublayer")
    assert chain == find_units(model, tokens())


def test_a_block_that_runs_twice_stays_whole_with_the_reason():
    block = Block(scaled)
    model = randomised(nn.Sequential(block, Block(scaled), block))
    chain = find_units(model, tokens(), granularity="sublayer")
    assert [unit.name for unit in chain] == ["0", "1.attn", "1.mlp"]
    assert chain[0].why == "it is used 2 times (shared weights)"


def test_a_branch_that_is_held_elsewhere_too_is_not_removable():
    model = network(scaled)
    model[1].favourite = model[1].mlp
    chain = find_units(model, tokens(), granularity="sublayer")
    assert chain.removable == (0, 2, 3, 4, 5)
    assert chain[1].why.startswith("it is held under 2 names")


def test_torch_s_own_encoder_layers_stay_whole_because_they_look_into_their_parts():
    model, example = NETWORKS["post_norm"]()
    chain = find_units(model, example, granularity="sublayer")
    assert [unit.name for unit in chain] == ["layers.0", "layers.1", "layers.2"]


def test_stages_hold_the_sublayers_of_their_blocks():
    model = nn.Sequential(nn.Linear(3, WIDTH), nn.Sequential(*(Block(scaled) for _ in range(2))))
    chain = find_units(randomised(model), images(8)[:, :, 0].transpose(1, 2), granularity="sublayer")
    assert chain.groups == {"1": (0, 1, 2, 3)}


@pytest.mark.parametrize("granularity", ["head", "", None])
def test_another_granularity_is_refused(granularity):
    model, example = NETWORKS["vit"]()
    with pytest.raises(ConfigError, match=f"granularity {granularity!r}: block, sublayer, layer work"):
        find_units(model, example, granularity=granularity)
