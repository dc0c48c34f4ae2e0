import json
import math
import random
import warnings
from copy import deepcopy

import pytest
import torch
from torch.nn.functional import cross_entropy

import shoal
from gated import Toy, digits, equal, random_batches, train
from networks import NETWORKS, gpt2, llama, randomised
from shoal.errors import BudgetError, ConfigError, DataError, ShoalWarning
from shoal.training.concurrent.pruner import ConcurrentPruner
from shoal.training.concurrent.settings import ConcurrentSettings

X = torch.zeros(2, 64)


def sgd(net):
    return torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4)


def adamw(net):
    return torch.optim.AdamW(net.parameters(), lr=2e-3)


def start(steps, *, depth=6, make=sgd, seed=0, settings=None, **asked):
    """A toy, its optimiser, and its pruner."""
    torch.manual_seed(seed)
    net = Toy(depth)
    optimizer = make(net)
    chosen = ConcurrentSettings(**{"seed": seed, "memory": 0.9} | (settings or {}))
    return (
        net,
        optimizer,
        ConcurrentPruner(net, X, steps=steps, optimizer=optimizer, settings=chosen, **asked),
    )


def run(steps, **asked):
    """Train to the end; return the pruner and the small network."""
    net, optimizer, pruner = start(steps, **asked)
    train(net, random_batches(steps), optimizer, pruner)
    return pruner, pruner.finish()


