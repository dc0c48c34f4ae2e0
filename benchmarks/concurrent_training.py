"""Training and pruning at once, beside what else ends at the same size after as many epochs.

    python benchmarks/concurrent_training.py                     every way, three seeds
    python benchmarks/concurrent_training.py --ways concurrent dense --seeds 0

A residual CNN of 14 blocks (16 and 32 channels, pre-activation) on 10,000 images of Fashion-MNIST, or of
MNIST where that is not installed, for 12 epochs (`--images 30000 --epochs 4`: as many steps, less often the
same images); `macs=0.5`. All are trained by the same recipe for the same number of epochs:

- `dense`: the whole network.
- `concurrent`: a gate on every block, flips; `concurrent-slope`: with straight-through gradients.
- `scratch`: the network that `concurrent` of the same seed ended with, from fresh weights.
- `scales-P`: a factor on every block, drawn to 0 by an L1 penalty P; blocks of the smallest factors go at
  once.
- `random`: random blocks go at once.
- `sglp`: blocks go at once by SGLP.

Blocks that go at once do so in the step at which the whole training costs as much as `concurrent` of the
same seed, in MACs; choosing by SGLP is counted in seconds alone.

Accuracy is that of the 10,000 test images. Training compute counts forward and backward passes, and what
asking units has cost, in MACs.
"""

from __future__ import annotations

import argparse
import gzip
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from inputs import assets, batched
from reporting import report
from torch import Tensor, nn
from torch.optim import Optimizer
from ways import Trained, means, random_units

from shoal import Plan, apply, find_units, make_plan
from shoal.budget import Budget
from shoal.calling import call
from shoal.data import ReshuffledBatches
from shoal.journal import Journal
from shoal.measurement import count_macs, count_params, evaluate_quality, measure_latency
from shoal.planners import Requirement, remove_in_order
from shoal.training import ConcurrentPruner, ConcurrentSettings, FitSettings, fit, recalibrate_

BUDGET = "macs=0.5"
PENALTIES = ("1e-3", "1e-2", "1e-1")
SCALES = tuple(f"scales-{penalty}" for penalty in PENALTIES)
WAYS = ("dense", "concurrent", "concurrent-slope", "scratch", *SCALES, "random", "sglp")
FASHION = Path("/usr/share/datasets/fashion-mnist")
BATCH = 64
EXAMPLE = torch.zeros(1, 1, 28, 28)
FIGURES = ("accuracy", "loss", "blocks", "macs", "latency", "training_macs", "seconds")
Batches = list[tuple[Tensor, Tensor]]


class Block(nn.Module):
    """Two convolutions beside a path."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            convolution = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
            layers += [nn.BatchNorm2d(channels), nn.ReLU(), convolution]
        self.branch = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return the map `(B, C, H, W)`."""
        return x + self.branch(x)


