from copy import deepcopy

import pytest
import torch
from torch import nn

from networks import NETWORKS, gpt2
from shoal import Budget, find_units
from shoal.errors import BudgetError, ConfigError, DataError, ShoalWarning, UnknownArchitectureError
from shoal.training import (
    ConcurrentPruner,
    ConcurrentSettings,
    FitSettings,
    TrainingResult,
    Worth,
    fitting,
    recalibrate_,
    train,
)
from shoal.training.concurrent.price import Price
from shoal.training.runs import METHODS, check_budget

X = torch.randn(24, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(24) % 3


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 6)
        self.norm = nn.BatchNorm1d(6)

    def forward(self, x):
        return x + torch.relu(self.norm(self.inner(x)))


def network():
    torch.manual_seed(0)
    return nn.Sequential(*(Block() for _ in range(5)), nn.Dropout(0.2), nn.Linear(6, 3))


def data():
    return [(X[i : i + 6], Y[i : i + 6]) for i in range(0, 24, 6)]


def run(model=None, **options) -> TrainingResult:
    chosen = {"budget": "units=3", "fit_settings": FitSettings(epochs=10, lr=0.02, warmup=0.0)} | options
    return train(model or network(), data(), example=X[:1], **chosen)


def weights(model):
    return torch.cat([value.flatten().double() for value in model.state_dict().values()])


def test_training_ends_with_an_ordinary_network_of_the_size_asked_for():
    before = network()
    kept = weights(before)
    found = run(before)
    assert len(find_units(found.model, X[:1])) == 3
    assert type(found.model) is nn.Sequential
    assert not found.model._forward_hooks
    assert not found.model._forward_pre_hooks
    assert not found.model.training
    assert torch.equal(weights(before), kept), "what came in stays as it was"
    assert set(found.plan.predicted["removed_at"]) == {str(index) for index in found.plan.removed}
    assert found.progress.units == 3
    assert found.report.steps == 40


def test_what_is_left_is_asked_at_the_end_what_it_is_worth():
    found = run()
    worth = {int(index): Worth(**each) for index, each in found.plan.predicted["worth"].items()}
    assert sorted({*worth, *found.plan.removed}) == list(range(5))
    # A twentieth of 40 steps is six forward passes, and asking three units on a batch takes 2.5.
    assert {each.batches for each in worth.values()} == {2}


def test_a_failure_to_ask_loses_nothing(monkeypatch):
    def fails(*args, **options):
        raise DataError("asked what units are worth: there is nothing.")

    monkeypatch.setattr(ConcurrentPruner, "worth", fails)
    with pytest.warns(ShoalWarning, match="not asked what it is worth: asked what units are worth"):
        found = run()
    assert len(find_units(found.model, X[:1])) == 3


def test_the_control_trains_the_whole_network():
    found = run(method="dense", budget=None)
    assert found.plan.removed == ()
    assert found.progress is None
    assert len(find_units(found.model, X[:1])) == 5


def test_fresh_weights_are_drawn_by_the_seed():
    settings = FitSettings(epochs=0, seed=3)
    options = {"method": "dense", "budget": None, "fit_settings": settings}
    first, second, given = run(fresh=True, **options), run(fresh=True, **options), run(**options)
    assert torch.equal(weights(first.model), weights(second.model))
    assert not torch.equal(first.model[0].inner.weight, given.model[0].inner.weight)


class Stopped(BaseException):
    pass


@pytest.fixture(scope="module")
def unbroken():
    settings = FitSettings(epochs=15, lr=0.02, warmup=0.0, checkpoint_every=1)
    return settings, run(fit_settings=settings)


def stopped_and_resumed(monkeypatch, path, settings, stop) -> TrainingResult:
    step, done = fitting._Run._step, []

    def breaking(self, batch):
        done.append(1)
        if len(done) > stop:
            raise Stopped
        return step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(fitting._Run, "_step", breaking)
        with pytest.raises(Stopped):
            run(fit_settings=settings, checkpoint=path)
    found = run(fit_settings=settings, checkpoint=path, resume=True)
    assert found.report.resumed_at == stop
    return found


