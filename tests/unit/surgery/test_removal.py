from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from shoal import apply
from shoal.architectures import bypassed
from shoal.errors import PlanError, SurgeryError, UnitError
from shoal.plan import Plan
from shoal.units import Chain


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("removed", [[], [0], [1, 2], [3], [0, 1, 2, 3]], ids=str)
def test_removing_equals_bypassing(net, net_chain, x, removed):
    small = apply(net, Plan.removing(net_chain, removed))
    with torch.no_grad(), bypassed(net, net_chain, removed):
        expected = net(x)
    assert torch.equal(small(x), expected)
    assert list(small.blocks._modules) == [str(number) for number in range(4 - len(removed))]


def test_removing_nothing_changes_nothing(net, net_chain, x):
    small = apply(net, Plan.removing(net_chain, []))
    assert type(small) is type(net)
    assert small is not net
    for (name, ours), (other, theirs) in zip(
        small.state_dict().items(), net.state_dict().items(), strict=True
    ):
        assert name == other
        assert torch.equal(ours, theirs)
        assert ours.data_ptr() != theirs.data_ptr()


@pytest.mark.parametrize("training", [True, False])
def test_the_input_keeps_weights_hooks_mode_gradients_and_random_state(net, net_chain, x, training):
    net.train(training)
    net(x).sum().backward()
    net.blocks[1].register_forward_hook(lambda *_: None)
    before, state = state_of(net), torch.get_rng_state()
    modules, gradients = list(net.modules()), [p.grad.clone() for p in net.parameters() if p.grad is not None]
    small = apply(net, Plan.removing(net_chain, [1]))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert [id(module) for module in net.modules()] == [id(module) for module in modules]
    assert len(net.blocks[1]._forward_hooks) == 1
    found = [p.grad for p in net.parameters() if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(found, gradients, strict=True))
    assert all(module.training is training for module in (*net.modules(), *small.modules()))


def test_kept_weights_equal_the_originals(net, net_chain):
    plan = Plan.removing(net_chain, [0, 2])
    small: Any = apply(net, plan)
    for old, new in plan.index_map.items():
        for name, value in net.blocks[old].state_dict().items():
            assert torch.equal(small.blocks[new].state_dict()[name], value)


def test_shared_weights_stay_shared(net, net_chain):
    small: Any = apply(net, Plan.removing(net_chain, [0]))
    assert small.head.weight is small.stem.weight
    assert small.head.weight is not net.head.weight


def test_removed_weights_are_never_copied(net, net_chain, monkeypatch):
    copied: list[int] = []
    original = nn.Parameter.__deepcopy__

    def watched(self: nn.Parameter, memo: dict[int, Any]) -> Any:
        copied.append(id(self))
        return original(self, memo)

    monkeypatch.setattr(nn.Parameter, "__deepcopy__", watched)
    apply(net, Plan.removing(net_chain, [1]))
    assert copied
    assert not set(copied) & {id(parameter) for parameter in net.blocks[1].parameters()}


def test_removing_a_block_whose_branch_is_zero_changes_no_output(net, net_chain, x):
    for parameter in net.blocks[2].branch[1].parameters():
        nn.init.zeros_(parameter)
    assert torch.equal(apply(net, Plan.removing(net_chain, [2]))(x), net(x))


def test_dtype_is_kept(net, net_chain):
    small = apply(net.double(), Plan.removing(net_chain, [1]))
    assert {parameter.dtype for parameter in small.parameters()} == {torch.float64}


def test_entries_of_a_named_list_keep_their_names(chained):
    net = nn.Sequential(OrderedDict(one=nn.Linear(2, 2), two=nn.Linear(2, 2), three=nn.Linear(2, 2)))
    small = apply(net, Plan.removing(chained(net, ["one", "two", "three"]), ["two"]))
    assert list(small._modules) == ["one", "three"]


def test_a_unit_of_several_modules_is_removed_whole(chained, x):
    net = nn.Sequential(*(layer for _ in range(3) for layer in (nn.Linear(4, 4), nn.ReLU())))
    small = apply(net, Plan.removing(chained(net, ["0:2", "2:4", "4:6"]), ["2:4"]))
    assert torch.equal(small(x), net[4:](net[:2](x)))
    assert len(small) == 4


