"""What the tests of training with gates share: a network of blocks, its data, and brute force.

B = batch, D = width.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils._pytree import tree_leaves

from shoal.architectures import bypassed
from shoal.calling import call
from shoal.training.concurrent.pruner import ConcurrentPruner
from shoal.units import Chain

__all__ = ["Block", "Toy", "digits", "equal", "mean_loss", "noted", "random_batches", "train", "turned"]

Batches = list[tuple[Tensor, Tensor]]
States = dict[tuple[str, str, int], Tensor]


class Block(nn.Module):
    """h + relu(rmsnorm(h) W1 + b1) W2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        nn.init.normal_(self.first.weight, std=math.sqrt(2 / width))
        nn.init.zeros_(self.first.bias)
        nn.init.normal_(self.second.weight, std=0.3 * math.sqrt(1 / width))

    def forward(self, h: Tensor) -> Tensor:
        """(B, D) -> (B, D)."""
        normed = h * torch.rsqrt(h.square().mean(-1, keepdim=True) + 1e-6)
        return h + self.second(self.first(normed).relu())


class Toy(nn.Module):
    """A stem, blocks, and a linear head."""

    def __init__(self, depth: int = 8, width: int = 32, inputs: int = 64, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Linear(inputs, width, bias=False)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.head = nn.Linear(width, classes)
        nn.init.normal_(self.stem.weight, std=1 / 8)
        nn.init.normal_(self.head.weight, std=0.5 / math.sqrt(width))
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.stem(x))
        for block in self.blocks:
            h = block(h)
        return self.head(h)


def digits() -> tuple[Tensor, Tensor]:
    """1,300 images of digits, (1300, 64) in [-1, 1], and their labels."""
    from sklearn.datasets import load_digits

    found = load_digits()
    order = torch.randperm(len(found.data), generator=torch.Generator().manual_seed(0))[:1300]
    x = torch.tensor(found.data / 8 - 1, dtype=torch.float32)[order]
    return x, torch.tensor(found.target)[order]


def random_batches(count: int, size: int = 32, *, seed: int = 0) -> Batches:
    """Batches of digits, drawn with replacement."""
    x, y = digits()
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randint(len(x), (size,), generator=generator) for _ in range(count)]
    return [(x[indices], y[indices]) for indices in drawn]


def train(
    net: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    optimizer: torch.optim.Optimizer,
    pruner: ConcurrentPruner | None = None,
) -> list[float]:
    """The loop that a user writes; returns the losses."""
    losses = []
    net.train()
    for x, y in batches:
        loss = cross_entropy(net(x), y)
        loss.backward()
        if pruner is not None:
            pruner.step((x, y))
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def mean_loss(net: nn.Module, chain: Chain, x: Tensor, y: Tensor, off: Iterable[int] = ()) -> float:
    """The loss of an ungated network without some units, in float64."""
    with bypassed(net, chain, off):
        return cross_entropy(net(x).double(), y).item()


@contextmanager
def _hooked(model: nn.Module, at: Callable[[str, str, int], None]) -> Iterator[None]:
    """Call `at` before and after every call of every module, with the number of that call."""
    calls: Counter[tuple[str, str]] = Counter()

    def hook(name: str, moment: str) -> Callable[..., None]:
        def called(*_: Any, **__: Any) -> None:
            at(name, moment, calls[name, moment])
            calls[name, moment] += 1

        return called

    handles = []
    for name, module in model.named_modules():
        if name:
            handles.append(module.register_forward_pre_hook(hook(name, "before")))
            handles.append(module.register_forward_hook(hook(name, "after")))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def noted(model: nn.Module) -> Iterator[States]:
    """Yield the random states of a call, filled in as it goes: at the start and around every module."""
    states: States = {("", "before", 0): torch.get_rng_state()}

    def note(*key: Any) -> None:
        states[key] = torch.get_rng_state()

    with _hooked(model, note):
        yield states


@torch.no_grad()
def turned(model: nn.Module, chain: Chain, inputs: Any, off: Iterable[int], states: States) -> list[Tensor]:
    """What a copy of an ungated network in training mode returns without these units, all of it computed,
    where every module draws the random numbers that it drew in the noted call.
    """
    copy, before = deepcopy(model), torch.get_rng_state()

    def restore(*key: Any) -> None:
        if key in states:
            torch.set_rng_state(states[key])

    with _hooked(copy, restore), bypassed(copy, chain, off):
        restore("", "before", 0)
        outputs = call(copy, deepcopy(inputs))
    torch.set_rng_state(before)
    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]


def equal(first: Any, second: Any) -> bool:
    """Whether two structures hold the same tensors, bit for bit."""
    leaves = [[leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)] for tree in (first, second)]
    return len(leaves[0]) == len(leaves[1]) and all(map(torch.equal, *leaves))
