import gc
import weakref

import pytest
import torch
from torch import Tensor, nn

from networks import NETWORKS, Residual, tokens
from shoal.architectures.flow import record

WIDTH = 16


class Own(nn.Module):
    """Calls its two layers and its dropout on some way."""

    def __init__(self, way) -> None:
        super().__init__()
        self.first, self.second, self.drop = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Dropout()
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        return self.way(self, x)


def flow_of(way):
    model = Own(way)
    return model, record(model, tokens())


def test_a_module_s_passage_says_what_it_takes_and_gives():
    model, flow = flow_of(lambda self, x: self.second(self.first(x)))
    first, second = flow.passages[model.first], flow.passages[model.second]
    assert first.gives == second.takes == flow.given(model.first)
    assert flow.given(model) is None
    assert first.in_shape == first.out_shape == (2, 5, WIDTH)
    assert first.dtypes == (torch.float32, torch.float32)
    assert (first.outputs, first.extras) == ("hidden", ())
    assert flow.maker(first.gives, model) is model.first
    assert flow.maker(first.takes, model) is None


def test_what_does_nothing_in_evaluation_is_seen_through():
    model, flow = flow_of(lambda self, x: self.drop(self.first(self.drop(x))) + x)
    (added,) = flow.sums
    end, start = flow.passages[model.first].gives, flow.passages[model.first].takes
    assert added.operands == (end, start)
    assert flow.maker(end, model) is model.first
    assert flow.only_result(end) == added.result
    assert flow.times[model.drop] == 2


def test_a_state_that_is_overwritten_is_another_one():
    model, flow = flow_of(lambda self, x: self.second(self.first(x).relu_()))
    before, after = flow.passages[model.first].gives, flow.passages[model.second].takes
    assert before != after
    assert before[0] == after[0]
    assert flow.of_one_shape[after] == before


SUMS = {
    "a + b": (lambda self, x: x + self.first(x), 1),
    "in place": (lambda self, x: self.first(x).add_(x), 1),
    "torch.add": (lambda self, x: torch.add(self.first(x), x), 1),
    "a number": (lambda self, x: self.first(x) + 1, 0),
    "a parameter": (lambda self, x: self.first(x) + self.second.bias, 0),
    "a smaller state": (lambda self, x: self.first(x) + x[:, :1], 0),
}


@pytest.mark.parametrize(("way", "count"), SUMS.values(), ids=SUMS)
def test_sums_are_those_of_two_states_of_one_shape(way, count):
    assert len(flow_of(way)[1].sums) == count


SCALED = {
    "times a number": lambda x: x * 0.5,
    "over a number": lambda x: x / 2,
    "times a smaller state": lambda x: x.mean((1, 2))[:, None, None] * x,
    "seen another way": lambda x: x.transpose(1, 2),
    "rolled": lambda x: torch.roll(x, 1, 1),
    "cropped": lambda x: x[:, :3],
}
NOT_SCALED = {
    "a sigmoid": torch.sigmoid,
    "below a fraction line": lambda x: x.mean((1, 2))[:, None, None] / x,
    "of two states": lambda x: x * x.exp(),
}


@pytest.mark.parametrize("function", SCALED.values(), ids=SCALED)
def test_what_makes_zeros_of_zeros_is_followed(function):
    model, flow = flow_of(lambda self, x: self.second(function(self.first(x)).reshape(-1, WIDTH)))
    assert flow.passages[model.first].gives in flow.scaled.values()


@pytest.mark.parametrize("function", NOT_SCALED.values(), ids=NOT_SCALED)
def test_what_may_make_more_of_zeros_is_not(function):
    model, flow = flow_of(lambda self, x: self.second(function(self.first(x)) + 0))
    assert flow.passages[model.first].gives not in flow.scaled.values()


def test_a_state_feeds_only_what_takes_it():
    model, flow = flow_of(lambda self, x: self.second(self.first(x)))
    key = flow.passages[model.first].gives
    assert flow.feeds_only(key, model.second)
    assert not flow.used(key, beyond=model.second)
    model, flow = flow_of(lambda self, x: self.second(y := self.first(x)) + y)
    key = flow.passages[model.first].gives
    assert not flow.feeds_only(key, model.second)
    assert flow.used(key, beyond=model.second)
    assert flow.only_result(key) is None


def test_what_the_network_returns_is_used_beyond_all_its_modules():
    model, flow = flow_of(lambda self, x: self.first(x))
    assert flow.used(flow.passages[model.first].gives, beyond=model)


def test_the_outermost_maker_inside_a_block_is_found():
    inner = nn.Sequential(nn.Linear(WIDTH, WIDTH))
    model = nn.Sequential(Residual(nn.Sequential(inner)), nn.Linear(WIDTH, WIDTH))
    flow = record(model, tokens())
    key = flow.passages[inner[0]].gives
    assert flow.maker(key, model[0]) is model[0].branch
    assert flow.maker(key, inner) is inner[0]
    assert flow.maker(key, model[1]) is None


def test_a_state_derives_from_what_it_was_computed_of_without_weights():
    model, flow = flow_of(
        lambda self, x: self.second(x.exp()) + self.first(x.mean(1, keepdim=True).expand_as(x))
    )
    start = flow.passages[model.second].takes
    (given,) = {key for key in (p.takes for p in flow.passages.values()) if key == start}
    assert flow.derives(given, {flow._sources[given][0]})
    assert not flow.derives(flow.passages[model.second].gives, {given})


def test_no_state_is_kept():
    seen = []
    model = Own(lambda self, x: self.second(self.first(x)))
    model.first.register_forward_hook(lambda *call: seen.append(weakref.ref(call[-1])))
    flow = record(model, tokens())
    gc.collect()
    assert flow.passages
    assert seen[0]() is None


def test_the_model_is_left_as_it_was_found():
    model, example = NETWORKS["vit"]()
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    record(model, example)
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
