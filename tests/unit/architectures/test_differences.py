from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from shoal.architectures.differences import (
    SlicedWeight,
    differences,
    original_name,
    slice_layers,
)
from shoal.architectures.rules import Inexpressible


class Layer(nn.Module):
    def __init__(self, number: int, kind: Any = nn.ReLU, **more: Any) -> None:
        super().__init__()
        self.layer_idx, self.kind, self.limits, self.scale = number, kind, (1, [2.0]), 0.1
        self.act = nn.ReLU()
        self.drop_prob = number / 10
        self.weight = nn.Parameter(torch.zeros(more.get("width", 2), 2))
        self.register_buffer("saved", torch.full((2,), number))
        self.register_buffer("derived", torch.full((2,), more.get("value", 3)), persistent=False)
        vars(self).update({name: value for name, value in more.items() if name not in ("width", "value")})


class Net(nn.Module):
    def __init__(self, *layers: nn.Module, **more: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.count = len(layers)
        vars(self).update(more)


WHOLE = [Layer(number) for number in range(4)]
KEPT = {"layers": [0, 3]}


def test_numbers_and_what_stands_outside_of_layers_may_change():
    found = differences(Net(*WHOLE), Net(Layer(0), Layer(1)), KEPT)
    assert found.values == {"": {"count": 2}, "layers.1": {"layer_idx": 1}}
    assert found.sliced == ()


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"kind": nn.GELU}, "kind of layers.3 would be '<GELU>' and was '<ReLU>'"),
        ({"limits": (1, [3.0])}, r"limits of layers.3 would be \(1, \[3.0\]\)"),
        ({"scale": 0.2}, "scale of layers.3 would be 0.2 and was 0.1"),
        ({"layer_idx": None}, "layer_idx of layers.3 would be None and was 3"),
        ({"more": True}, "more of layers.3 would be True and was None"),
        ({"width": 3}, r"layers.3.weight would be another one, of the size \(3, 2\) and not \(2, 2\)"),
        ({"value": 4}, "layers.3.derived would be another one$"),
    ],
)
def test_what_a_layer_is_may_not(more, reason):
    with pytest.raises(Inexpressible, match=reason):
        differences(Net(*WHOLE), Net(Layer(0), Layer(1, **more)), KEPT)


def test_what_matters_in_training_alone_may():
    assert differences(Net(*WHOLE), Net(Layer(0), Layer(1, drop_prob=0.9, scale=0.1 + 1e-17)), KEPT)


def test_a_layer_of_another_class_or_with_other_parts_is_another():
    class Other(Layer):
        pass

    with pytest.raises(Inexpressible, match=r"in place of layers.3 \(a Layer\) there would be a Other"):
        differences(Net(*WHOLE), Net(Layer(0), Other(1)), KEPT)
    bare = Layer(1)
    del bare.act
    with pytest.raises(Inexpressible, match="another network would be built, with or without layers.3.act"):
        differences(Net(*WHOLE), Net(Layer(0), bare), KEPT)
    more = Layer(1)
    more.extra = nn.ReLU()
    with pytest.raises(Inexpressible, match="with or without layers.1.extra"):
        differences(Net(*WHOLE), Net(Layer(0), more), KEPT)


def test_parametrised_modules_of_one_class_are_alike():
    whole, small = (Net(*(Layer(number) for number in range(count))) for count in (4, 2))
    for net in (whole, small):
        net.conv = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    small.conv.load_state_dict(whole.conv.state_dict())
    assert type(whole.conv) is not type(small.conv)
    assert differences(whole, small, KEPT)
    small.conv = nn.utils.parametrizations.weight_norm(nn.Conv1d(2, 2, 1))
    with pytest.raises(Inexpressible, match=r"in place of conv \(a ParametrizedLinear\)"):
        differences(whole, small, KEPT)


