import random
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings, strategies
from torch import nn
from torch.utils._pytree import tree_leaves

from networks import NETWORKS, gpt2, llama
from shoal.activations import Replay, sharing_order
from shoal.architectures import bypassed, find_units
from shoal.calling import call


def bert():
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    model = transformers.BertModel(transformers.BertConfig(vocab_size=32, **sizes)).eval()
    return model, {"input_ids": torch.arange(6)[None]}


MAKES = {**NETWORKS, "llama": llama, "gpt2": gpt2, "bert": bert}
SUBLAYERS = ("vit", "tuples", "pairs", "llama", "gpt2", "bert")


@pytest.fixture(params=[*MAKES, *(f"{name} sublayers" for name in SUBLAYERS)])
def made(request):
    name, _, granularity = request.param.partition(" ")
    if name in ("llama", "gpt2"):
        pytest.importorskip("transformers")
    model, example = MAKES[name]()
    if hasattr(model, "config"):
        model.config.use_cache = False
    return model, example, find_units(model, example, granularity=granularity.rstrip("s") or "block")


def tensors(outputs):
    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, torch.Tensor)]


@torch.no_grad()
def plain(model, chain, example, removed=()):
    with bypassed(model, chain, removed):
        return [tensor.clone() for tensor in tensors(call(model, example))]


def equal(first, second):
    return len(first) == len(second) and all(map(torch.equal, first, second))


def some_sets(chain):
    free = chain.removable
    draw = random.Random(0)
    drawn = [tuple(sorted(draw.sample(free, draw.randint(0, len(free) - 1)))) for _ in range(6)]
    return [(), *[(index,) for index in free], *drawn, ()]


@pytest.mark.parametrize("ordered", [True, False])
def test_every_run_equals_a_run_of_the_whole_network_without_these_units_bit_for_bit(made, ordered):
    model, example, chain = made
    sets = sharing_order(some_sets(chain)) if ordered else some_sets(chain)
    replay = Replay(model, chain, example)
    for removed in sets:
        with torch.no_grad():
            found = [tensor.clone() for tensor in tensors(replay(removed))]
        assert equal(found, plain(model, chain, example, removed)), removed


def test_it_changes_nothing_and_leaves_no_hook(made):
    model, example, chain = made
    before = plain(model, chain, example)
    with torch.no_grad():
        for removed in ((), chain.removable[:1]):
            Replay(model, chain, example)(removed)
    assert equal(plain(model, chain, example), before)
    assert not any(module._forward_hooks or "forward" in vars(module) for module in model.modules())


def test_only_what_follows_the_first_difference_is_computed():
    model, x = NETWORKS["vit"]()
    replay, ran = Replay(model, find_units(model, x), x), []
    for index, block in enumerate(model.blocks):
        block.mlp.register_forward_hook(lambda *_, index=index: ran.append(index))
    with torch.no_grad():
        for removed, expected in [
            ((), [0, 1, 2, 3]),
            ((2,), [3]),
            ((2, 3), []),
            ((1, 3), [2]),
            ((), [1, 2, 3]),
        ]:
            ran.clear()
            replay(removed)
            assert ran == expected, removed


@pytest.mark.parametrize("count", [1, 2, 5])
def test_all_single_removals_compute_every_state_once(count):
    model = torch.nn.Sequential(
        *[torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()) for _ in range(count)]
    )
    x = torch.ones(1, 4)
    chain = find_units(model, x)
    replay = Replay(model, chain, x)
    sets = sharing_order([(), *[(index,) for index in chain.removable]])
    with torch.no_grad():
        for removed in sets:
            replay(removed)
    assert replay.computed == states(sets, count)


def states(sets, count):
    """Units kept, each with what was decided before it: what has to be computed at least."""
    return len(
        {
            tuple(unit in removed for unit in range(stop + 1))
            for removed in sets
            for stop in range(count)
            if stop not in removed
        }
    )


@settings(deadline=None, max_examples=40)
@given(strategies.lists(strategies.sets(strategies.integers(0, 5)), max_size=12))
def test_in_sharing_order_nothing_is_computed_twice(sets):
    ordered = sharing_order(sets)
    assert sorted(ordered) == sorted({tuple(sorted(units)) for units in sets})
    computed, before = 0, None
    for removed in ordered:
        first = 0 if before is None else min(set(removed) ^ set(before), default=6)
        computed += sum(unit not in removed for unit in range(first, 6))
        before = removed
    assert computed == states(ordered, 6)


def test_what_was_kept_is_not_changed_by_a_network_that_writes_into_it():
    model, x = NETWORKS["overwriting"]()
    chain = find_units(model, x)
    replay = Replay(model, chain, x)
    with torch.no_grad():
        first = [tensor.clone() for tensor in tensors(replay())]
        for _ in range(3):
            assert equal(tensors(replay()), first)


