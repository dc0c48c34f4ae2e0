from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shoal.architectures.symbolic import Untraceable, overwritten_by, shape_of, trace_module

Pair = namedtuple("Pair", "map rest")


@dataclass
class Result:
    map: Tensor
    size: int = 0


@dataclass
class Batch:
    image: Tensor
    scale: float


class Own(nn.Module):
    """Two convolutions and what else a network holds, called in some way."""

    def __init__(self, way) -> None:
        super().__init__()
        self.way = way
        self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)
        self.relu, self.drop = nn.ReLU(inplace=True), nn.Dropout(0.5)
        self.several = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(3))
        self.scale = nn.Parameter(torch.full((3, 1, 1), 2.0))
        self.register_buffer("shift", torch.ones(3, 1, 1))
        self.register_buffer("ready", torch.tensor(True))

    def forward(self, x, *args, **kwargs):
        return self.way(self, x, *args, **kwargs)


def image(batch: int = 2, size: int = 6) -> Tensor:
    return torch.randn(batch, 3, size, size)


def traced(way, *args, **kwargs):
    module = Own(way).eval()
    return module, trace_module(module, args, kwargs)


def targets(graph, op="call_module"):
    return [node.target for node in graph.graph.nodes if node.op == op]


def check(way, *args, **kwargs):
    """Check that the graph answers as the module does, to other numbers too."""
    module, graph = traced(way, *args, **kwargs)
    other = [torch.randn_like(each) if isinstance(each, Tensor) else each for each in args]
    with torch.no_grad():
        found, expected = graph(*other, **kwargs), module(*other, **kwargs)
    torch.testing.assert_close(found, expected)
    return graph


def by_shape(self, x):
    b, c, h, w = x.shape
    assert len(x.shape) == 4
    assert x.dim() == 4
    assert x.size(1) == c == 3
    x = self.first(x.contiguous()).view(b, c, h * w).transpose(1, 2).reshape(b, h, w, -1).permute(0, 3, 1, 2)
    if x.shape[-1] > 5 and h in (5, 6) and not x.is_cuda:
        x = self.second(x)
    for number in range(int(x.shape[0])):
        x = x + number / float(w)
    return x.to(x.dtype) if x.device.type == "cpu" else self.several[0](x)


def one_relu_for_all(self, x):
    for conv in self.several:
        x = self.relu(conv(x))
    return self.relu(x)


def in_place(self, x):
    out = self.first(x)
    out += x
    return F.relu_(self.second(out.relu_()))


def functional(self, x):
    return F.conv2d(F.relu(self.first(x)), self.second.weight, self.second.bias)


def keywords(self, x, *, mask=None, by=1.0, skip=False):
    x = self.first(input=x)
    x = x if mask is None else x * mask
    return x * by if not skip else x


def own_tensors(self, x):
    if self.ready:
        x = x * self.scale
    return self.first(x) + self.shift


def hand_written(self, x):
    h = self.first(x)
    h = h * torch.sigmoid(h)
    return torch.mul(self.second(h).sigmoid(), self.first(h))


@pytest.mark.parametrize(
    "way", [by_shape, one_relu_for_all, in_place, functional, keywords, own_tensors, hand_written]
)
@pytest.mark.parametrize("batch", [1, 3])
def test_the_graph_answers_as_the_module(way, batch):
    check(way, image(batch))


def test_every_call_is_there_once_for_each_time_it_is_made():
    graph = check(one_relu_for_all, image())
    assert targets(graph) == ["several.0", "relu", "several.1", "relu", "several.2", "relu", "relu"]


def test_nodes_know_their_shapes():
    graph = check(lambda self, x: self.first(x).mean((2, 3)), image())
    shapes = {node.name: shape_of(node) for node in graph.graph.nodes}
    assert shapes == {"x": (2, 3, 6, 6), "first": (2, 3, 6, 6), "mean": (2, 3), "output": None}


def test_questions_about_sizes_that_lead_nowhere_are_left_out():
    def asks(self, x):
        assert x.shape[1] == 3
        return self.first(x)

    assert len(check(asks, image()).graph.nodes) == 3


@pytest.mark.parametrize("given", [{}, {"mask": torch.rand(2, 1, 6, 6)}, {"by": 0.5}, {"skip": True}])
def test_keyword_arguments_are_followed_as_they_were_given(given):
    module, graph = traced(keywords, image(), **given)
    x = image()
    assert torch.equal(graph(x, **given), module(x, **given))