def test_a_layer_may_hold_a_copy_of_a_list_that_describes_all():
    whole = [Layer(0, kinds=["a", "b", "c", "d"]), *WHOLE[1:]]
    small = Net(Layer(0, kinds=["a", "d"]), Layer(1))
    assert differences(Net(*whole), small, KEPT, {"kinds": (["a", "b", "c", "d"], ["a", "d"])})
    with pytest.raises(Inexpressible, match="kinds of layers.0"):
        differences(Net(*whole), small, KEPT, {"kinds": (["a", "b", "c", "d"], ["a", "b"])})


def test_a_factor_outside_of_the_layers_may_not_change():
    with pytest.raises(Inexpressible, match="gain of the model would be 2.0 and was 1.0"):
        differences(Net(*WHOLE, gain=1.0), Net(Layer(0), Layer(1), gain=2.0), KEPT)


@pytest.mark.parametrize(("source", "fine"), [(0, True), (1, False)])
def test_the_number_of_another_layer_follows_that_layer(source, fine):
    whole = [Layer(0), Layer(1), Layer(2), Layer(3, kv_shared_layer_index=source)]
    small = Net(Layer(0), Layer(1, kv_shared_layer_index=0))
    if fine:
        assert differences(Net(*whole), small, KEPT)
        return
    with pytest.raises(Inexpressible, match="kv_shared_layer_index"):
        differences(Net(*whole), small, KEPT)


def test_buffers_that_only_removed_layers_needed_may_go():
    before, after = Net(*WHOLE), Net(Layer(0), Layer(1))
    before.register_buffer("local", torch.ones(2), persistent=False)
    assert differences(before, after, KEPT)
    before.register_buffer("kept", torch.ones(2))
    with pytest.raises(Inexpressible, match="kept would be another one"):
        differences(before, after, KEPT)


def with_parts(count: int, width: int, *layers: nn.Module) -> Net:
    net = Net(*layers)
    net.embed_tokens_per_layer = nn.Embedding(5, count * width)
    return net


def test_a_weight_with_a_part_for_every_layer_is_sliced():
    small = with_parts(2, 3, Layer(0), Layer(1))
    found = differences(with_parts(4, 3, *WHOLE), small, KEPT)
    weight = SlicedWeight(name="embed_tokens_per_layer.weight", axis=1, length=4, kept=(0, 3))
    assert found.sliced == (weight,)
    assert found.values["embed_tokens_per_layer"] == {"embedding_dim": 6}
    with pytest.raises(Inexpressible, match=r"of the size \(5, 10\) and not \(5, 12\)"):
        differences(with_parts(4, 3, *WHOLE), with_parts(2, 5, Layer(0), Layer(1)), KEPT)


def test_parts_are_taken_along_their_axis():
    whole = torch.arange(24.0).view(2, 12)
    weight = SlicedWeight(name="w", axis=1, length=4, kept=(0, 3))
    assert slice_layers(whole, weight).tolist() == [[0, 1, 2, 9, 10, 11], [12, 13, 14, 21, 22, 23]]
    assert torch.equal(slice_layers(whole, SlicedWeight(name="w", axis=0, length=2, kept=(1,))), whole[1:])


@pytest.mark.parametrize(
    ("name", "expected"),
    [("layers.1.act", "layers.3.act"), ("layers.0", "layers.0"), ("layers", "layers"), ("head.1", "head.1")],
)
def test_a_module_had_another_name(name, expected):
    assert original_name(name, KEPT) == expected
    assert original_name("1.act", {"": [0, 3]}) == "3.act"


def test_sets_are_values_too():
    found = differences(Net(*WHOLE, kinds={"a", "b"}), Net(Layer(0), Layer(1), kinds={"a"}), KEPT)
    assert found.values[""] == {"count": 2, "kinds": {"a"}}
    with pytest.raises(Inexpressible, match="kinds of layers.3 would be"):
        differences(Net(*WHOLE[:3], Layer(3, kinds={"a"})), Net(Layer(0), Layer(1, kinds={"b"})), KEPT)
