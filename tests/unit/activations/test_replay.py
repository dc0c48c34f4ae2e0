import pytest
import torch
from torch.utils._pytree import tree_leaves

from networks import NETWORKS, gpt2, llama
from shoal.activations import recorded, replayed
from shoal.architectures import bypassed, find_units
from shoal.calling import call

MAKES = {**NETWORKS, "llama": llama, "gpt2": gpt2}


@pytest.fixture(params=MAKES)
def made(request):
    if request.param in ("llama", "gpt2"):
        pytest.importorskip("transformers")
    model, example = MAKES[request.param]()
    if hasattr(model, "config"):
        model.config.use_cache = False
    return model, example, find_units(model, example)


def outputs(model, example):
    with torch.no_grad():
        found = tree_leaves(call(model, example))
    return [leaf for leaf in found if isinstance(leaf, torch.Tensor)]


def equal(first, second):
    return len(first) == len(second) and all(map(torch.equal, first, second))


def test_replaying_any_prefix_equals_the_whole_run_bit_for_bit(made):
    model, example, chain = made
    with recorded(model, chain) as returned:
        whole = outputs(model, example)
    for stop in range(len(chain) + 1):
        with replayed(model, chain, returned, stop):
            assert equal(outputs(model, example), whole), stop
            assert equal(outputs(model, example), whole), f"{stop}, again"


def test_bypassing_behind_a_replayed_prefix_equals_bypassing_alone(made):
    model, example, chain = made
    with recorded(model, chain) as returned:
        outputs(model, example)
    for index in chain.removable:
        with bypassed(model, chain, [index]):
            expected = outputs(model, example)
        with replayed(model, chain, returned, index), bypassed(model, chain, [index]):
            assert equal(outputs(model, example), expected), index


def test_recording_changes_nothing_and_leaves_no_hook(made):
    model, example, chain = made
    before = outputs(model, example)
    with recorded(model, chain) as returned:
        assert equal(outputs(model, example), before)
    assert len(returned) == len(chain)
    with replayed(model, chain, returned, len(chain)):
        outputs(model, example)
    assert equal(outputs(model, example), before)
    assert not any(module._forward_hooks or "forward" in vars(module) for module in model.modules())


def test_nothing_is_computed_for_the_units_that_are_replayed():
    model, x = NETWORKS["vit"]()
    chain = find_units(model, x)
    with recorded(model, chain) as returned:
        outputs(model, x)
    ran = []
    for index, block in enumerate(model.blocks):
        block.mlp.register_forward_hook(lambda *_, index=index: ran.append(index))
    with replayed(model, chain, returned, 2):
        outputs(model, x)
    assert ran == [2, 3]


def test_a_record_is_not_changed_by_a_network_that_writes_into_it():
    model, x = NETWORKS["overwriting"]()
    chain = find_units(model, x)
    with recorded(model, chain) as returned:
        outputs(model, x)
    before = [state.clone() for state in returned]
    with replayed(model, chain, returned, 3):
        outputs(model, x)
    assert equal(returned, before)


def test_from_a_unit_that_is_called_twice_on_all_is_computed():
    model, x = NETWORKS["shared"]()
    chain = find_units(model, x)
    with recorded(model, chain) as returned:
        outputs(model, x)
    ran = []
    for name, module in model.named_modules():
        if name in ("1.0.conv1", "1.1.conv1"):
            module.register_forward_hook(lambda *_, name=name: ran.append(name))
    with replayed(model, chain, returned, 2):
        outputs(model, x)
    assert ran == ["1.0.conv1", "1.1.conv1", "1.0.conv1"]
