"""Units whose activations are computed again in the backward pass, one by one or several at a time."""

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
    """Blocks whose activations are computed again in the backward pass, so many at a time, unless `reentrant`
    is None.
    """

    def __init__(self, reentrant: bool | None, together: int = 1) -> None:
        super().__init__()
        self.together = together
        torch.manual_seed(0)
        self.stem, self.head, self.reentrant = nn.Linear(4, 8), nn.Linear(8, 3), reentrant
        self.blocks = nn.ModuleList(Block() for _ in range(5))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.stem(inputs)
        for first in range(0, len(self.blocks), self.together):
            several = nn.Sequential(*self.blocks[first : first + self.together])
            if self.reentrant is None:
                hidden = several(hidden)
            else:
                hidden = checkpoint(several, hidden, use_reentrant=self.reentrant)
        return self.head(hidden)


def trained(
    reentrant: bool | None, estimator: str, *, looks: bool, together: int = 1, calls: int = 1
) -> list[Tensor]:
    net = Net(reentrant, together).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    settings = ConcurrentSettings(start=0.5, estimator=estimator)  # type: ignore[arg-type]
    pruner = ConcurrentPruner(
        net, torch.ones(1, 4), steps=30, budget="units=2", optimizer=optimizer, settings=settings
    )
    torch.manual_seed(5)
    for _ in range(30):
        inputs = torch.randn(16, 4)
        labels = (inputs.sum(1) > 0).long()
        loss = sum(nn.functional.cross_entropy(net(inputs), labels) for _ in range(calls))
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
@pytest.mark.parametrize(("together", "calls"), [(1, 1), (2, 1), (3, 2), (5, 2)])
def test_activations_that_are_computed_again_change_nothing(
    reentrant: bool, estimator: str, looks: bool, together: int, calls: int
) -> None:
    with warnings.catch_warnings():
        # Torch says so of every reentrant checkpoint that runs without gradients.
        warnings.filterwarnings("ignore", message="None of the inputs have requires_grad")
        again = trained(reentrant, estimator, looks=looks, together=together, calls=calls)
    kept = trained(None, estimator, looks=looks, together=together, calls=calls)
    assert len(again) == len(kept)
    assert all(torch.equal(one, other) for one, other in zip(again, kept, strict=True))