def test_from_a_unit_that_is_called_twice_on_all_is_computed():
    model, x = NETWORKS["shared"]()
    chain = find_units(model, x)
    replay, ran = Replay(model, chain, x), []
    for name, module in model.named_modules():
        if name in ("1.0.conv1", "1.1.conv1"):
            module.register_forward_hook(lambda *_, name=name: ran.append(name))
    with torch.no_grad():
        replay()
        ran.clear()
        replay(chain.removable[-1:])
    assert ran == ["1.0.conv1", "1.0.conv1"]


class Scaled(nn.Module):
    """A unit: a tanh of a linear map, and its argument around it, perhaps in place."""

    def __init__(self, in_place=False):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.in_place = in_place

    def forward(self, x):
        change = self.linear(x).tanh()
        return x.add_(change) if self.in_place else x + change


class FusedAdd(nn.Module):
    """A unit that hands on a branch and a stream, and adds the former to the latter in place."""

    def __init__(self, writes=True):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.writes = writes

    def forward(self, branch, stream):
        if self.writes:
            stream.add_(branch)
        return self.linear(stream).tanh(), stream


class Streams(nn.Module):
    """The stream as it went into the first unit is added in the end; only some units write into it."""

    def __init__(self, writing=(0, 1, 2, 3)):
        super().__init__()
        self.layers = nn.ModuleList(FusedAdd(writes=index in writing) for index in range(4))

    def forward(self, x):
        branch, stream = x, 2 * x
        around = stream
        for layer in self.layers:
            branch, stream = layer(branch, stream)
        return branch + stream + 3 * around


class Around(nn.Module):
    """What goes into the second unit is added to what comes out of the last."""

    def __init__(self, in_place=(), glue=None):
        super().__init__()
        self.layers = nn.ModuleList(Scaled(in_place=index in in_place) for index in range(4))
        self.glue = glue or nn.Identity()

    def forward(self, x):
        around = x = self.glue(self.layers[0](x))
        for layer in self.layers[1:]:
            x = self.glue(layer(x))
        return x + around