@pytest.mark.parametrize("outputs", ["hidden", "zeros"])
def test_a_bypassed_unit_leaves_a_pass_through(net, chained, x, outputs):
    names = [f"blocks.{index}" for index in range(4)]
    chain = chained(net, names, removal="bypass", outputs=outputs)
    small: Any = apply(net, Plan.removing(chain, [1]))
    assert len(small.blocks) == 4
    assert not list(small.blocks[1].parameters())
    with torch.no_grad(), bypassed(net, chain, [1]):
        assert torch.equal(small(x), net(x))


def test_a_bypassed_run_leaves_one_pass_through_and_identities(chained, x):
    net = nn.Sequential(*(layer for _ in range(2) for layer in (nn.Linear(4, 4), nn.ReLU())))
    small: Any = apply(net, Plan.removing(chained(net, ["0:2", "2:4"], removal="bypass"), [0]))
    assert [type(layer).__name__ for layer in small] == ["Bypass", "Identity", "Linear", "ReLU"]
    assert torch.equal(small(x), net[2:](x))


def test_a_block_held_as_an_attribute_is_bypassed(chained, x):
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x))

    net = Pair()
    chain = chained(net, ["first", "second"], removal="bypass")
    assert torch.equal(apply(net, Plan.removing(chain, ["first"]))(x), net.second(x))