@pytest.mark.parametrize("place", ["first step", "before a removal", "removal", "after it", "last step"])
def test_a_resumed_run_ends_with_the_very_weights_of_an_unbroken_one(tmp_path, monkeypatch, unbroken, place):
    settings, whole = unbroken
    at = min(whole.plan.predicted["removed_at"].values())
    stops = {"first step": 1, "before a removal": at - 1, "removal": at, "after it": at + 1, "last step": 59}
    found = stopped_and_resumed(monkeypatch, tmp_path / "state", settings, stops[place])
    assert found.plan == whole.plan
    assert found.plan.predicted == whole.plan.predicted
    assert torch.equal(weights(found.model), weights(whole.model))


def test_resumption_is_exact_with_several_threads_too(tmp_path, monkeypatch, unbroken):
    torch.set_num_threads(2)
    whole = run(fit_settings=unbroken[0])
    found = stopped_and_resumed(monkeypatch, tmp_path / "state", unbroken[0], 20)
    assert found.plan.predicted == whole.plan.predicted
    assert torch.equal(weights(found.model), weights(whole.model))


def test_a_run_that_stops_leaves_no_hooks_on_the_network(monkeypatch):
    made = []
    init = fitting._Run.__post_init__

    def noted(self):
        made.append(self.model)
        init(self)

    monkeypatch.setattr(fitting._Run, "__post_init__", noted)
    monkeypatch.setattr(fitting._Run, "_step", lambda self, batch: (_ for _ in ()).throw(Stopped))
    with pytest.raises(Stopped):
        run()
    assert not made[0]._forward_hooks


def test_other_budgets_do_not_resume(tmp_path):
    path = tmp_path / "state"
    run(checkpoint=path)
    with pytest.raises(ConfigError, match=r"with other settings: budget 'units=3' -> 'units=4'\. Resume"):
        run(checkpoint=path, resume=True, budget="units=4")


def test_what_a_resumed_run_does_otherwise_is_told_by_its_name(tmp_path):
    def fitting_on(data):
        return FitSettings(epochs=10, lr=0.02, warmup=0.0, purpose={"data": data})

    path = tmp_path / "state"
    run(checkpoint=path, fit_settings=fitting_on("mine"), budget=None, price=0.1)
    with pytest.raises(
        ConfigError, match=r"data 'mine' -> 'yours', fresh False -> True, price 'macs=0.1' -> 'm"
    ):
        run(
            checkpoint=path,
            resume=True,
            fit_settings=fitting_on("yours"),
            budget=None,
            price="0.2",
            fresh=True,
        )
    with pytest.raises(ConfigError, match=r"method 'concurrent' -> 'dense', price 'macs=0.1' -> None"):
        run(checkpoint=path, resume=True, fit_settings=fitting_on("mine"), budget=None, method="dense")
    again = run(checkpoint=path, resume=True, fit_settings=fitting_on("mine"), budget=None, price="0.10")
    assert again.report.resumed_at == 40


def test_sublayers_leave_by_themselves():
    model, example = gpt2()
    batches = [{"input_ids": example["input_ids"]}] * 4
    units = find_units(model, example, granularity="sublayer")
    asked = {"budget": f"units={len(units) - 1}", "fit_settings": FitSettings(epochs=4)}
    found = train(model, batches, example=example, granularity="sublayer", **asked)
    assert found.plan.model.units == tuple(unit.name for unit in units)
    assert len(found.plan.removed) == 1
    assert len(find_units(found.model, example)) == len(find_units(model, example)), "blocks stay"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "concurr"}, ConfigError, "the nearest is 'concurrent'"),
        ({"budget": None}, ConfigError, "budget=None and price=None: one of them works"),
        ({"price": 0.1}, ConfigError, "one of them works"),
        ({"price": -1.0, "budget": None}, ConfigError, "a price of .*-1.0"),
        ({"method": "dense"}, ConfigError, "asked for budget with the method dense"),
        (
            {"method": "dense", "budget": None, "granularity": "sublayer"},
            ConfigError,
            "asked for granularity with the method dense",
        ),
        ({"granularity": "layer"}, ConfigError, "those merge and do not leave"),
        ({"granularity": "unit"}, ConfigError, "block, sublayer, layer work"),
        ({"granularity": "sublayer", "shortcuts": True}, ConfigError, "layers with shortcuts are blocks"),
        ({"budget": Budget.parse("macs=0.01")}, BudgetError, "one unit of every stage left"),
        ({"model": nn.Sequential(nn.Linear(6, 3))}, UnknownArchitectureError, "the removable units of"),
    ],
)
def test_requests_that_cannot_be_met_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        run(**options)


