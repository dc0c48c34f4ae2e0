"""How deep a network stays at a price: digits, blocks beside a path, for several prices and depths at first.

    python benchmarks/concurrent_digits.py

h + relu(norm(h) W₁ + b₁) W₂ on scikit-learn's digits, width 32, the network of three seeds for every price;
then 8, 16 and 24 blocks at first, the price of one block the same for all.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from reporting import report
from torch import Tensor, nn

from shoal.data import ReshuffledBatches, load_data
from shoal.measurement import evaluate_quality
from shoal.training import ConcurrentPruner, ConcurrentSettings, FitSettings, fit

PRICES = (0.01, 0.03, 0.1, 0.3)
DEPTHS = (8, 16, 24)
STEPS, WIDTH, BLOCK_PRICE = 3000, 32, 6e-3


class Block(nn.Module):
    """A normalised branch of two linear maps beside a path."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH, bias=False)
        nn.init.normal_(self.first.weight, std=math.sqrt(2 / WIDTH))
        nn.init.zeros_(self.first.bias)
        nn.init.normal_(self.second.weight, std=0.3 / math.sqrt(WIDTH))

    def forward(self, h: Tensor) -> Tensor:
        """Return the state `(B, 32)`."""
        norm = h * torch.rsqrt(h.square().mean(dim=-1, keepdim=True) + 1e-6)
        return h + self.second(F.relu(self.first(norm)))


def network(depth: int, seed: int) -> nn.Sequential:
    """Return the network with so many blocks."""
    torch.manual_seed(seed)
    stem, head = nn.Linear(64, WIDTH, bias=False), nn.Linear(WIDTH, 10)
    nn.init.normal_(stem.weight, std=1 / 8)
    nn.init.normal_(head.weight, std=0.5 / math.sqrt(WIDTH))
    nn.init.zeros_(head.bias)
    return nn.Sequential(nn.Flatten(), stem, nn.Tanh(), *(Block() for _ in range(depth)), head)


def objective(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of a batch."""
    return F.cross_entropy(model(inputs), labels)


def run(depth: int, seed: int, price: str) -> dict[str, Any]:
    """Return the figures of one training.

    Args:
        depth: Blocks at first.
        seed: Of weights, order and gates.
        price: What all MACs or units of the network are worth, in mean loss.
    """
    train, test = load_data("digits:train"), load_data("digits:test")
    model, batches = network(depth, seed), ReshuffledBatches(train.batches)
    settings = ConcurrentSettings(seed=seed)
    pruner = ConcurrentPruner(model, train.example, steps=STEPS, price=price, settings=settings)
    recipe = FitSettings(
        max_steps=STEPS, optimizer="sgd", lr=0.02, weight_decay=5e-4, warmup=0.0, clip=None, seed=seed
    )
    fit(model, batches, recipe, objective=objective, pruner=pruner)
    worth = pruner.worth(train.batches, most_batches=len(train.batches)).values()
    found, small = pruner.progress(), pruner.finish().eval()
    return {
        "depth_at_first": depth,
        "seed": seed,
        "price": price,
        "depth": found.units,
        "undecided_gates": pruner.decisions.undecided,
        "blocks_worth_their_price": sum(each.gain >= each.price for each in worth),
        "blocks_surely_below_their_price": sum(each.is_below for each in worth),
        "training_macs_saved": found.saved,
        "accuracy": evaluate_quality(small, test.batches)["accuracy"],
    }


def figures(seeds: list[int]) -> Iterator[dict[str, Any]]:
    """Yield what is known after every training."""
    rows: dict[str, list[dict[str, Any]]] = {"prices": [], "depths": []}
    for price in PRICES:
        for seed in seeds:
            rows["prices"].append(run(8, seed, f"macs={price}"))
            yield rows
    for depth in DEPTHS:
        for seed in seeds:
            rows["depths"].append(run(depth, seed, f"units={BLOCK_PRICE * depth}"))
            yield rows


def main() -> None:
    """Run all and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--output", help="file for the figures")
    options = parser.parse_args()
    for found in figures(options.seeds):
        report("concurrent_digits", {"steps": STEPS, "block_price": BLOCK_PRICE, **found}, options.output)


if __name__ == "__main__":
    main()
