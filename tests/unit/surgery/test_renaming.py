"""Old keys become new keys; which list is meant is found out by how a stock loader names the weights."""

import pytest
from torch import nn

from shoal import Plan
from shoal.errors import UnitError, VerificationError
from shoal.surgery.renaming import Shortened, find_prefix, renamed, shortened_lists, surviving_keys


def layers(length=3, kept=(0, 2), container="model.layers"):
    return Shortened(container=container, length=length, kept=kept)


def names(*pairs):
    return dict(pairs)


def both(ours, theirs, count):
    return {f"{ours}.{number}.w": f"{theirs}.{number}.w" for number in range(count)}


@pytest.mark.parametrize(
    ("name", "new"),
    [
        ("h.0.w", "h.0.w"),
        ("h.2.w", "h.1.w"),
        ("h.1.w", None),
        ("h.02.w", "h.02.w"),
        ("h.w", "h.w"),
        ("hh.1.w", "hh.1.w"),
        ("x.h.1.w", "x.h.1.w"),
        ("h.2", "h.1"),
        ("h.²", "h.²"),
    ],
)
def test_numbers_follow_and_nothing_else_does(name, new):
    assert renamed(name, "h", [0, 2]) == new


@pytest.mark.parametrize("prefix", ["layers", "model.layers", "old.encoder.layer"])
def test_the_list_is_found_whatever_it_is_called(prefix):
    known = both(prefix, "model.layers", 3) | {"head": "head"} | both("vision.layers", "vision.layers", 3)
    assert find_prefix(known, layers(), frozenset(range(3))) == prefix


def test_experts_inside_a_layer_are_no_layers():
    known = {
        f"layers.{layer}.experts.{expert}.w": f"model.layers.{layer}.experts.gate_up"
        for layer in range(3)
        for expert in range(3)
    }
    assert find_prefix(known, layers(), frozenset(range(3))) == "layers"


def test_a_list_that_is_too_short_or_elsewhere_is_refused():
    with pytest.raises(VerificationError, match="no list of its weights fits"):
        find_prefix(both("layers", "model.layers", 2), layers(), frozenset(range(3)))
    with pytest.raises(VerificationError, match="no list of its weights fits"):
        find_prefix(both("layers", "vision.layers", 3), layers(), frozenset(range(3)))
    with pytest.raises(VerificationError, match="a and b fit equally well"):
        find_prefix(
            both("a", "model.layers", 3) | both("b", "model.layers", 3), layers(), frozenset(range(3))
        )


def test_layers_that_stock_code_numbers_otherwise_are_refused():
    known = {"layers.0.w": "model.layers.1.w", "layers.1.w": "model.layers.0.w"}
    with pytest.raises(VerificationError, match="no list of its weights fits"):
        find_prefix(known, layers(2, (0,)), frozenset(range(2)))


def test_weights_of_lost_layers_stay_behind():
    keys = ["embed", "h.0.w", "h.1.w", "h.2.w", "g.0.w", "g.1.w"]
    lists = {"h": layers(), "g": layers(2, (1,), "g")}
    assert surviving_keys(keys, lists) == {
        "embed": "embed",
        "h.0.w": "h.0.w",
        "h.2.w": "h.1.w",
        "g.1.w": "g.0.w",
    }


def test_a_layer_beyond_the_last_is_refused():
    with pytest.raises(VerificationError, match=r"'h\.3\.w', a layer that its config does not count"):
        surviving_keys(["h.3.w"], {"h": layers()})


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)) for _ in range(3))


def test_shortened_lists_are_those_of_the_plan(chained):
    model = Nested()
    plan = Plan.removing(chained(model, [f"stages.{index}" for index in range(3)]), [1])
    assert shortened_lists(model, plan) == [layers(container="stages")]
    assert shortened_lists(model, Plan.removing(chained(model, ["stages.0"]), [])) == []


def test_lists_inside_layers_that_go_are_refused(chained):
    model = Nested()
    plan = Plan.removing(chained(model, ["stages.0", "stages.1.0"]), [0, 1])
    with pytest.raises(UnitError, match=r"'stages' and of 'stages\.1' inside it"):
        shortened_lists(model, plan)
