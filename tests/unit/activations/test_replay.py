import random

import pytest
import torch
from hypothesis import given, settings, strategies
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
