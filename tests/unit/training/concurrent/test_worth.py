import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gated import Toy
from shoal import ConcurrentPruner, find_units
from shoal.architectures import bypassed
from shoal.errors import ConfigError, DataError
from shoal.training.concurrent.worth import Worth

X = torch.randn(24, 64, generator=torch.Generator().manual_seed(0))
BATCHES = [(X[at : at + 8], torch.arange(8)) for at in (0, 8, 16)]


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.layer, self.drop = nn.BatchNorm1d(64), nn.Linear(64, 64), nn.Dropout(0.5)

    def forward(self, x):
        return x + self.drop(torch.relu(self.layer(self.norm(x))))


def pruner_on(net, **changes):
    return ConcurrentPruner(net, X[:2], **{"steps": 100, "price": 0.1} | changes)


def test_units_are_worth_what_the_loss_rises_by_without_them():
    torch.manual_seed(0)
    pruner = pruner_on(Toy(5))
    pruner.gates.remove_(1)
    found = pruner.worth(BATCHES)
    chain = find_units(Toy(5), X[:1])
    assert sorted(found) == [0, 2, 3, 4]
    for index, worth in found.items():
        rises = []
        with pruner.gates.aside(), torch.no_grad():
            for x, y in BATCHES:
                losses = []
                for off in ([1], [1, index]):
                    with bypassed(pruner.model, chain, off):
                        losses.append(F.cross_entropy(pruner.model(x), y).item())
                rises.append(losses[1] - losses[0])
        assert worth.gain == pytest.approx(sum(rises) / 3, abs=1e-6)
        assert worth.error == pytest.approx(torch.tensor(rises).std().item() / math.sqrt(3), abs=1e-6)
        assert worth.price == pytest.approx(pruner.prices.price(index))


def test_asking_leaves_no_trace_and_drops_alike():
    torch.manual_seed(0)
    net = nn.Sequential(*(Block() for _ in range(4)), nn.Linear(64, 10)).eval()
    with torch.no_grad():
        # It adds nothing, and so is worth nothing, whatever is dropped after it.
        net[0].layer.weight.zero_()
        net[0].layer.bias.zero_()
    pruner = pruner_on(net)
    before, random = {name: value.clone() for name, value in net.state_dict().items()}, torch.get_rng_state()
    found = pruner.worth(BATCHES)
    assert found[0] == Worth(gain=0.0, error=0.0, price=pruner.prices.price(0), batches=3)
    assert found[1].gain != 0.0
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert not net.training
    assert pruner.progress().saved == 0.0


def test_the_plan_keeps_what_was_found():
    pruner = pruner_on(Toy(3))
    assert "worth" not in pruner.plan().predicted
    found = pruner.worth(BATCHES, most_batches=1)
    kept = pruner.plan().predicted["worth"]
    assert {int(index): Worth(**each) for index, each in kept.items()} == found
    assert all(worth.error is None and worth.batches == 1 for worth in found.values())


@pytest.mark.parametrize(
    ("gain", "error", "batches", "below"),
    [
        (0.04, 0.02, 9, True),
        (0.07, 0.02, 9, False),
        (0.04, 0.02, 2, False),
        (0.2, 0.0, 9, False),
        (0.04, None, 1, False),
    ],
)
def test_a_unit_is_below_its_price_with_all_of_its_interval(gain, error, batches, below):
    assert Worth(gain=gain, error=error, price=0.1, batches=batches).is_below is below


def test_calls_that_write_into_buffers_begin_alike():
    torch.manual_seed(0)
    net = nn.Sequential(*(Block() for _ in range(3)), nn.Linear(64, 10))
    for block in net[:3]:
        nn.utils.parametrizations.spectral_norm(block.layer)
    with torch.no_grad():
        net[0].norm.weight.zero_()
        net[0].norm.bias.zero_()
        net[0].layer.bias.fill_(-1.0)
    found = pruner_on(net).worth(BATCHES)
    assert (found[0].gain, found[0].error) == (0.0, 0.0)
    assert found[2].gain != 0.0


def test_parts_that_were_put_into_evaluation_stay_there():
    torch.manual_seed(0)
    net = nn.Sequential(*(Block() for _ in range(3)), nn.Linear(64, 10)).train()
    for block in net[:3]:
        block.norm.eval()
        block.drop.eval()
    pruner = pruner_on(net)
    found = pruner.worth(BATCHES)[1].gain
    with pruner.gates.aside(), torch.no_grad():
        rises = []
        for x, y in BATCHES:
            whole = F.cross_entropy(net(x), y).item()
            with bypassed(net, pruner.chain, [1]):
                rises.append(F.cross_entropy(net(x), y).item() - whole)
    assert found == pytest.approx(sum(rises) / 3, abs=1e-6)


def test_what_has_left_since_is_not_told_of_and_a_step_forgets():
    pruner = pruner_on(Toy(3))
    pruner.worth(BATCHES)
    pruner.gates.remove_(1)
    assert sorted(pruner.plan().predicted["worth"]) == ["0", "2"]
    pruner.model.train()(BATCHES[0][0])
    pruner.step(BATCHES[0])
    assert "worth" not in pruner.plan().predicted


def test_the_last_of_a_stage_stays_whatever_it_is_worth():
    pruner = pruner_on(Toy(3))
    for index in (0, 2):
        pruner.gates.remove_(index)
    assert pruner.worth(BATCHES) == {}


def test_batches_that_overflow_say_nothing():
    net = Toy(3)
    pruner = pruner_on(net, loss=lambda outputs, labels: outputs.sum() * (math.nan if labels[0] else 1.0))
    batches = [(x, torch.full((8,), number)) for number, (x, _) in enumerate(BATCHES)]
    assert all(worth.error is None for worth in pruner.worth(batches).values())
    assert pruner.worth(batches[1:]) == {}


def test_there_have_to_be_batches_and_gates():
    pruner = pruner_on(Toy(3))
    with pytest.raises(DataError):
        pruner.worth([])
    with pytest.raises(ConfigError, match="worth on 0 batches: 1 or more works"):
        pruner.worth(BATCHES, most_batches=0)
    pruner.close()
    with pytest.raises(ConfigError, match="after finish: ask before it"):
        pruner.worth(BATCHES)