class Preparing(nn.Module):
    """Scales its input in place."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(*(Scaled() for _ in range(3)))

    def forward(self, x):
        return self.layers(x.mul_(2))


WRITERS = {
    "into a tensor beside the hidden state": Streams,
    "into what other units hand through": lambda: Streams(writing=(2, 3)),
    "into what all others hand through": lambda: Streams(writing=(3,)),
    "into the input, by its first unit": lambda: nn.Sequential(*(Scaled(in_place=i == 0) for i in range(4))),
    "into the input, before its first unit": Preparing,
    "into what is read again later": lambda: Around(in_place=(2,)),
    "into its first unit's input and what is read later": lambda: Around(in_place=(0, 2)),
    "between the units": lambda: Around(glue=nn.ReLU(inplace=True)),
}


def runs_equal_whole_networks(model, x, ordered):
    """In runs of every set of units; the baseline begins from a fresh input each time."""
    chain = find_units(model, x.clone())
    assert len(chain.removable) > 1
    sets = [units for size in range(4) for units in combinations(chain.removable, size)]
    before, replay = x.clone(), Replay(model, chain, x)
    for removed in sharing_order(sets) if ordered else [*sets, *sets[::-1]]:
        found = [tensor.clone() for tensor in tensors(replay(removed))]
        assert equal(found, plain(model, chain, before.clone(), removed)), removed
    assert torch.equal(x, before)


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("writes", WRITERS)
def test_networks_that_write_in_place_are_run_right(writes, ordered):
    torch.manual_seed(0)
    runs_equal_whole_networks(WRITERS[writes](), torch.randn(3, 4), ordered)


@pytest.mark.parametrize(
    "hook",
    [lambda module, args, output: 2 * output, lambda module, args, output: output.mul_(2)],
    ids=["anew", "in place"],
)
def test_a_hook_that_changes_what_a_unit_returns_changes_it_once(hook):
    torch.manual_seed(0)
    model = nn.Sequential(*(Scaled() for _ in range(4)))
    model[1].register_forward_hook(hook)
    chain, x = find_units(nn.Sequential(*(Scaled() for _ in range(4))), torch.ones(1, 4)), torch.randn(3, 4)
    replay = Replay(model, chain, x)
    for removed in ((), (3,), (2,), (2, 3), (1,), (1, 2)):
        assert equal(tensors(replay(removed)), plain(model, chain, x, removed)), removed


def test_what_the_caller_does_to_the_outputs_is_not_handed_out_again():
    model, x = nn.Sequential(*(Scaled() for _ in range(3))), torch.randn(3, 4)
    chain = find_units(model, x)
    replay = Replay(model, chain, x)
    for _ in range(3):
        outputs = replay()
        assert equal([outputs], plain(model, chain, x))
        outputs.zero_()


def test_after_a_run_that_failed_the_next_one_is_whole():
    model, x = nn.Sequential(*(Scaled() for _ in range(3))), torch.randn(3, 4)
    chain = find_units(model, x)
    replay = Replay(model, chain, x)
    replay()
    hook = model[1].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        replay((2,))
    hook.remove()
    assert equal(tensors(replay((2,))), plain(model, chain, x, (2,)))


@pytest.mark.parametrize("made_inside", [True, False])
@pytest.mark.parametrize("run_inside", [True, False])
@pytest.mark.parametrize("writes", WRITERS)
def test_inference_mode_changes_nothing(made_inside, run_inside, writes):
    torch.manual_seed(0)
    with torch.inference_mode(made_inside):
        model, x = WRITERS[writes](), torch.randn(3, 4)
    with torch.inference_mode(False):
        chain = find_units(model, x.clone())
    with torch.inference_mode():
        before = x.clone()
        expected = [plain(model, chain, before.clone(), (index,)) for index in chain.removable]
    with torch.inference_mode(run_inside):
        replay = Replay(model, chain, x)
        found = [[tensor.clone() for tensor in tensors(replay((index,)))] for index in chain.removable]
    assert all(map(equal, found, expected))


def test_what_is_written_into_between_the_units_is_copied_from_then_on():
    model, x = Around(glue=nn.ReLU(inplace=True)), torch.randn(3, 4)
    replay = Replay(model, find_units(model, x), x)
    for computed in (4, 8, 8, 8):
        replay()
        assert replay.computed == computed


@pytest.mark.parametrize("off", [(), (1,), (0, 3), (0, 1, 2, 3)])
def test_runs_share_with_a_recorded_call_of_someone_else(off):
    torch.manual_seed(0)
    model, x = nn.Sequential(*(Scaled() for _ in range(4))), torch.randn(3, 4)
    chain = find_units(model, x)
    replay, ran = Replay(model, chain, None), []
    with replay.recording(off, x):
        outputs = model(x)
    assert outputs.requires_grad == (len(off) < 4)
    assert not any("forward" in vars(module) for module in model.modules())
    for index, block in enumerate(model):
        block.linear.register_forward_hook(lambda *_, index=index: ran.append(index))
    assert equal([replay(off)], plain(model, chain, x, off))
    assert ran == [index for index in range(4) if index not in off]
    ran.clear()
    for units in chain.removable[::-1]:
        wanted = set(off) ^ {units}
        with replay.recording(off, x):
            model(x)
        ran.clear()
        found = replay(wanted)
        assert ran == [index for index in range(units, 4) if index not in wanted]
        assert not found.requires_grad
        assert equal([found], plain(model, chain, x, wanted))


@pytest.mark.parametrize("writes", WRITERS)
@pytest.mark.parametrize("off", [(), (0,), (2,)])
def test_after_a_recorded_call_networks_that_write_in_place_are_run_right(writes, off):
    torch.manual_seed(0)
    model, x = WRITERS[writes](), torch.randn(3, 4)
    chain, before = find_units(model, x.clone()), x.clone()
    for wanted in (units for size in range(3) for units in combinations(chain.removable, size)):
        replay, given = Replay(model, chain, None), x.clone()
        with replay.recording(off, given), torch.no_grad():
            recorded = [tensor.clone() for tensor in tensors(model(given))]
        assert equal(recorded, plain(model, chain, before.clone(), off))
        assert equal(tensors(replay(wanted)), plain(model, chain, before.clone(), wanted)), wanted


class Noisy(nn.Module):
    """Draws random numbers before its units, in them and after them; its first unit is called twice."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.4)) for _ in range(4))

    def forward(self, x):
        x = x + torch.rand_like(x)
        for layer in (*self.layers, self.layers[0]):
            x = layer(x) + torch.rand_like(x)
        return x


def test_runs_after_a_recorded_call_draw_its_random_numbers():
    torch.manual_seed(0)
    model, x = Noisy(), torch.randn(3, 4)
    chain = find_units(model.eval(), x)
    model.train()
    for off in ((), (1,), (2, 3)):
        replay = Replay(model, chain, None)
        with replay.recording(off, x):
            outputs = model(x)
        torch.rand(5)
        assert torch.equal(replay(off), outputs)
        # There and back.
        replay({3} ^ set(off))
        assert torch.equal(replay(off), outputs)


def test_a_recorded_call_that_fails_is_not_shared():
    model, x = nn.Sequential(*(Scaled() for _ in range(3))), torch.randn(3, 4)
    chain = find_units(model, x)
    replay = Replay(model, chain, None)
    with replay.recording((), x):
        model(x)
    hook = model[1].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), replay.recording((), 2 * x):
        model(2 * x)
    hook.remove()
    assert equal([replay(())], plain(model, chain, 2 * x))
    assert not any("forward" in vars(module) for module in model.modules())