@pytest.mark.parametrize(
    "asked",
    [
        {"budget": "units=3"},
        {"budget": "latency=0.5"},
        {"price": 0.1},
        {"price": "params=0.1"},
        {"price": Price.parse("params=0.1")},
        {"price": 0.1, "granularity": "sublayer"},
    ],
)
def test_what_can_be_trained_can_be_asked_before(asked):
    net = network()
    kept = weights(net)
    check_budget(net, example=X[:1], **asked)
    assert torch.equal(weights(net), kept)
    assert not net._forward_hooks


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"budget": "units=0.01"}, BudgetError, "the least that can be asked for"),
        ({"price": "much"}, ConfigError, "a price of 'much'"),
        ({}, ConfigError, "one of them works"),
        ({"method": "dense", "price": 0.1}, ConfigError, "asked for price with the method dense"),
        ({"budget": "units=3", "shortcuts": True}, ConfigError, "train without shortcuts"),
    ],
)
def test_what_cannot_be_trained_is_refused_before(asked, error, message):
    with pytest.raises(error, match=message):
        check_budget(network(), example=X[:1], **asked)


def test_the_whole_network_needs_no_check():
    check_budget(network(), example=X[:1], method="dense")


def test_data_without_anything_to_learn_is_refused():
    with pytest.raises(DataError, match="no loss can be computed"):
        train(network(), [X[:6]], example=X[:1], budget="units=3", fit_settings=FitSettings(epochs=1))


def test_every_way_has_a_line_of_help():
    assert all(METHODS.values())


@pytest.mark.parametrize("name", ["residual", "vit", "pairs"])
def test_networks_of_every_make_are_trained(name):
    model, example = NETWORKS[name]()
    outputs = model(*example) if isinstance(example, tuple) else model(example)
    if not isinstance(outputs, torch.Tensor):
        pytest.skip("no plain output to take a loss of")
    labels = torch.zeros_like(outputs)
    chain = find_units(model, example)
    budget = f"units={len(chain) - 1}"
    found = train(
        model, [(example, labels)] * 4, example=example, budget=budget, fit_settings=FitSettings(epochs=3)
    )
    assert len(found.plan.removed) == 1


def test_slopes_of_scaled_losses_are_refused():
    settings = FitSettings(epochs=1, mixed_precision="fp16")
    with pytest.raises(ConfigError, match="in fp16, where losses are scaled: flip works"):
        run(settings=ConcurrentSettings(estimator="slope"), fit_settings=settings)


def test_a_batch_with_one_value_per_channel_is_named():
    with pytest.raises(DataError, match=r"asked to train on batch 1 of epoch 0 \(from 0\): it has one value"):
        train(
            network(),
            [(X[:6], Y[:6]), (X[:1], Y[:1])],
            example=X[:1],
            budget="units=3",
            fit_settings=FitSettings(epochs=1),
        )


def test_statistics_do_not_depend_on_what_was_drawn_before():
    torch.manual_seed(1)
    first = run()
    torch.manual_seed(2)
    assert torch.equal(weights(run().model), weights(first.model))


@pytest.mark.parametrize(
    ("asked", "left"),
    [
        ({"budget": "units=3"}, 3),
        ({"budget": "units=5"}, 5),
        ({"method": "dense", "budget": None}, 5),
        ({"method": "dense", "budget": None, "fit_settings": FitSettings(epochs=0)}, 5),
    ],
    ids=["pruned", "nothing left", "dense", "not trained"],
)
def test_batch_norms_end_with_the_statistics_of_the_data(asked, left):
    found = run(**asked).model
    spoilt = deepcopy(found)
    norms = [module for module in spoilt.modules() if isinstance(module, nn.BatchNorm1d)]
    assert len(norms) == left
    for norm in norms:
        norm.running_mean.fill_(7.0)
        norm.running_var.fill_(7.0)
    recalibrate_(spoilt, data())
    assert torch.equal(weights(spoilt), weights(found))
