"""Plain networks in a training run, in float64: what comes out is the folded form of what was trained."""

import re

import pytest
import torch
from torch import nn

from shoal import Budget, find_units
from shoal.errors import BudgetError, ConfigError, PlanError, ShoalWarning
from shoal.measurement import count_macs
from shoal.surgery.shortcut_folding import folded_anew
from shoal.training import FitSettings, fitting, runs, train
from shoal.training.plain import absolute, check_folded, gated_copy

X = torch.randn(24, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.arange(24) % 3
DATA = [(X[i : i + 8], Y[i : i + 8]) for i in range(0, 24, 8)]


def vgg(widths=(4, 4, 4, 6, 6)):
    """Convolutions of 3 × 3 with norms, and a layer on the mean of their maps."""
    torch.manual_seed(0)
    row = []
    for taken, given in zip((2, *widths), widths, strict=False):
        row += [nn.Conv2d(taken, given, 3, padding=1), nn.BatchNorm2d(given), nn.ReLU()]
    network = nn.Sequential(*row, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 3))
    return network.double()


def run(model=None, **options):
    chosen = {"fit_settings": FitSettings(epochs=8, lr=0.02, warmup=0.0)} | options
    return train(model or vgg(), DATA, example=X[:1], shortcuts=True, **chosen)


def weights(model):
    return torch.cat([value.flatten().double() for value in model.state_dict().values()])


@pytest.fixture
def unfolded(monkeypatch):
    """The networks that were folded."""
    met, fold = [], runs.fold_shortcuts
    monkeypatch.setattr(runs, "fold_shortcuts", lambda model: met.append(model) or fold(model))
    return met


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"budget": "units=4"}, 4),
        ({"budget": "units=2"}, 2),
        ({"budget": "units=1"}, 1),
        ({"method": "dense"}, 4),
    ],
)
def test_what_comes_out_is_an_ordinary_network_that_answers_as_the_trained_one(unfolded, options, left):
    before = vgg()
    kept = weights(before)
    found = run(before, **options)
    assert len(found.plan.model.units) - len(found.plan.removed) == left
    with torch.no_grad():
        gap = (found.model(X) - unfolded[0](X)).abs().max() / unfolded[0](X).abs().max()
    assert gap < 1e-9
    assert {type(module).__module__.split(".")[0] for module in found.model.modules()} == {"torch"}
    assert not found.model.training
    assert torch.equal(weights(before), kept), "what came in stays as it was"


@pytest.mark.parametrize("quantity", ["macs", "params"])
def test_shares_are_of_the_network_that_came_in(quantity):
    found = run(budget=f"{quantity}=0.5")
    sizes = {
        "macs": lambda net: count_macs(net, X[:1]).total,
        "params": lambda net: sum(parameter.numel() for parameter in net.parameters()),
    }
    plain, folded = (sizes[quantity](net) for net in (vgg(), found.model))
    assert folded <= 0.5 * plain
    assert found.plan.budget == Budget(quantity=quantity, limit=0.5 * plain, relative=False)


@pytest.mark.parametrize("budget", ["units=3", "units=0.5", "latency=0.5", "macs=1k"])
def test_other_budgets_stay_as_they_are(budget):
    assert absolute(Budget.parse(budget), vgg(), X[:1]) == Budget.parse(budget)


@pytest.mark.parametrize("quantity", ["macs", "params"])
def test_a_budget_that_cannot_be_met_is_told_with_the_least_share_that_can(quantity):
    least = rf"asked for {quantity}=0.05 of Sequential, .* asked for is {quantity}=(0\.\d+)\."
    with pytest.raises(BudgetError, match=least) as refused:
        run(budget=f"{quantity}=0.05")
    share = float(re.search(least, str(refused.value))[1])
    assert run(budget=f"{quantity}={share}").plan.removed == (0, 1, 2, 3), "it can be asked for"
    with pytest.raises(BudgetError, match="the least that can be asked for"):
        run(budget=f"{quantity}={share - 0.002}")


