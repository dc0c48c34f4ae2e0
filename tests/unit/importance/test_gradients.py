"""Scores of one backward pass equal what autograd says sample by sample, of a gate on every unit."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from networks import gpt2, llama
from shoal import find_units
from shoal.importance import collect_evidence
from shoal.importance.gradients import gradients_of


def gated(model, chain, unit, gate):
    """Scale what a unit adds to its input by `1 + gate` `(B,)`; return handles to remove."""
    entered = []

    def enter(module, args):
        entered.append(args[0])

    def leave(module, args, out):
        hidden = out if isinstance(out, torch.Tensor) else out[0]
        before = entered.pop()
        shaped = gate.view(-1, *(1,) * (hidden.dim() - 1))
        base = before if before.shape == hidden.shape else torch.zeros_like(hidden)
        changed = hidden + shaped * (hidden - base)
        return changed if isinstance(out, torch.Tensor) else (changed, *out[1:])

    return [
        model.get_submodule(chain[unit].modules[0]).register_forward_pre_hook(enter),
        model.get_submodule(chain[unit].modules[-1]).register_forward_hook(leave),
    ]


def savings(model, chain, losses_of, count, double=False):
    """s of every unit and sample, `(L, N)`: the derivative of a sample's loss by the unit's gate."""
    found = []
    for unit in range(len(chain)):
        gate = torch.zeros(count, requires_grad=True, dtype=torch.float64 if double else None)
        handles = gated(model, chain, unit, gate)
        found.append(torch.autograd.grad(losses_of().sum(), gate)[0])
        for handle in handles:
            handle.remove()
    return torch.stack(found).double().numpy()


def check_scores(found, saved):
    np.testing.assert_allclose(
        found["drop_estimate"], (-saved + saved**2 / 2).mean(axis=1), rtol=2e-3, atol=1e-5
    )
    np.testing.assert_allclose(found["abs_mean_saving"], np.abs(saved.mean(axis=1)), rtol=2e-3, atol=1e-5)
    np.testing.assert_allclose(found["mean_abs_saving"], np.abs(saved).mean(axis=1), rtol=2e-3, atol=1e-5)


@pytest.fixture
def images():
    return torch.randn(24, 3, 8, 8), torch.randint(0, 10, (24,))


def test_of_images_they_are_the_derivatives_of_each_image_s_loss(small_resnet, images):
    x, y = images
    chain = find_units(small_resnet, x[:1])
    found = collect_evidence(small_resnet, chain, [(x[:10], y[:10]), (x[10:], y[10:])]).importance
    saved = savings(
        small_resnet, chain, lambda: F.cross_entropy(small_resnet(x), y, reduction="none"), len(x)
    )
    check_scores(found, saved)


def test_the_gate_s_derivative_is_a_finite_difference():
    torch.manual_seed(3)
    model = nn.Sequential(
        *(nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(4)), nn.Linear(6, 3)
    ).double()
    x, y = torch.randn(9, 6, dtype=torch.float64), torch.randint(0, 3, (9,))
    chain = find_units(model, x[:1])
    found = collect_evidence(model, chain, [(x, y)]).importance

    def losses(unit, size):
        handles = gated(model, chain, unit, torch.full((9,), size, dtype=torch.float64))
        with torch.no_grad():
            values = F.cross_entropy(model(x), y, reduction="none").numpy()
        for handle in handles:
            handle.remove()
        return values

    step = 1e-5
    saved = np.stack([(losses(unit, step) - losses(unit, -step)) / (2 * step) for unit in range(len(chain))])
    np.testing.assert_allclose(found["drop_estimate"], (-saved + saved**2 / 2).mean(axis=1), rtol=1e-6)


@pytest.mark.parametrize("padded", [False, True])
def test_of_text_they_are_the_derivatives_of_each_sequence_s_loss(small_llama, padded):
    ids = torch.randint(0, 64, (4, 10))
    mask = torch.ones_like(ids)
    if padded:
        mask[1, 6:] = 0
        mask[3, :4] = 0
    chain = find_units(small_llama)
    batch = {"input_ids": ids, "attention_mask": mask}
    found = collect_evidence(small_llama, chain, [batch]).importance

    def losses():
        logits = small_llama(**batch).logits
        tokens = F.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
        counted = (mask[:, 1:] * mask[:, :-1]).float()
        return (tokens * counted).sum(dim=1) / counted.sum(dim=1)

    check_scores(found, savings(small_llama, chain, losses, 4))


def test_gradnorms_are_those_of_the_mean_loss_and_of_outputs(small_resnet, images):
    x, y = images
    chain = find_units(small_resnet, x[:1])
    found = collect_evidence(small_resnet, chain, [(x[:10], y[:10]), (x[10:], y[10:])]).importance
    outputs = {}
    handles = [
        small_resnet.get_submodule(unit.name).register_forward_hook(
            lambda module, args, out, name=unit.name: outputs.__setitem__(name, out)
        )
        for unit in chain
    ]
    loss = F.cross_entropy(small_resnet(x), y)
    for handle in handles:
        handle.remove()
    for unit in chain:
        parameters = list(small_resnet.get_submodule(unit.name).parameters())
        *gradients, reaching = torch.autograd.grad(loss, [*parameters, outputs[unit.name]], retain_graph=True)
        norm = torch.cat([gradient.flatten() for gradient in gradients]).norm().item()
        assert found["gradnorm"][unit.index] == pytest.approx(norm, rel=1e-3)
        assert found["gradnorm_scaled"][unit.index] == pytest.approx(norm / unit.params**0.5, rel=1e-3)
        arriving = len(x) * reaching.flatten(1).norm(dim=1).mean().item()
        assert found["output_gradnorm"][unit.index] == pytest.approx(arriving, rel=1e-3)


def test_taylor_scores_take_the_absolute_value_of_the_whole_data_s_products(small_resnet, images):
    x, y = images
    chain = find_units(small_resnet, x[:1])
    found = collect_evidence(small_resnet, chain, [(x[:10], y[:10]), (x[10:], y[10:])]).importance["taylor"]
    parts = [
        collect_evidence(small_resnet, chain, [(x[at], y[at])]).importance["taylor"]
        for at in (slice(10), slice(10, 24))
    ]
    loss = F.cross_entropy(small_resnet(x), y)
    for unit in chain:
        parameters = list(small_resnet.get_submodule(unit.name).parameters())
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True)
        pairs = zip(gradients, parameters, strict=True)
        by_hand = sum((gradient * p.detach()).abs().sum().item() for gradient, p in pairs)
        assert found[unit.index] == pytest.approx(by_hand, rel=1e-3)
    assert (found < (10 * parts[0] + 14 * parts[1]) / 24).all()


def test_a_given_loss_is_used(small_resnet, images):
    x, _ = images
    chain = find_units(small_resnet, x[:1])
    mean, each = (
        collect_evidence(small_resnet, chain, [x], loss=loss).importance
        for loss in (lambda out, labels: out.square().mean(), lambda out, labels: out.square().mean(dim=1))
    )
    saved = savings(small_resnet, chain, lambda: small_resnet(x).square().mean(dim=1), len(x))
    check_scores(each, saved)
    np.testing.assert_allclose(mean["gradnorm"], each["gradnorm"], rtol=1e-4)


def test_only_the_units_parameters_collect_gradients_and_only_inside():
    model = nn.Sequential(nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2))
    model[1].weight.requires_grad_(False)
    model[0].weight.grad = kept = torch.ones(6, 3)
    chain = find_units(model, torch.zeros(1, 3))
    inside = {int(unit.modules[0]) for unit in chain}
    with gradients_of(model, chain):
        assert all(p.requires_grad == (at in inside) for at in range(4) for p in model[at].parameters())
        assert model[0].weight.grad is None
        model(torch.ones(2, 3)).sum().backward()
    assert model[0].weight.grad is kept
    assert [p.requires_grad for p in model.parameters()] == [True, True, False, True, True, True, True, True]
    assert all(p.grad is None for at in (1, 2, 3) for p in model[at].parameters())


def test_gradients_are_restored_after_a_failure():
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)).requires_grad_(False)
    chain = find_units(model, torch.zeros(1, 6))
    with pytest.raises(KeyError, match="stop"), gradients_of(model, chain):
        raise KeyError("stop")
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("make", [gpt2, llama])
def test_of_sublayers_they_are_the_derivatives_by_a_gate_on_what_is_added(make):
    model, _ = make()
    chain = find_units(model, granularity="sublayer")
    ids = torch.randint(0, 64, (6, 9))
    gate = torch.zeros(len(chain), 6, requires_grad=True)

    def scaled(index):
        def hook(module, args, out):
            hidden = out if isinstance(out, torch.Tensor) else out[0]
            changed = hidden * (1 + gate[index].view(-1, 1, 1))
            return changed if isinstance(out, torch.Tensor) else (changed, *out[1:])

        return hook

    handles = [model.get_submodule(u.modules[-1]).register_forward_hook(scaled(u.index)) for u in chain]
    logits = model(ids, use_cache=False).logits
    loss = F.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none").mean(1)
    saved = torch.autograd.grad(loss.sum(), gate)[0].double().numpy()
    for handle in handles:
        handle.remove()
    check_scores(collect_evidence(model, chain, [{"input_ids": ids}]).importance, saved)
