import pytest
import torch
from torch import nn

from gated import Toy
from shoal import ConcurrentPruner, find_units
from shoal.training import PRESETS
from shoal.training.concurrent.attraction import Attraction


def attraction_on(net, x):
    return Attraction(net, find_units(net, x), x)


class Block(nn.Module):
    """A branch whose parts are named in another order than that in which they run."""

    def __init__(self):
        super().__init__()
        self.last = nn.BatchNorm1d(4)
        self.middle = nn.Linear(4, 4)
        self.first = nn.LayerNorm(4)

    def forward(self, x):
        return x + self.last(self.middle(self.first(x)))


def test_the_last_weights_are_those_of_what_runs_last():
    net = nn.Sequential(*(Block() for _ in range(3)), nn.Linear(4, 2))
    found = attraction_on(net, torch.zeros(2, 4)).last_weights(1)
    assert {id(weight) for weight in found} == {id(weight) for weight in net[1].last.parameters()}


def test_the_last_weights_of_a_decoder_layer_lead_back_to_the_stream():
    transformers = pytest.importorskip("transformers", reason="needs the extra hf")
    config = transformers.LlamaConfig(
        vocab_size=24, hidden_size=8, intermediate_size=16, num_hidden_layers=3, num_attention_heads=2
    )
    net = transformers.LlamaForCausalLM(config)
    found = attraction_on(net, {"input_ids": torch.zeros(1, 4, dtype=torch.long)}).last_weights(1)
    assert [id(weight) for weight in found] == [id(net.model.layers[1].mlp.down_proj.weight)]


def test_a_unit_without_weights_of_its_own_has_none():
    net = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(3)), nn.Linear(4, 2))
    attraction = attraction_on(net, torch.zeros(2, 4))
    assert all(len(attraction.last_weights(index)) == 2 for index in attraction.influence)


def test_influence_is_the_most_that_was_seen():
    net = Toy(4)
    attraction = attraction_on(net, torch.zeros(2, 64))
    weights = attraction.last_weights(1)
    norm = float(torch.cat([weight.detach().flatten() for weight in weights]).norm())
    for gain in (0.1, -0.4, 0.2):
        attraction.note(1, gain)
    assert attraction.influence[1] == pytest.approx(0.4 / norm)
    assert attraction.influence[0] == 0.0


def test_zero_weights_say_nothing_of_influence():
    net = Toy(4)
    attraction = attraction_on(net, torch.zeros(2, 64))
    with torch.no_grad():
        for weight in attraction.last_weights(1):
            weight.zero_()
    attraction.note(1, 0.5)
    assert attraction.influence[1] == 0.0


@pytest.mark.parametrize(("decay", "drawn"), [(0.5, True), (0.0, False)])
def test_decay_is_that_of_the_last_weights(decay, drawn):
    net = Toy(4)
    attraction = attraction_on(net, torch.zeros(2, 64))
    last = attraction.last_weights(1)
    others = [weight for weight in net.parameters() if all(weight is not own for own in last)]
    with torch.no_grad():
        for weight in last:
            weight.fill_(1e-6)
    attraction.influence[1] = 0.8
    groups = [{"params": last, "weight_decay": decay}, {"params": others, "weight_decay": 1.0 - decay}]
    # Without decay only gates below what the norm leaves room for are drawn to 0; with it, larger ones too.
    assert attraction.draws(1, 0.6, 0.4, torch.optim.SGD(groups, lr=0.1)) is drawn


def test_gates_do_not_hide_which_weights_run_last():
    torch.manual_seed(0)
    net = Toy(4)
    pruner = ConcurrentPruner(net, torch.zeros(2, 64), steps=100, price=0.1, settings=PRESETS["paper"])
    found = pruner.decisions.attraction.last_weights(1)
    assert {id(weight) for weight in found} == {id(weight) for weight in net.blocks[1].second.parameters()}


class Attention(nn.Module):
    """Its last weights are used by no call of their module."""

    def __init__(self):
        super().__init__()
        self.norm, self.mixer = nn.LayerNorm(4), nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        normed = self.norm(x)
        return x + self.mixer(normed, normed, normed)[0]


def test_weights_of_a_part_that_is_not_called_come_with_what_it_is_in():
    net = nn.Sequential(*(Attention() for _ in range(3)), nn.Linear(4, 2))
    found = attraction_on(net, torch.zeros(2, 5, 4)).last_weights(1)
    assert {id(weight) for weight in found} == {id(weight) for weight in net[1].mixer.out_proj.parameters()}