class Pair(nn.Module):
    """A norm and a layer that returns a tuple, added to what goes past both."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.layer = nn.LayerNorm(4), Tupled(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layer(self.norm(x))[0]


class Tupled(nn.Linear):
    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x), None


BRANCH = {"each": ["hidden", {"tuple": ["zeros", {"value": None}]}]}


def branch_of(chained, net, outputs):
    unit = replace(chained(net, ["layer"], removal="bypass", outputs=outputs)[0], modules=("norm", "layer"))
    params = sum(p.numel() for p in net.parameters())
    return Chain(units=(replace(unit, params=params),), model="Pair", params=params, macs=0)


def test_a_branch_leaves_with_its_norm_and_zeros_stand_in_its_structure(chained, x):
    net = Pair()
    chain = branch_of(chained, net, BRANCH)
    small: Any = apply(net, Plan.from_json(Plan.removing(chain, [0]).to_json()))
    assert torch.equal(small(x), x)
    assert not list(small.parameters())
    assert [type(module).__name__ for module in small.children()] == ["Bypass", "Bypass"]
    with torch.no_grad(), bypassed(net, chain, [0]):
        assert torch.equal(net(x), x)
    assert [module.training for module in small.modules()] == [module.training for module in net.modules()]


def test_a_plan_that_does_not_say_what_stands_in_for_every_module_is_refused(chained):
    chain = branch_of(chained, Pair(), {"each": ["zeros"]})
    with pytest.raises(PlanError, match=r"unit 0 \(layer\) of 2 modules: the plan says what stands in for 1"):
        apply(Pair(), Plan.removing(chain, [0]))


def test_lists_inside_entries_behind_a_gap_are_shortened_too(chained, x):
    def entries(count: int) -> nn.Sequential:
        return nn.Sequential(*(nn.Sequential(nn.Linear(4, 4)) for _ in range(count)))

    net = nn.Sequential(entries(2), entries(2), Pair())
    small: Any = apply(net, Plan.removing(chained(net, ["0", "1.0"]), [0, 1]))
    assert torch.equal(small(x), net[2](net[1][1](x)))
    chain = chained(net, ["0", "2.layer"])
    units = (chain[0], replace(chain[1], removal="bypass", outputs={"tuple": ["zeros", {"value": None}]}))
    small = apply(net, Plan.removing(replace(chain, units=units), [0, 1]))
    assert torch.equal(small(x), net[1](x))


def test_a_part_of_a_layer_whose_place_in_the_cache_is_used_by_another_is_refused(llama, chained):
    llama.model.layers[1].mlp.layer_idx = 1
    chain = chained(llama, ["model.layers.1.self_attn"], removal="bypass", outputs=BRANCH["each"][1])
    with pytest.raises(
        UnitError, match=r"unit 0 \(model\.layers\.1\.self_attn\) .*another module.*whole layers"
    ):
        apply(llama, Plan.removing(chain, [0]))


def test_a_plan_of_another_model_is_refused(net, net_chain):
    other = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(PlanError, match=r"a plan for Net with 136 parameters on Sequential with 20"):
        apply(other, Plan.removing(net_chain, [1]))


def test_a_plan_whose_units_are_not_there_is_refused(net, net_chain):
    model = nn.ModuleList(net.children())
    with pytest.raises(PlanError, match=r"unit 1 \(blocks.1\): ModuleList has no such module"):
        apply(model, Plan.removing(net_chain, [1]))


def test_a_plan_whose_units_have_another_size_is_refused(net, net_chain):
    plan = Plan.removing(net_chain, [1])
    model = replace(plan.model, unit_params=(28, 99, 28, 28))
    with pytest.raises(PlanError, match=r"unit 1 \(blocks.1\) of 99 parameters: in this Net it has 28"):
        apply(net, replace(plan, model=model))


def test_a_plan_that_removes_a_part_of_what_it_removes_is_refused(net, chained):
    chain = chained(net, ["blocks.0", "blocks.0.branch.0"])
    with pytest.raises(PlanError, match="'blocks.0.branch.0' of Net twice"):
        apply(net, Plan.removing(chain, [0, 1]))


def test_a_step_without_modules_is_refused(net, net_chain):
    plan = Plan.removing(net_chain, [1])
    with pytest.raises(PlanError, match="names no modules"):
        apply(net, replace(plan, steps=(replace(plan.steps[0], modules=()),)))


def test_deleting_an_attribute_is_refused(net, chained):
    with pytest.raises(PlanError, match="stands in a Net, which is no list"):
        apply(net, Plan.removing(chained(net, ["head"]), [0]))


def test_a_module_that_stands_in_two_places_is_refused(chained):
    block = nn.Linear(4, 4)
    net = nn.Sequential(block, nn.ReLU(), block)
    with pytest.raises(UnitError, match=r"stands in 2 places \(shared weights\)"):
        apply(net, Plan.removing(chained(net, ["0"]), [0]))


def test_a_network_that_cannot_be_copied_is_an_error(net, net_chain):
    net.remembered = torch.ones(1, requires_grad=True) * 2
    with pytest.raises(SurgeryError, match="cannot be copied"):
        apply(net, Plan.removing(net_chain, [1]))


def test_a_copy_that_lost_parameters_is_an_error(net, net_chain):
    class Forgetful(type(net)):  # type: ignore[misc]
        def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
            new = type(net)()
            new.__dict__.update(copy.deepcopy(self.__dict__, memo))
            del new.head
            return new

    net.__class__ = Forgetful
    with pytest.raises(SurgeryError, match=r"108 parameters should be left and 104 are"):
        apply(net, Plan.removing(net_chain, [1]))


def test_a_copy_that_still_holds_a_removed_module_is_an_error(net, net_chain):
    class Twice(type(net)):  # type: ignore[misc]
        def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
            new = type(net)()
            new.__dict__.update(copy.deepcopy(self.__dict__, memo))
            new.favourite = new.blocks[1]
            return new

    net.__class__ = Twice
    with pytest.raises(SurgeryError, match="favourite still hold a removed module"):
        apply(net, Plan.removing(net_chain, [1]))


def test_stories_with_one_layer_less_load_and_generate_in_stock_llama(assets, chained, tmp_path):
    transformers = pytest.importorskip("transformers")
    model = transformers.LlamaForCausalLM.from_pretrained(assets / "stories260k" / "hf")
    chain = chained(model, [f"model.layers.{index}" for index in range(5)])
    apply(model, Plan.removing(chain, [2])).save_pretrained(tmp_path)
    small = transformers.LlamaForCausalLM.from_pretrained(tmp_path)
    prompt = torch.tensor([[1, 403, 407, 261]])
    cached, plain = (
        small.generate(prompt, max_new_tokens=40, do_sample=False, use_cache=use, pad_token_id=0).tolist()
        for use in (True, False)
    )
    assert cached == plain
    assert len(cached[0]) > 10


@pytest.mark.parametrize("whole", [False, True])
def test_what_is_compiled_comes_back_as_it_is_written(net, net_chain, x, whole):
    plan = Plan.removing(net_chain, [1])
    expected = apply(net, plan)
    for index, block in enumerate(net.blocks):
        net.blocks[index] = torch.compile(block, backend="eager")
    small = apply(torch.compile(net, backend="eager") if whole else net, plan)
    assert type(small) is type(net)
    assert list(small.state_dict()) == list(expected.state_dict())
    assert torch.equal(small(x), expected(x))
    assert all("_orig_mod" in block._modules for block in net.blocks)
