"""A diffusion U-Net, which takes images and time steps, through every stage of merging."""

from __future__ import annotations

import random

import pytest
import torch
from diffusion_unet import GROUPS, LEFT, STEPS, UNet, draw, noisy
from torch import nn

import shoal
from shoal.architectures.convolutions import find_convolutions
from shoal.measurement import evaluate_quality
from shoal.plan import Plan
from shoal.steps import Merge
from shoal.surgery import expand, find_entries, merge_layers
from shoal.training import HealSettings


def noise_loss(predicted, noise):
    return (predicted - noise).square().mean(dim=(1, 2, 3))


@pytest.fixture
def network():
    return UNet((GROUPS, 2 * GROUPS), blocks=1).eval()


@pytest.fixture
def batches():
    images, t = torch.rand(24, 1, 8, 8) * 2 - 1, torch.randint(STEPS, (24,))
    noise = torch.randn_like(images)
    parts = (tensor.split(8) for tensor in (noisy(images, t, noise), t, noise))
    return [((x, steps), target) for x, steps, target in zip(*parts, strict=True)]


def some_plan(network, example, seed):
    """A plan of merges and removals, drawn at random from all that the graph allows."""
    convolutions, chosen = find_convolutions(network, example), []
    entries, draws, at = find_entries(convolutions), random.Random(seed), 0
    names = [layer.name for layer in convolutions.layers]
    while at < len(names):
        entry = draws.choice([each for each in entries if each.segment.start == at])
        at = entry.segment.stop
        if not entry.unchanged:
            segment = entry.segment
            layers = tuple(names[segment.start : at])
            step = Merge(start=segment.start, stop=at, kept=entry.kept, layers=layers, added=entry.added)
            chosen.append(step)
    chain = shoal.find_units(network, example, granularity="layer")
    return Plan.merging(chain, chosen)


@pytest.mark.parametrize("seed", range(4))
def test_what_is_merged_computes_what_was_trained(network, batches, seed):
    network, (x, t) = network.double(), batches[0][0]
    example = x.double(), t
    plan = some_plan(network, example, seed)
    trained = expand(network, plan)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        expected, found = trained(*example), merge_layers(network, plan, trained)(*example)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_compress_makes_it_shallower_within_the_budget_and_proves_it(network, batches):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    example = batches[0][0]
    result = shoal.compress(
        network,
        batches,
        method="layermerge",
        budget="units=12",
        example=example,
        loss=noise_loss,
        heal=HealSettings(max_steps=2),
    )
    left = sum(isinstance(module, nn.Conv2d) for module in result.model.modules())
    assert result.certificate.whole < 1e-9
    assert result.plan.left <= 12
    assert left < sum(isinstance(module, nn.Conv2d) for module in network.modules())
    assert evaluate_quality(result.model, batches, loss=noise_loss)["loss"] > 0
    assert draw(result.model, torch.randn(3, 1, 8, 8), steps=2).shape == (3, 1, 8, 8)
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)


def test_who_knows_the_noise_draws_the_image():
    image = torch.rand(2, 1, 4, 4) * 2 - 1

    def knows(x, t):
        left = LEFT[t][:, None, None, None]
        return (x - left.sqrt() * image) / (1 - left).sqrt()

    torch.testing.assert_close(draw(knows, torch.randn_like(image), steps=5), image, rtol=0, atol=1e-4)