def network(seed: int) -> nn.Module:
    """Return the residual CNN with fresh weights."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1),
        *[Block(16) for _ in range(7)],
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        *[Block(32) for _ in range(7)],
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def pictures(part: str) -> tuple[Tensor, Tensor]:
    """Return images `(N, 1, 28, 28)`, normalised, and labels `(N,)`; `part` is `train` or `t10k`."""
    folder = FASHION if FASHION.is_dir() else assets() / "mnist"
    images = np.frombuffer(gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes()), np.uint8)
    labels = np.frombuffer(gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes()), np.uint8)
    pixels = torch.from_numpy(images[16:].reshape(-1, 1, 28, 28).copy()).float() / 255
    return (pixels - 0.3) / 0.35, torch.from_numpy(labels[8:].copy()).long()


@dataclass
class Half:
    """A pruner that takes blocks out at once: random ones, or those of smallest factors."""

    model: nn.Module
    at: int
    seed: int
    penalty: float = 0.0
    done: int = 0
    macs: float = 0.0
    optimizer: Optimizer | None = None
    removed: tuple[int, ...] = ()
    factors: dict[int, nn.Parameter] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.chain = find_units(self.model, EXAMPLE)
        self.requirement = Requirement.of(self.chain, Budget.parse(BUDGET))
        self.left = self.chain.macs
        self._handles = []
        for index in self.chain.removable if self.penalty else ():
            factor = nn.Parameter(torch.ones(()))
            module = self.model.get_submodule(self.chain[index].name)
            self.factors[index] = factor
            self._handles.append(module.register_forward_hook(scaled(factor)))

    def attach(self, optimizer: Optimizer) -> None:
        """Train the factors too, without weight decay."""
        self.optimizer = optimizer
        if self.factors:
            optimizer.add_param_group({"params": list(self.factors.values()), "weight_decay": 0.0})

    def step(self, batch: object) -> None:
        """Draw the factors to 0; when it is time, take blocks out."""
        for factor in self.factors.values():
            if factor.grad is not None:
                factor.grad += self.penalty * factor.detach().sign()
        self.macs += 3 * self.left
        self.done += 1
        if self.done == self.at:
            self.cut()

    def cut(self) -> None:
        """Take blocks out until the budget is met, and multiply the factors of the others in."""
        if self.factors:
            order = sorted(self.factors, key=lambda index: abs(float(self.factors[index])))
            self.removed = remove_in_order(order, self.requirement.savings, self.requirement.need)
        else:
            self.removed = random_units(self.chain, BUDGET, self.seed)
        for index in self.chain.removable:
            block = self.model.get_submodule(self.chain[index].name)
            if index in self.removed:
                vars(block)["forward"] = lambda x: x
            elif index in self.factors:
                with torch.no_grad():
                    block.branch[-1].weight *= self.factors[index]
        for handle in self._handles:
            handle.remove()
        self.factors.clear()
        self.left = self.chain.macs - sum(self.chain[index].macs for index in self.removed)

    def status(self) -> str:
        """Return how much is left."""
        return f"{self.left / self.chain.macs:.0%} of macs"

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: these runs are short."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up nothing."""

    def finish(self) -> nn.Module:
        """Return the network without what has left."""
        for index in self.removed:
            vars(self.model.get_submodule(self.chain[index].name)).pop("forward", None)
        return apply(self.model, Plan.removing(self.chain, self.removed))