@pytest.mark.parametrize(
    ("given", "other", "told"),
    [
        ({}, {"mask": torch.ones(1)}, "mask was None when this was traced"),
        ({"by": 2.0}, {"by": 3.0}, "by was 2.0 when this was traced"),
        ({}, {"skip": True}, "skip was False when this was traced"),
    ],
)
def test_a_graph_refuses_other_constants_than_it_was_traced_with(given, other, told):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 3, 1)

        def forward(self, x, mask=None, by=1.0, skip=False):
            return keywords(self, x, mask=mask, by=by, skip=skip)

    graph = trace_module(Net(), (image(),), given)
    graph(image(), **given)
    with pytest.raises(AssertionError, match=told):
        graph(image(), **{**given, **other})


@pytest.mark.parametrize(
    ("way", "given"),
    [
        (lambda self, batch: self.first(batch["image"]) * batch.get("by", 3), {"image": image(), "by": 2}),
        (
            lambda self, batch: self.first(batch["image"]) if "mask" in batch else 0,
            {"image": image(), "mask": 1},
        ),
        (lambda self, maps: sum(self.first(each) for each in maps), [image(), image()]),
        (lambda self, pair: self.first(pair[0]) + pair[1][0], (image(), (image(), None))),
        (lambda self, pair: self.first(pair.map) * pair.rest, Pair(image(), image())),
        (lambda self, batch: self.first(batch.image) * batch.scale, Batch(image(), 2.0)),
        (lambda self, batch: self.first(batch["x"]), OrderedDict(x=image())),
    ],
    ids=["dict", "key", "list", "nested", "named", "dataclass", "ordered"],
)
def test_arguments_may_be_structures(way, given):
    module, graph = traced(way, given)
    assert torch.equal(graph(given), module(given))
    image_of = next(node for node in graph.graph.nodes if node.target == "first").args[0]
    # It has been followed, and is no constant.
    assert image_of.op == "call_function"


def test_a_longer_list_than_was_traced_is_refused():
    _, graph = traced(lambda self, maps: sum(self.first(each) for each in maps), [image(), image()])
    with pytest.raises(AssertionError, match=r"the length of .* was 2 when this was traced"):
        graph([image()] * 3)


def test_further_arguments_are_followed():
    module, graph = traced(
        lambda self, x, *more, **named: self.first(x) + more[0] + named["y"], *[image()] * 2, y=image()
    )
    x, y, z = image(), image(), image()
    assert torch.equal(graph(x, y, y=z), module(x, y, y=z))
    with pytest.raises(AssertionError, match="the length of args was 1"):
        graph(x, y, y, y=z)


@pytest.mark.parametrize(
    "way",
    [
        lambda self, x: (self.first(x), [self.second(x)]),
        lambda self, x: {"a": self.first(x), "size": x.shape[2]},
        lambda self, x: OrderedDict(a=self.first(x)),
        lambda self, x: Pair(self.first(x), None),
        lambda self, x: Result(self.first(x), x.shape[2]),
    ],
    ids=["tuple", "dict", "ordered", "named", "dataclass"],
)
def test_what_comes_out_has_the_type_that_it_had(way):
    module, graph = traced(way, image())
    x = image()
    found, expected = graph(x), module(x)
    assert type(found) is type(expected)
    torch.testing.assert_close(
        *(vars(each) if isinstance(each, Result) else each for each in (found, expected))
    )


def test_code_that_asks_for_tensors_sees_tensors():
    graph = check(lambda self, x: self.first(x if isinstance(x, Tensor) else x[0]), image())
    assert targets(graph) == ["first"]
    assert shape_of(next(iter(graph.graph.nodes))) == (2, 3, 6, 6)


class Inner(nn.Module):
    def __init__(self, way) -> None:
        super().__init__()
        self.conv, self.way = nn.Conv2d(3, 3, 1), way

    def forward(self, x):
        return self.way(self, x)


@pytest.mark.parametrize(
    "way",
    [
        lambda self, x: self.conv(x) if x.sum() > 0 else x,
        lambda self, x: self.conv(x) * int(x.max()),
        lambda self, x: self.conv(x) if x.min().item() > 2 else x,
        lambda self, x: self.conv(x) if 1.0 in x else x,
    ],
    ids=["if", "int", "item", "in"],
)
def test_what_depends_on_numbers_in_tensors_is_refused_and_the_module_named(way):
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sequential(Inner(way)))
    with pytest.raises(Untraceable, match="it decides by the numbers in a tensor") as told:
        trace_module(net, (image(),), {})
    assert told.value.path == "1.0"
    culprit = net.get_submodule("1.0")
    assert targets(trace_module(net, (image(),), {}, whole=[culprit])) == ["0", "1.0"]


