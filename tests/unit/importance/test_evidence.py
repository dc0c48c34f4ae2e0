import warnings
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from shoal import find_units
from shoal.errors import ConfigError, DataError, ShoalWarning
from shoal.importance import EvidenceSettings, collect_evidence

GRADIENTS = {
    "drop_estimate",
    "output_gradnorm",
    "abs_mean_saving",
    "mean_abs_saving",
    "gradnorm",
    "gradnorm_scaled",
    "taylor",
}
SHAPES = {"block_influence", "angular_distance", "magnitude"}


class Block(nn.Module):
    def __init__(self, inplace=False):
        super().__init__()
        self.linear, self.relu, self.inplace = nn.Linear(6, 6), nn.ReLU(inplace), inplace

    def forward(self, x):
        out = self.linear(x)
        out += x
        return self.relu(out)


class Overwriting(nn.Module):
    """Adds to its hidden state in place between the blocks."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(4))
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
            x *= 1.1
        return self.head(x)


class Careful(Overwriting):
    def forward(self, x):
        for block in self.blocks:
            x = 1.1 * block(x)
        return self.head(x)


@pytest.fixture
def net():
    return nn.Sequential(nn.Linear(4, 6), *(Block() for _ in range(4)), nn.Linear(6, 3)).eval()


@pytest.fixture
def batches():
    return [(torch.randn(12, 4), torch.randint(0, 3, (12,))) for _ in range(3)]


@pytest.fixture
def chain(net):
    return find_units(net, torch.zeros(1, 4))


def test_all_scores_come_from_one_pass_over_the_batches(net, chain, batches):
    calls = []
    net[0].register_forward_hook(lambda *args: calls.append(1))
    found = collect_evidence(net, chain, batches)
    assert len(calls) == len(batches)
    assert set(found.importance) == GRADIENTS | SHAPES
    assert all(
        scores.shape == (len(chain),) and np.isfinite(scores).all() for scores in found.importance.values()
    )
    assert found.boundary_similarity.shape == (len(chain) + 1,) * 2
    assert len(found.segmentation.losses) == len(chain)
    assert found.chain is chain
    loss = (
        torch.cat([nn.functional.cross_entropy(net(x), y, reduction="none") for x, y in batches])
        .mean()
        .item()
    )
    assert found.data == {
        "batches": 3,
        "samples": 36,
        "compared": 36,
        "rows": "samples",
        "loss": pytest.approx(loss),
        "memorised": False,
    }


@pytest.mark.parametrize("kind", ["unlabelled", "not asked for"])
def test_without_a_loss_there_are_no_scores_by_gradients(net, chain, batches, kind):
    asked = kind == "unlabelled"
    used = [x for x, _ in batches] if asked else batches
    found = collect_evidence(net, chain, used, settings=EvidenceSettings(gradients=asked))
    assert set(found.importance) == SHAPES
    assert found.data["loss"] is None
    assert found.data["memorised"] is None


def test_the_same_batches_in_other_pieces_give_the_same_scores(net, chain, batches):
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    whole = collect_evidence(net, chain, [(x, y)])
    found = collect_evidence(net, chain, batches)
    for name in GRADIENTS | SHAPES:
        np.testing.assert_allclose(found.importance[name], whole.importance[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("train", [False, True])
def test_the_model_is_left_as_it_was_found(small_resnet, train):
    small_resnet.train(train)
    small_resnet.layer2.eval()
    small_resnet.conv1.weight.requires_grad_(False)
    small_resnet.linear.weight.grad = torch.ones_like(small_resnet.linear.weight)
    chain = find_units(small_resnet, torch.zeros(1, 3, 8, 8))
    before = deepcopy(small_resnet.state_dict())
    grads = {name: p.grad for name, p in small_resnet.named_parameters()}
    needed = {name: p.requires_grad for name, p in small_resnet.named_parameters()}
    modes = {name: module.training for name, module in small_resnet.named_modules()}
    random = torch.get_rng_state()
    loader = DataLoader(
        TensorDataset(torch.randn(20, 3, 8, 8), torch.randint(0, 10, (20,))), batch_size=10, shuffle=True
    )
    random = torch.get_rng_state()
    collect_evidence(small_resnet, chain, loader)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in small_resnet.state_dict().items())
    assert all(p.grad is grads[name] for name, p in small_resnet.named_parameters())
    assert {name: p.requires_grad for name, p in small_resnet.named_parameters()} == needed
    assert {name: module.training for name, module in small_resnet.named_modules()} == modes
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in small_resnet.modules())
    assert torch.is_grad_enabled()


def test_the_model_is_left_as_it_was_found_after_a_failure(net, chain):
    net.train()
    with pytest.raises(DataError, match="not finite"):
        collect_evidence(net, chain, [(torch.full((8, 4), float("nan")), torch.zeros(8, dtype=torch.long))])
    assert all(module.training for module in net.modules())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_scores_by_gradients_are_had_where_gradients_are_switched_off(net, chain, batches):
    net.requires_grad_(False)
    with torch.no_grad():
        found = collect_evidence(net, chain, batches)
    assert set(found.importance) >= GRADIENTS
    assert (found.importance["gradnorm"] > 0).all()


def test_a_network_that_overwrites_its_hidden_states_gives_the_same_as_one_that_does_not():
    model, careful = Overwriting().eval(), Careful().eval()
    careful.load_state_dict(model.state_dict())
    batch = torch.randn(16, 6), torch.randint(0, 3, (16,))
    found, expected = (
        collect_evidence(each, find_units(each, batch[0][:1]), [batch]) for each in (model, careful)
    )
    np.testing.assert_allclose(found.boundary_similarity, expected.boundary_similarity, atol=1e-6)
    for name in GRADIENTS | SHAPES:
        np.testing.assert_allclose(found.importance[name], expected.importance[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions_work(small_llama, dtype):
    ids = torch.randint(0, 64, (4, 12))
    chain = find_units(small_llama)
    plain = collect_evidence(small_llama, chain, [{"input_ids": ids}])
    found = collect_evidence(small_llama.to(dtype), chain, [{"input_ids": ids}])
    np.testing.assert_allclose(found.boundary_similarity, plain.boundary_similarity, atol=0.02)
    for name, scores in found.importance.items():
        assert np.isfinite(scores).all()
        assert np.corrcoef(scores, plain.importance[name])[0, 1] > 0.95 or name == "abs_mean_saving"


def test_labels_of_text_are_used_where_they_are_given(small_llama):
    ids = torch.randint(0, 64, (4, 12))
    chain = find_units(small_llama)
    plain = collect_evidence(small_llama, chain, [{"input_ids": ids}])
    same = collect_evidence(small_llama, chain, [{"input_ids": ids, "labels": ids}])
    other = collect_evidence(small_llama, chain, [{"input_ids": ids, "labels": ids.clone().fill_(3)}])
    assert same.data["loss"] == pytest.approx(plain.data["loss"])
    assert other.data["loss"] != pytest.approx(plain.data["loss"])


@pytest.mark.parametrize("certain", [False, True])
def test_a_warning_appears_just_where_the_loss_is_tiny(net, chain, certain):
    x = torch.randn(16, 4)
    if certain:
        net[-1].weight.data *= 1e4
        net[-1].bias.data *= 1e4
    batch = x, net(x).argmax(dim=1)
    if certain:
        with pytest.warns(
            ShoalWarning, match="a guess among 3 costs 1.10: the network looks to have memorised"
        ):
            found = collect_evidence(net, chain, [batch])
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = collect_evidence(net, chain, [batch])
    assert found.data["memorised"] is certain


def test_no_batches_are_refused(net, chain):
    with pytest.raises(DataError, match="the data is empty"):
        collect_evidence(net, chain, [])


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_samples_are_refused(net, chain, count):
    batch = torch.randn(count, 4), torch.zeros(count, dtype=torch.long)
    match = (
        f"it needs 4 or more samples in a batch, and no batch of the {count}"
        if count
        else "no batch was added"
    )
    with pytest.raises(DataError, match=match):
        collect_evidence(net, chain, [batch])


def test_activations_that_are_not_finite_are_refused(net, chain, batches):
    net[2].linear.bias.data[0] = float("nan")
    with pytest.raises(DataError, match=r"the activations of \[2, 3, 4\] are not finite"):
        collect_evidence(net, chain, batches)


def test_a_loss_that_is_not_finite_is_refused(net, chain, batches):
    net[-1].bias.data[0] = float("inf")
    with pytest.raises(DataError, match="asked to score on batch 0: its loss is"):
        collect_evidence(net, chain, batches)


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_out_of_range_are_refused(net, chain, label):
    batch = torch.randn(8, 4), torch.full((8,), label)
    with pytest.raises(DataError, match=f"the label {label}: labels are classes, 0 to 2"):
        collect_evidence(net, chain, [batch])


def test_weights_that_are_not_in_memory_are_refused(net, chain, batches):
    net[2].to("meta")
    with pytest.raises(
        ConfigError, match=r"the weights of 1 of 4 \(2, …\) are not held in memory but offloaded"
    ):
        collect_evidence(net, chain, batches)
