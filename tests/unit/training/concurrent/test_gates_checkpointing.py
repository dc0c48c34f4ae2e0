"""To go into tests/unit/training/test_concurrent.py (or test_gates.py)."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from shoal.training.concurrent.pruner import ConcurrentPruner
from shoal.training.concurrent.settings import ConcurrentSettings


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.drop, self.down = nn.Linear(8, 16), nn.Dropout(0.2), nn.Linear(16, 8)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.down(self.drop(torch.relu(self.up(hidden))))


class Net(nn.Module):
    """Blocks whose activations are computed again in the backward pass, unless `reentrant` is None."""

    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head, self.reentrant = nn.Linear(4, 8), nn.Linear(8, 3), reentrant
        self.blocks = nn.ModuleList(Block() for _ in range(5))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.stem(inputs)
        for block in self.blocks:
            if self.reentrant is None:
                hidden = block(hidden)
            else:
                hidden = checkpoint(block, hidden, use_reentrant=self.reentrant)
        return self.head(hidden)


def trained(reentrant: bool | None, estimator: str, *, looks: bool) -> list[Tensor]:
    net = Net(reentrant).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    settings = ConcurrentSettings(start=0.5, estimator=estimator)  # type: ignore[arg-type]
    pruner = ConcurrentPruner(
        net, torch.ones(1, 4), steps=30, budget="units=2", optimizer=optimizer, settings=settings
    )
    torch.manual_seed(5)
    for _ in range(30):
        inputs = torch.randn(16, 4)
        labels = (inputs.sum(1) > 0).long()
        loss = nn.functional.cross_entropy(net(inputs), labels)
        if looks:
            with torch.no_grad():
                net.eval()(inputs)
            net.train()
        loss.backward()
        pruner.step((inputs, labels))
        optimizer.step()
        optimizer.zero_grad()
    return [parameter.detach().clone() for parameter in pruner.finish().parameters()]


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("estimator", ["flip", "slope"])
@pytest.mark.parametrize("looks", [False, True])
def test_activations_that_are_computed_again_change_nothing(
    reentrant: bool, estimator: str, looks: bool
) -> None:
    with warnings.catch_warnings():
        # Torch says so of every reentrant checkpoint that runs without gradients.
        warnings.filterwarnings("ignore", message="None of the inputs have requires_grad")
        again = trained(reentrant, estimator, looks=looks)
    kept = trained(None, estimator, looks=looks)
    assert len(again) == len(kept)
    assert all(torch.equal(one, other) for one, other in zip(again, kept, strict=True))
