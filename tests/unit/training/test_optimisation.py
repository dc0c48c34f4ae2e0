import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from shoal.errors import ConfigError
from shoal.training.optimisation import FitSettings, learning_rate, make_optimizer


@given(st.integers(1, 300), st.floats(0, 1), st.floats(1e-6, 10))
def test_the_rate_rises_to_its_highest_and_falls_without_reaching_0(total, warmup, lr):
    settings = FitSettings(lr=lr, warmup=warmup)
    rates = [learning_rate(step, total, settings) for step in range(total)]
    assert max(rates) == pytest.approx(lr)
    assert min(rates) > 0
    top = rates.index(max(rates))
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_biases_and_norms_are_not_decayed(optimizer):
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    made = make_optimizer(net, FitSettings(optimizer=optimizer, weight_decay=0.5))
    assert [(len(group["params"]), group["weight_decay"]) for group in made.param_groups] == [
        (1, 0.5),
        (3, 0),
    ]


def test_all_are_decayed_where_that_is_asked_for():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    (group,) = make_optimizer(net, FitSettings(weight_decay=0.5, decay_all=True)).param_groups
    assert (len(group["params"]), group["weight_decay"]) == (4, 0.5)


def test_frozen_parameters_are_left_out():
    net = nn.Linear(2, 2)
    net.bias.requires_grad_(False)
    assert len(make_optimizer(net, FitSettings()).param_groups) == 1


def test_a_frozen_network_is_refused():
    with pytest.raises(ConfigError, match="train Linear: none of its parameters requires gradients"):
        make_optimizer(nn.Linear(2, 2).requires_grad_(False), FitSettings())


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", -1), ("max_steps", -1), ("optimizer", "adam"), ("lr", 0.0), ("lr", float("nan")),
     ("warmup", 1.5), ("clip", 0.0), ("mixed_precision", "int8"), ("checkpoint_every", 0)],
)  # fmt: skip
def test_impossible_settings_are_refused_by_name_and_value(name, value):
    with pytest.raises(ConfigError, match=f"asked to train with {name}={value!r}"):
        FitSettings(**{name: value})


def test_all_faults_are_told_at_once():
    with pytest.raises(ConfigError, match=r"epochs=-1.*lr=-1"):
        FitSettings(epochs=-1, lr=-1)


@pytest.mark.parametrize(
    ("purpose", "message"),
    [
        ({"data": object()}, "purpose=.*object.*: words, or JSON values by their names, work"),
        ({"seed": 1, "lr": 2, "data": "x"}, "purpose naming lr, seed: names of no other setting work"),
    ],
)
def test_what_a_resumed_run_cannot_be_compared_by_is_refused(purpose, message):
    with pytest.raises(ConfigError, match=message):
        FitSettings(purpose=purpose)
    assert FitSettings(purpose={"data": "x"}).agreed()["data"] == "x"


def test_an_optimizer_moves_weights():
    net = nn.Linear(2, 1)
    before = net.weight.clone()
    optimizer = make_optimizer(net, FitSettings(optimizer="sgd", lr=0.1))
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert not torch.equal(before, net.weight)