def test_code_that_fails_is_told():
    def fails(self, x):
        raise ValueError("no such mode")

    with pytest.raises(Untraceable, match="no such mode"):
        trace_module(Inner(fails), (image(),), {})


def test_a_module_that_keeps_a_state_in_buffers_is_refused():
    def counts(self, x):
        self.shift = self.shift + x.mean()
        return self.first(x) + self.shift

    with pytest.raises(Untraceable, match="it replaces its buffers as it runs"):
        traced(counts, image())


def test_tracing_leaves_nothing_on_the_module():
    def keeps(self, x):
        self.last = x
        return self.first(x) + torch.arange(3).reshape(3, 1, 1)

    module = Own(keeps).eval()
    before, state = set(vars(module)), list(module.state_dict())
    trace_module(module, (image(),), {})
    assert set(vars(module)) == before
    assert list(module.state_dict()) == state


def test_graph_and_module_share_their_weights():
    module, graph = traced(own_tensors, image())
    assert graph.first is module.first
    assert graph.scale is module.scale
    assert graph.shift is module.shift


def test_what_is_made_of_buffers_is_made_anew_each_time():
    module, graph = traced(lambda self, x: self.first(x) * (self.shift * 2).flip(0), image())
    module.shift.copy_(torch.tensor([1.0, 2, 3]).reshape(3, 1, 1))
    x = image()
    assert torch.equal(graph(x), module(x))


class NormAct(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        return F.relu(self.norm(x))


class Squash(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x)


def test_rows_and_modules_around_norms_are_followed_and_others_are_one_call():
    net = nn.Sequential(
        nn.Sequential(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()), NormAct()), Squash(), nn.Conv2d(3, 3, 1)
    ).eval()
    graph = trace_module(net, (image(),), {})
    assert targets(graph) == ["0.0.0", "0.0.1", "0.1.norm", "1", "2"]
    assert [node.target for node in graph.graph.nodes if node.op == "call_function"] == [F.relu]


def test_hooks_of_followed_modules_run():
    net = nn.Sequential(nn.Sequential(nn.Conv2d(3, 3, 1)), nn.Conv2d(3, 3, 1)).eval()
    net[0].register_forward_hook(lambda module, args, output: output * 2)
    graph = trace_module(net, (image(),), {})
    x = image()
    assert torch.equal(graph(x), net(x))


@pytest.mark.parametrize("training", [True, False])
def test_the_graph_takes_over_the_training_mode(training):
    module = Own(one_relu_for_all).train(training)
    assert trace_module(module, (image(),), {}).training is training


def test_a_map_that_is_overwritten_although_it_is_used_again_is_noted():
    def overwrites(self, x):
        x = self.first(x)
        y = self.relu(x)
        return self.second(y) + x

    graph = check(overwrites, image())
    noted = {node.name: [each.name for each in overwritten_by(node)] for node in graph.graph.nodes}
    assert {name: each for name, each in noted.items() if each} == {"relu": ["first"]}


def test_a_view_that_is_overwritten_counts_for_the_map_behind_it():
    graph = check(lambda self, x: (h := self.first(x), h.flatten(2).relu_(), self.second(h))[2], image())
    assert [node.name for node in graph.graph.nodes if overwritten_by(node)] == ["relu_"]


def test_overwriting_what_nobody_takes_any_more_is_harmless():
    graph = check(in_place, image())
    assert not any(overwritten_by(node) for node in graph.graph.nodes)


def test_swish_by_hand_is_one_call():
    graph = check(hand_written, image())
    assert targets(graph, "call_function") == [F.silu, torch.mul]


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (F.dropout, nn.Dropout),
        (F.dropout1d, nn.Dropout1d),
        (F.dropout2d, nn.Dropout2d),
        (F.dropout3d, nn.Dropout3d),
        (F.alpha_dropout, nn.AlphaDropout),
        (F.feature_alpha_dropout, nn.FeatureAlphaDropout),
    ],
)
def test_functional_dropout_acts_once_the_graph_is_trained(function, kind):
    axes = {F.dropout1d: 1, F.dropout3d: 3}.get(function, 2)
    module = Own(lambda self, x: function(x, 0.25, training=self.training)).eval()
    x = torch.ones(2, 40, *[2] * axes)
    graph = trace_module(module, (x,), {})
    assert torch.equal(graph(x), x)
    (made,) = graph.children()
    assert (type(made), made.p) == (kind, 0.25)
    assert not torch.equal(graph.train()(x), x)


def test_dropout_that_is_always_on_stays_a_function():
    graph = trace_module(Own(lambda self, x: F.dropout(self.first(x), 0.5, True)).eval(), (image(),), {})
    assert F.dropout in targets(graph, "call_function")