@pytest.fixture(scope="module")
def by_price():
    """Price → pruner and small network, after a few hundred steps."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {price: run(300, price=price) for price in (0.0, 0.1, 0.3, 30.0)}


def test_in_the_end_a_unit_has_left_or_its_gate_is_open(by_price):
    for pruner, small in by_price.values():
        assert set(pruner.gates.theta.values()) == {1.0}
        assert sorted([*pruner.gates.theta, *pruner.removed]) == list(range(6))
        assert len(small.blocks) == len(pruner.gates.theta)


@pytest.mark.parametrize("estimator", ["flip", "slope"])
def test_before_gates_are_settled_flips_have_decided_all_of_them_and_slopes_have_not(estimator):
    settings = {"start": 0.9, "warmup": 0.0, "window": 1.0, "probes": 4, "every": 1, "estimator": estimator}
    net, optimizer, pruner = start(800, depth=4, price="units=0.12", settings=settings)
    train(net, random_batches(799), optimizer, pruner)
    assert not pruner.decisions.frozen
    assert 0 < len(pruner.removed) < 4
    undecided = [theta for theta in pruner.gates.theta.values() if 0.01 < theta < 0.99]
    assert bool(undecided) == (estimator == "slope")


def test_the_higher_the_price_the_shallower_the_network(by_price):
    depths = [len(small.blocks) for _, small in by_price.values()]
    assert depths == sorted(depths, reverse=True)
    assert depths[0] > depths[2] >= depths[3] == 1


@torch.no_grad()
def losses_without(net, chain, off):
    """The loss of every image without some units."""
    x, y = digits()
    with shoal.architectures.bypassed(net, chain, off):
        return cross_entropy(net(x).double(), y, reduction="none")


@pytest.mark.parametrize("price", [0.1, 0.3])
@pytest.mark.parametrize("seed", [0, 1])
def test_survivors_are_worth_their_price_on_the_data_of_training(price, seed):
    net, optimizer, pruner = start(900, price=price, seed=seed)
    train(net, random_batches(900, seed=seed)[: pruner.decisions.last], optimizer, pruner)
    assert pruner.decisions.frozen
    assert 1 < len(pruner.gates.theta) < 6
    plain, chain, gone = deepcopy(net).eval(), pruner.chain, pruner.removed
    for index in pruner.gates.theta:
        rise = losses_without(plain, chain, {index, *gone}) - losses_without(plain, chain, gone)
        error = rise.std() / len(rise) ** 0.5
        assert rise.mean() >= pruner.prices.price(index) - 2 * error


def test_the_result_is_that_of_apply_with_the_plan(by_price):
    pruner, small = by_price[0.3]
    plan = shoal.Plan.from_json(pruner.plan().to_json())
    torch.manual_seed(0)
    fresh = shoal.apply(Toy(6), plan)
    assert type(small) is Toy
    assert fresh.state_dict().keys() == small.state_dict().keys()
    fresh.load_state_dict(small.state_dict())
    x = digits()[0][:9]
    assert torch.equal(fresh.eval()(x), small.eval()(x))
    assert torch.equal(pruner.model.eval()(x), small(x))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in small.modules())
    assert plan.predicted["steps"] == 300
    assert plan.predicted["training_macs_saved"] == pruner.progress().saved > 0


def test_the_same_seed_gives_the_same_result_bit_for_bit_and_another_one_other_draws():
    results = []
    for seed in (0, 0, 1):
        net, optimizer, pruner = start(60, budget="units=3", settings={"seed": seed})
        offs = []
        for batch in random_batches(60):
            train(net, [batch], optimizer, pruner)
            offs.append(pruner.gates.off)
        results.append((offs, pruner.removed, dict(net.state_dict())))
    assert results[0][:2] == results[1][:2]
    assert equal(results[0][2], results[1][2])
    assert results[0][0] != results[2][0]


@pytest.mark.parametrize(
    ("budget", "most"),
    [("units=1", 1), ("units=3", 3), ("units=0.5", 3), ("params=0.6", 3), ("macs=0.6", 3), ("macs=1.0", 6)],
)
@pytest.mark.parametrize("steps", [1, 2, 40])
@pytest.mark.filterwarnings("ignore:unit . .* stays although")
def test_a_budget_is_met(budget, most, steps):
    pruner, small = run(steps, budget=budget)
    asked = shoal.Budget.parse(budget)
    assert len(small.blocks) == most
    measured = shoal.measure(small, X)
    found = {"units": len(small.blocks), "params": measured.params, "macs": measured.macs}[asked.quantity]
    whole = {"units": 6, "params": pruner.chain.params, "macs": pruner.chain.macs}[asked.quantity]
    assert found <= asked.allowance(whole)
    progress = pruner.progress()
    assert progress.remaining == pytest.approx(found / whole) == pytest.approx(progress.expected)
    assert (progress.step, progress.units) == (steps, most)


def test_a_budget_that_cannot_be_met_is_refused_with_the_nearest():
    with pytest.raises(
        BudgetError, match=r"asked for macs=0.01: with one unit of every stage left"
    ) as raised:
        start(10, budget="macs=0.01")
    nearest = str(raised.value).rpartition(" ")[2].rstrip(".")
    assert len(run(4, budget=nearest)[1].blocks) == 1


def test_at_too_high_a_price_one_unit_of_a_stage_stays_with_a_warning():
    with pytest.warns(UserWarning, match="stays although it is not worth its price"):
        _, small = run(40, price=1e6)
    assert len(small.blocks) == 1


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "budget=None and price=None: one of them works"),
        ({"budget": "units=2", "price": 0.1}, "budget=units=2 and price=0.1"),
        ({"price": -1.0}, "asked for a price of 'macs=-1.0'"),
        ({"price": float("nan")}, "asked for a price of nan"),
        ({"price": 0.1, "steps": 0}, "a training of 0 steps: a whole number from 1"),
    ],
)
def test_what_cannot_be_asked_is_refused(asked, message):
    net = Toy(3)
    with pytest.raises(ConfigError, match=message):
        ConcurrentPruner(net, X, **{"steps": 10} | asked)
    assert not any((net._forward_hooks, net._forward_pre_hooks))


def test_a_loss_that_is_not_finite_is_told_and_nothing_is_removed():
    net, optimizer, pruner = start(100, price=0.1, settings={"warmup": 0.0})
    train(net, random_batches(3), optimizer, pruner)
    theta = dict(pruner.gates.theta)
    x, y = random_batches(1)[0]
    x[0, 0] = float("nan")
    with pytest.raises(DataError, match="the loss of the batch is nan. Nothing was removed"):
        train(net, [(x, y)], optimizer, pruner)
    assert (pruner.removed, pruner.gates.theta, pruner.done) == ((), theta, 3)


@pytest.mark.parametrize("mode", ["never", "evaluated", "without gradients", "twice"])
def test_a_step_without_a_call_is_refused(mode):
    net, _, pruner = start(100, price=0.1, settings={"warmup": 0.0})
    batch = random_batches(1)[0]
    if mode == "evaluated":
        net.eval()(batch[0])
    elif mode == "without gradients":
        with torch.no_grad():
            net(batch[0])
    elif mode == "twice":
        cross_entropy(net(batch[0]), batch[1]).backward()
        pruner.step(batch)
    with pytest.raises(ConfigError, match="was not called in training mode since the last step"):
        pruner.step(batch)


def test_a_step_without_labels_is_refused():
    net, _, pruner = start(100, price=0.1, settings={"warmup": 0.0})
    net(random_batches(1)[0][0])
    with pytest.raises(DataError, match="nothing to compute a loss from. Pass the batch"):
        pruner.step()


def through_file(state, path):
    torch.save(state, path)
    return torch.load(path, weights_only=True)


def through_json(state, path):
    rest = json.loads(json.dumps({key: value for key, value in state.items() if key != "generator"}))
    return rest | {"generator": state["generator"]}


@pytest.mark.parametrize(("carried", "make"), [(through_file, sgd), (through_json, adamw)])
@pytest.mark.parametrize(
    ("stop", "asked"),
    [
        (0, {"budget": "units=2"}),
        (9, {"budget": "units=2"}),
        (30, {"budget": "units=2"}),
        (50, {"budget": "macs=0.6"}),
        (40, {"price": 0.5}),
        (40, {"price": 0.5, "settings": {"estimator": "slope", "condition": "attracted"}}),
    ],
)
@pytest.mark.filterwarnings("ignore:unit . .* stays although")
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path, carried, make, stop, asked):
    batches = random_batches(60)
    net, optimizer, pruner = start(60, make=make, **deepcopy(asked))
    train(net, batches[:stop], optimizer, pruner)
    saved = deepcopy([net.state_dict(), optimizer.state_dict()])
    state = carried(pruner.state_dict(), tmp_path / "state.pt")
    train(net, batches[stop:], optimizer, pruner)

    again, fresh, resumed = start(60, make=make, seed=0, **deepcopy(asked))
    random.seed(7)
    torch.manual_seed(7)
    resumed.load_state_dict(state)
    again.load_state_dict(saved[0])
    fresh.load_state_dict(saved[1])
    train(again, batches[stop:], fresh, resumed)
    assert equal(dict(again.state_dict()), dict(net.state_dict()))
    assert resumed.gates.theta == pruner.gates.theta
    assert resumed.gates.removed == pruner.gates.removed
    assert resumed.progress() == pruner.progress()
    assert (resumed.trace, resumed.removed_at) == (pruner.trace, pruner.removed_at)
    assert resumed.plan() == pruner.plan()
    assert resumed.decisions.means == pruner.decisions.means
    assert equal(dict(resumed.finish().state_dict()), dict(pruner.finish().state_dict()))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"steps": 61}, "steps 60 -> 61"),
        ({"budget": "units=3"}, "budget 'units=2' -> 'units=3'"),
        ({"settings": {"probes": 2}}, "probes None -> 2"),
        ({"settings": {"probes": 2, "every": 3}}, "probes None -> 2, every None -> 3"),
    ],
)
def test_a_run_is_not_resumed_with_other_settings(changed, message):
    asked = {"steps": 60, "budget": "units=2"}
    _, _, pruner = start(**asked)
    _, _, other = start(**asked | changed)
    with pytest.raises(ConfigError, match=f"with other settings: {message}"):
        other.load_state_dict(pruner.state_dict())


@pytest.mark.parametrize("estimator", ["flip", "slope"])
@pytest.mark.parametrize("condition", ["measured", "attracted"])
@pytest.mark.parametrize("make", [sgd, adamw])
def test_every_estimator_and_condition_runs_to_the_end(estimator, condition, make):
    settings = {"estimator": estimator, "condition": condition, "probes": 2, "every": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner, small = run(80, price=0.3, make=make, settings=settings)
    assert set(pruner.gates.theta.values()) == {1.0}
    assert len(small.blocks) == 6 - len(pruner.removed)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in small.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in pruner.model.modules())


@pytest.mark.parametrize("estimator", ["flip", "slope"])
def test_a_copy_of_the_network_in_training_has_nothing_to_do_with_the_run(estimator):
    found = []
    for copied in (False, True):
        net, _, pruner = start(40, budget="units=2", settings={"estimator": estimator, "warmup": 0.0})
        copy = deepcopy(net)
        x, y = random_batches(1)[0]
        loss = cross_entropy(net(x), y)
        if copied:
            # Between the call and its step.
            assert torch.equal(copy.train()(x), copy(x))
            cross_entropy(copy(2 * x), y).backward()
        loss.backward()
        pruner.step((x, y))
        found.append((pruner.decisions.means, pruner.gates.calls))
    assert found[0] == found[1]
    assert any(found[0][0].values())


def test_evaluation_in_the_middle_of_a_run_changes_nothing():
    nets = []
    for evaluated in (False, True):
        net, optimizer, pruner = start(40, budget="units=2")
        for batch in random_batches(40):
            train(net, [batch], optimizer, pruner)
            if evaluated:
                with torch.no_grad():
                    net.eval()(batch[0])
        nets.append(net)
    assert equal(dict(nets[0].state_dict()), dict(nets[1].state_dict()))


def test_what_is_saved_is_counted_by_hand():
    settings = {"warmup": 0.0, "window": 0.3, "probes": 2}
    net, optimizer, pruner = start(30, budget="units=4", settings=settings)
    unit, ran, replays, blocks = pruner.chain[0].macs, 0, [], []
    stem = pruner.chain.macs - 6 * unit
    for block in net.blocks:
        block.first.register_forward_hook(lambda *_: blocks.append(1))
    inner = pruner.gates.replayed
    pruner.gates.replayed = lambda off: replays.append(off) or inner(off)
    for x, y in random_batches(30):
        blocks.clear()
        replays.clear()
        loss = cross_entropy(net(x), y)
        # A step of training takes three times its forward pass, a question one from the unit on.
        ran += 3 * (stem + len(blocks) * unit)
        blocks.clear()
        loss.backward()
        pruner.step((x, y))
        ran += len(replays) * stem + len(blocks) * unit
        optimizer.step()
        optimizer.zero_grad()
    assert 0 < pruner.progress().saved == pytest.approx(1 - ran / (3 * pruner.chain.macs * 30), abs=0.01)


def bert():
    """A tiny encoder of four layers that tells three kinds of text apart, with padding in its input."""
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
    config = BertConfig(vocab_size=64, num_labels=3, **sizes)
    return randomised(BertForSequenceClassification(config)), llama()[1]


@pytest.mark.parametrize("make", [llama, gpt2, bert])
@pytest.mark.parametrize("granularity", ["block", "sublayer"])
@pytest.mark.parametrize("estimator", ["flip", "slope"])
@pytest.mark.filterwarnings("ignore:unit . .* stays although")
def test_transformers_are_pruned_by_their_own_loss(make, granularity, estimator):
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    model, inputs = make()
    model.config.use_cache = False
    padding = inputs.get("attention_mask", torch.ones(1)) == 0
    labels = torch.arange(2) if make is bert else inputs["input_ids"].masked_fill(padding, -100)
    optimizer = adamw(model)
    pruner = ConcurrentPruner(
        model,
        inputs,
        steps=12,
        budget="units=0.5",
        optimizer=optimizer,
        granularity=granularity,
        settings=ConcurrentSettings(probes=2, estimator=estimator),
    )
    model.train()
    loss = model(**inputs, labels=labels).loss
    assert pruner._questions.loss_of(None)(pruner.gates.outputs) == pytest.approx(loss.item(), rel=1e-5)
    for _ in range(12):
        model(**inputs, labels=labels).loss.backward()
        pruner.step()
        optimizer.step()
        optimizer.zero_grad()
    small = pruner.finish().eval()
    assert len(pruner.removed) == len(pruner.chain) / 2
    assert type(small) is type(model)
    again = shoal.find_units(small, inputs, granularity=granularity)
    assert len(again) == len(pruner.chain) / 2
    with torch.no_grad():
        assert torch.equal(small(**inputs).logits, model.eval()(**inputs).logits)
        if make is not bert:
            small.generate(inputs["input_ids"], max_new_tokens=2, do_sample=False, pad_token_id=0)


@pytest.mark.parametrize("name", ["residual", "attributes", "vgg", "convnext"])
@pytest.mark.filterwarnings("ignore:unit . .* stays although")
def test_convolutional_networks_are_pruned(name):
    net, x = NETWORKS[name]()
    optimizer = sgd(net)
    pruner = ConcurrentPruner(net, x, steps=8, budget="units=0.7", optimizer=optimizer)
    train(net, [(x, torch.arange(2))] * 8, optimizer, pruner)
    small, chain = pruner.finish().eval(), pruner.chain
    assert len(pruner.removed) == math.ceil(0.3 * len(chain))
    gone = sum(unit.params for unit in chain.select(pruner.removed))
    assert 0 < gone == chain.params - shoal.measure(small, x).params
    assert torch.equal(small(x), net.eval()(x))


@pytest.mark.parametrize("estimator", ["flip", "slope"])
@pytest.mark.filterwarnings("ignore:unit . .* stays although")
def test_batches_of_one_are_enough(estimator):
    slow = lambda net: torch.optim.SGD(net.parameters(), lr=0.005, momentum=0.9)  # noqa: E731
    net, optimizer, pruner = start(120, price=30.0, make=slow, settings={"estimator": estimator})
    losses = train(net, random_batches(120, 1), optimizer, pruner)
    small = pruner.finish()
    assert len(small.blocks) == 1
    assert pruner.decisions.first < max(pruner.removed_at.values()) < pruner.decisions.last
    assert all(map(math.isfinite, [*losses, *pruner.decisions.means.values()]))
    assert all(value.isfinite().all() for value in small.state_dict().values())


def test_a_run_that_stops_early_is_settled_by_what_is_known():
    net, optimizer, pruner = start(100, budget="units=2", settings={"warmup": 0.0})
    train(net, random_batches(30), optimizer, pruner)
    assert len(pruner.finish().blocks) == 2


def test_closing_gates_no_more():
    net, _, pruner = start(100, price=0.1, settings={"estimator": "slope"})
    pruner.close()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_a_loss_of_ones_own_is_used():
    net, _, pruner = start(
        20, price=0.0, loss=lambda outputs, labels: (outputs - 1).square().mean(), settings={"warmup": 0.0}
    )
    x, _ = random_batches(1)[0]
    pruner.gates.draws.draw = lambda theta: frozenset()
    (net(x) - 1).square().mean().backward()
    plain = deepcopy(net)
    pruner.step((x, None))
    index, gain = next((i, g) for i, g in pruner.decisions.gains.items() if g.count)
    with torch.no_grad(), shoal.architectures.bypassed(plain, pruner.chain, [index]):
        without = (plain(x) - 1).square().mean()
    with torch.no_grad():
        assert gain.mean == pytest.approx((without - (plain(x) - 1).square().mean()).item(), abs=1e-6)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_shut_units_decay_as_others_do(kind):
    make = lambda net: kind(net.parameters(), lr=0.1, weight_decay=0.5)  # noqa: E731
    net, optimizer, pruner = start(20, price=0.1, make=make)
    x, y = random_batches(1)[0]
    pruner.gates.draws.draw = lambda theta: frozenset({2})
    torch.nn.init.ones_(net.blocks[2].first.bias)
    before = {name: value.detach().clone() for name, value in net.blocks[2].named_parameters()}
    cross_entropy(net(x), y).backward()
    pruner.step((x, y))
    optimizer.step()
    for name, value in net.blocks[2].named_parameters():
        # 1 − 0.1 · 0.5
        torch.testing.assert_close(value.detach(), 0.95 * before[name], rtol=1e-6, atol=0)


@pytest.mark.parametrize("price", ["latency=50", "params=50", "units=50", "macs=20,latency=30"])
def test_prices_may_be_of_any_quantity(price):
    net, optimizer, pruner = start(120, price=price)
    with pytest.warns(ShoalWarning, match="it is the last of its stage"):
        train(net, random_batches(120), optimizer, pruner)
    assert len(shoal.find_units(pruner.finish(), random_batches(1)[0][0])) == 1


def test_training_that_ends_before_a_unit_was_asked_is_not_guessed_at():
    _, _, pruner = start(100, budget="units=3")
    with pytest.raises(ConfigError, match="after 0 of 100 steps: no unit was asked yet what it is worth"):
        pruner.finish()


def test_all_units_are_asked_before_prices_begin_and_before_gates_are_settled():
    settings = {"warmup": 0.1, "window": 0.3, "probes": 1, "every": 1000}
    net, optimizer, pruner = start(100, budget="units=3", settings=settings)
    counts = []
    for batch in random_batches(31):
        train(net, [batch], optimizer, pruner)
        counts.append([gain.count for gain in pruner.decisions.gains.values()])
    assert [counts[at] for at in (8, 9, 28, 29, 30)] == [[0] * 6, [1] * 6, [1] * 6, [2] * 6, [2] * 6]
    assert pruner.plan().predicted["asked"] == {str(index): 2 for index in range(6)}


def test_a_step_that_is_refused_asks_nothing():
    asked = []
    for faults in (0, 3):
        settings = {"warmup": 0.0, "probes": 1, "every": 1}
        net, optimizer, pruner = start(100, budget="units=3", settings=settings)
        for _ in range(faults):
            net(torch.full((4, 64), math.nan))
            with pytest.raises(DataError, match="the loss of the batch is nan"):
                pruner.step((torch.zeros(4, 64), torch.zeros(4, dtype=torch.long)))
        train(net, random_batches(1), optimizer, pruner)
        asked.append(pruner._questions.macs)
    assert asked[1] == pytest.approx(asked[0], rel=0.3)


def test_units_that_have_left_do_not_come_back():
    _, _, pruner = start(100, budget="units=3")
    state = pruner.state_dict()
    pruner.gates.remove_(2)
    with pytest.raises(ConfigError, match=r"in which units \[2\] were there: they have left this network"):
        pruner.load_state_dict(state)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"budget": "units=3"}, "6 of 6 units, 100% of MACs, 0% of the training saved"),
        ({"price": "params=0.1"}, "6 of 6 units, 100% of params, 100% of MACs, 0% of the training saved"),
        ({"price": "params=0.1,macs=0.1"}, "6 of 6 units, 100% of MACs, 0% of the training saved"),
    ],
)
def test_the_status_names_what_costs(asked, words):
    _, _, pruner = start(100, **asked)
    assert pruner.status() == words


@pytest.mark.parametrize(
    ("quantity", "remaining", "words"),
    [("units", 3 / 4, ""), ("params", 8618 / 10698, "81% of params, "), ("macs", 8512 / 10560, "")],
)
def test_progress_and_status_after_a_unit_has_left_are_counted_by_hand(quantity, remaining, words):
    # MACs: 2048 of the stem, 320 of the head, 2048 of a block.
    settings = {"warmup": 0.0, "probes": 4, "every": 10}
    net, optimizer, pruner = start(1000, depth=4, price=f"{quantity}=40", settings=settings)
    pruner.gates.draws.draw = lambda theta: frozenset({2})
    pruner.gates.theta[2] = 0.0
    for _ in range(10):
        pruner.decisions.gains[2].add(0.0)
    (x, y), *rest = random_batches(5)
    cross_entropy(net(x), y).backward()
    assert pruner.step((x, y)).removed == (2,)
    optimizer.step()
    train(net, rest, optimizer, pruner)
    found = pruner.progress()
    assert (found.step, found.units, found.removed, found.price) == (5, 3, (), 40)
    assert found.remaining == pytest.approx(remaining)
    assert found.macs == pytest.approx(8512 / 10560)
    assert found.expected == pytest.approx(remaining - 3 * 0.03 * (1 - remaining))
    # Each of five calls does without it. In the first all are asked: two, one, two and no blocks run again.
    asking = 4 * (2048 + 320) + 5 * 2048
    assert found.saved == pytest.approx(1 - (3 * 5 * 8512 + asking) / (3 * 5 * 10560))
    assert pruner.status() == f"3 of 4 units, {words}81% of MACs, 7% of the training saved"


def test_what_asking_costs_on_top_is_not_called_saved():
    settings = {"warmup": 0.0, "probes": 6, "start": 0.999}
    net, optimizer, pruner = start(100, budget="units=6", settings=settings)
    train(net, random_batches(1), optimizer, pruner)
    assert pruner.status().endswith("% of the training on top")


def test_units_without_which_the_loss_is_infinite_go_last():
    _, _, pruner = start(100, budget="units=3")
    gains = pruner.decisions.gains
    for index, gain in ((1, 0.5), (2, 0.4), (3, 0.3), (4, 0.2), (5, 0.1)):
        gains[index].add(gain)
    assert sorted(pruner.decisions.freeze()) == [3, 4, 5]


def test_a_state_of_another_version_is_refused_before_anything_leaves():
    _, _, pruner = start(20, budget="units=3")
    pruner.gates.remove_(2)
    state = pruner.state_dict()
    del state["agreed"]["version"]
    net, _, other = start(20, budget="units=3")
    before = len(net.state_dict())
    with pytest.raises(ConfigError, match="version None -> 2"):
        other.load_state_dict(state)
    assert len(net.state_dict()) == before