def scaled(factor: nn.Parameter) -> Callable[..., Tensor]:
    """Return a hook that multiplies what a block adds."""

    def hook(module: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
        return args[0] + factor * (output - args[0])

    return hook


def objective(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of a batch."""
    return F.cross_entropy(call(model, inputs), labels)


def recipe(seed: int, steps: int) -> FitSettings:
    """Return how every network is trained."""
    return FitSettings(
        max_steps=steps, optimizer="sgd", lr=0.05, weight_decay=5e-4, warmup=0.05, clip=None, seed=seed
    )


def trained(model: nn.Module, batches: ReshuffledBatches, seed: int, steps: int, pruner: Any = None) -> float:
    """Train a network in place, and return the seconds it took."""
    begun = time.perf_counter()
    fit(model, batches, recipe(seed, steps), objective=objective, pruner=pruner)
    return time.perf_counter() - begun


def run(way: str, seed: int, batches: ReshuffledBatches, steps: int, before: Trained | None) -> Trained:
    """Return what one way comes to; `before` is `concurrent` of the same seed."""
    model = network(seed)
    whole = count_macs(model, EXAMPLE).total
    if way == "dense":
        seconds = trained(model, batches, seed, steps)
        return Trained(model=model, macs=3.0 * whole * steps, seconds=seconds)
    if way.startswith("concurrent"):
        return concurrent(model, way, seed, batches, steps)
    if before is None:
        raise SystemExit(f"{way} needs concurrent of the same seed: --ways concurrent {way}")
    small = count_macs(before.model, EXAMPLE).total
    if way == "scratch":
        shallow = apply(network(seed + 1000), Plan.removing(find_units(model, EXAMPLE), before.removed))
        seconds = trained(shallow, batches, seed, steps)
        return Trained(model=shallow, macs=3.0 * small * steps, seconds=seconds, removed=before.removed)
    at = min(steps - 1, round((before.macs / 3 - small * steps) / (whole - small)))
    if way == "sglp":
        return then_pruned(model, seed, batches, steps, at)
    penalty = float(way.removeprefix("scales-")) if way in SCALES else 0.0
    half = Half(model, at, seed, penalty=penalty)
    seconds = trained(model, batches, seed, steps, half)
    known = {"steps_whole": at}
    return Trained(model=half.finish(), macs=half.macs, seconds=seconds, removed=half.removed, known=known)


def concurrent(model: nn.Module, way: str, seed: int, batches: ReshuffledBatches, steps: int) -> Trained:
    """Return the network that gates lead to, and what its blocks are worth."""
    whole = count_macs(model, EXAMPLE).total
    settings = ConcurrentSettings(seed=seed, estimator="slope" if way.endswith("slope") else "flip")
    pruner = ConcurrentPruner(model, EXAMPLE, steps=steps, budget=BUDGET, settings=settings)
    seconds = trained(model, batches, seed, steps, pruner)
    worth = pruner.worth(batches, most_batches=32).values()
    found, small = pruner.progress(), pruner.finish()
    recalibrate_(small, batches)
    predicted = pruner.plan().predicted
    known = {
        "removed_at": predicted["removed_at"],
        "undecided_gates": predicted["undecided"],
        "worth_of_blocks_left": [asdict(each) for each in worth],
        "blocks_worth_their_price": sum(each.gain >= each.price for each in worth),
        "blocks_surely_below_their_price": sum(each.is_below for each in worth),
    }
    macs = (1 - found.saved) * 3 * whole * steps
    return Trained(model=small, macs=macs, seconds=seconds, removed=pruner.removed, known=known)


def then_pruned(model: nn.Module, seed: int, batches: ReshuffledBatches, steps: int, at: int) -> Trained:
    """Return the network that is trained whole for some steps, pruned by SGLP, and trained on."""
    whole = count_macs(model, EXAMPLE).total
    seconds = trained(model, batches, seed, at)
    begun = time.perf_counter()
    choose = [next(iter(batches)) for _ in range(16)]
    plan = make_plan(model.eval(), choose, method="sglp", budget=BUDGET, example=EXAMPLE, journal=Journal())
    small = apply(model, plan).train()
    choosing = time.perf_counter() - begun
    seconds += choosing + trained(small, batches, seed + 1000, steps - at)
    macs = 3.0 * (whole * at + count_macs(small, EXAMPLE).total * (steps - at))
    known = {"steps_whole": at, "seconds_choosing": choosing}
    return Trained(model=small, macs=macs, seconds=seconds, removed=plan.removed, known=known)


def told(
    way: str, seed: int, found: Trained, batches: ReshuffledBatches, steps: int, judge: Batches
) -> dict[str, Any]:
    """Return the figures of one run."""
    recalibrate_(found.model, batches)
    whole, model = network(seed).eval(), found.model.eval()
    latency = measure_latency({"whole": whole, "left": model}, torch.zeros(32, 1, 28, 28))
    quality = evaluate_quality(model, judge)
    return {
        "way": way,
        "seed": seed,
        "accuracy": quality["accuracy"],
        "loss": quality["loss"],
        "blocks": 14 - len(found.removed),
        "removed": list(found.removed),
        "macs": count_macs(model, EXAMPLE).total / count_macs(whole, EXAMPLE).total,
        "params": count_params(model),
        "latency": latency["left"].quickest / latency["whole"].quickest,
        "training_macs": found.macs / (3 * count_macs(whole, EXAMPLE).total * steps),
        "seconds": found.seconds,
        **found.known,
    }


def figures(ways: list[str], seeds: list[int], count: int, epochs: int) -> Iterator[dict[str, Any]]:
    """Yield what is known after every run."""
    images, labels = pictures("train")
    judge = batched(*pictures("t10k"), 500)
    batches = ReshuffledBatches(batched(images[:count], labels[:count], BATCH))
    steps = epochs * len(batches)
    known = {
        "data": "Fashion-MNIST" if FASHION.is_dir() else "MNIST",
        "images": count,
        "epochs": epochs,
        "recipe": asdict(recipe(0, steps)),
        "threads": torch.get_num_threads(),
        "budget": BUDGET,
    }
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        before: Trained | None = None
        for way in ways:
            found = run(way, seed, batches, steps, before)
            before = found if way == "concurrent" else before
            rows.append(told(way, seed, found, batches, steps, judge))
            yield {**known, "means": means(rows, FIGURES), "rows": rows}


def main() -> None:
    """Run the ways and write their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--output", help="file for the figures")
    options = parser.parse_args()
    for found in figures(options.ways, options.seeds, options.images, options.epochs):
        report("concurrent_training", found, options.output)


if __name__ == "__main__":
    main()