def test_a_number_that_cannot_be_met_is_told_with_the_least_number():
    with pytest.raises(BudgetError, match=r"asked for macs=100: .* asked for is macs=\d+\.$"):
        run(budget="macs=100")


def test_a_warning_names_the_line_that_asked_for_the_training(monkeypatch):
    monkeypatch.setattr(runs, "fold_shortcuts", lambda model: vgg((8, 8)))
    with pytest.warns(ShoalWarning, match="folded it has") as warned:
        train(
            vgg(),
            DATA,
            example=X[:1],
            shortcuts=True,
            budget="params=0.5",
            fit_settings=FitSettings(epochs=8),
        )
    assert [each.filename for each in warned] == [__file__]


def test_a_folded_network_above_the_budget_is_told():
    small, large, budget = vgg((4, 4)), vgg((8, 8)), Budget.parse("params=0.5")
    with pytest.warns(ShoalWarning, match=r"asked for params=0.5 of Sequential, which is .* folded it has"):
        check_folded(budget, large, large, X[:1])
    check_folded(budget, large, small, X[:1])
    check_folded(Budget.parse("units=1"), small, large, X[:1])


@pytest.mark.parametrize(
    "network", [nn.Sequential(nn.Linear(6, 3)), nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3))]
)
def test_networks_without_a_layer_between_are_refused(network):
    with pytest.raises(ConfigError, match=r"none of the 0 layers .* train without shortcuts"):
        gated_copy(network, torch.ones(1, 6), seed=0)


def test_fresh_weights_and_those_of_the_paths_follow_the_seed():
    drawn = [
        run(method="dense", fresh=True, fit_settings=FitSettings(epochs=0, seed=seed)).model
        for seed in (1, 1, 2)
    ]
    assert torch.equal(weights(drawn[0]), weights(drawn[1]))
    assert not torch.equal(weights(drawn[0]), weights(drawn[2]))


class Stopped(BaseException):
    pass


def test_a_resumed_run_ends_with_the_very_weights_of_an_unbroken_one(tmp_path, monkeypatch):
    settings = FitSettings(epochs=8, lr=0.02, warmup=0.0, checkpoint_every=1)
    options = {"fit_settings": settings, "budget": "units=2", "checkpoint": tmp_path / "state"}
    whole, step, done = run(**options), fitting._Run._step, []

    def breaking(self, batch):
        done.append(1)
        if len(done) > 15:
            raise Stopped
        return step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(fitting._Run, "_step", breaking)
        with pytest.raises(Stopped):
            run(**options)
    found = run(**options, resume=True)
    assert found.report.resumed_at == 15
    assert found.plan == whole.plan
    assert torch.equal(weights(found.model), weights(whole.model))
    with pytest.raises(ConfigError, match="with other settings: budget 'units=2' -> 'units=3'"):
        train(vgg(), DATA, example=X[:1], resume=True, **{**options, "budget": "units=3"})


def test_the_plan_makes_a_network_that_takes_the_state():
    found = run(budget="units=2")
    anew = folded_anew(vgg().float(), found.plan).double()
    assert not torch.equal(weights(anew), weights(found.model))
    anew.load_state_dict(found.model.state_dict())
    with torch.no_grad():
        assert torch.equal(anew.eval()(X), found.model(X))
    with pytest.raises(PlanError, match="asked to use a plan for Sequential"):
        folded_anew(vgg((4, 4, 4, 8, 8)).double(), found.plan)


def test_residual_blocks_leave_as_blocks_beside_layers_with_paths():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))

        def forward(self, x):
            return x + self.inner(x)

    mixed = nn.Sequential(
        nn.Flatten(), nn.Linear(72, 6), Block(), Block(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)
    )
    found = run(mixed.double(), budget="units=1")
    assert found.plan.model.units == ("2", "3", "4")
    assert sum(type(module) is Block for module in found.model) <= 1
    assert [unit.name for unit in find_units(found.model, X[:1]) if unit.kind == "Block"] in ([], ["2"])
