"""Training and pruning at once on transformers, beside what else ends at the same size.

    python benchmarks/concurrent_transformers.py                     every way, three seeds
    python benchmarks/concurrent_transformers.py --ways dense concurrent --seeds 0

A decoder: a Llama of 8 layers (width 64, 4 heads) that reads bytes, from fresh weights, on 1.6 MB of
TinyStories. All are trained by the same recipe for the same number of steps:

- `dense`: the whole network.
- `concurrent`: a gate on every layer, `units=4`.
- `scratch`: the network that `concurrent` of the same seed ended with, from fresh weights.
- `random`: random layers go at the step with which training takes the compute of `concurrent` of the seed.
- `drop`: stochastic depth; gates stay where those of `concurrent` begin, and no layer leaves.
- `concurrent-sublayer`, `scratch-sublayer`: a gate on every attention and every MLP, `macs=0.5`.

An encoder: all-MiniLM-L6-v2, 6 layers, trained, is tuned to say from which third of its story a sentence is.

- `encoder-dense`, `encoder-concurrent` (`units=3`), `encoder-random`: as above.
- `encoder-kept`: the layers that `encoder-concurrent` kept, without the others from the first step on.
- `encoder-first`: the first three layers, likewise.

Losses are in nats a byte, or a sentence, on stories that training has not seen. Training compute counts
forward and backward passes, and what asking units has cost, in MACs.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import cache
from typing import Any

import torch
from reporting import report
from text_cases import Case, decoder, encoder
from torch import Tensor, nn
from ways import LeftOut, Trained, means, random_units

from shoal import Plan, apply, find_units
from shoal.calling import call
from shoal.measurement import batch_loss, count_macs, count_params, evaluate_quality, is_causal
from shoal.training import ConcurrentPruner, ConcurrentSettings, fit
from shoal.units import Chain, Granularity

DECODER = ("dense", "concurrent", "scratch", "random", "drop", "concurrent-sublayer", "scratch-sublayer")
ENCODER = ("dense", "concurrent", "kept", "first", "random")
WAYS = (*DECODER, *(f"encoder-{way}" for way in ENCODER))
# How often gates and price are told.
POINTS = 20


class Training:
    """One training of one case.

    Args:
        case: What is trained, and how.
        seed: Of weights, order and gates.
        kind: What the units are.
    """

    def __init__(self, case: Case, seed: int, kind: Granularity) -> None:
        self.case, self.seed = case, seed
        self.model, self.kind = case.network(seed), kind
        self.chain: Chain = find_units(self.model, case.example, granularity=kind)
        self.whole = 3.0 * self.chain.macs * case.steps

    def fit(self, model: nn.Module, pruner: Any = None) -> float:
        """Train a network in place, and return the seconds it took."""
        begun = time.perf_counter()
        recipe = replace(self.case.recipe, seed=self.seed)
        fit(model, self.case.batches, recipe, objective=objective, pruner=pruner)
        return time.perf_counter() - begun

    def dense(self) -> Trained:
        """Return the whole network."""
        return Trained(model=self.model, macs=self.whole, seconds=self.fit(self.model))

    def concurrent(self) -> Trained:
        """Return what gates leave of it."""
        pruner = ConcurrentPruner(
            self.model,
            self.case.example,
            steps=self.case.steps,
            budget=self.case.budgets[self.kind],
            settings=ConcurrentSettings(seed=self.seed),
            granularity=self.kind,
        )
        seconds = self.fit(self.model, pruner)
        pruner.worth(self.case.batches, most_batches=32)
        macs = (1 - pruner.progress().saved) * self.whole
        return Trained(
            model=pruner.finish(), macs=macs, seconds=seconds, removed=pruner.removed, known=course(pruner)
        )

    def shallow(self, removed: tuple[int, ...]) -> Trained:
        """Return the network that is trained without some units from the first step on."""
        model = apply(self.case.network(self.seed + 1000), Plan.removing(self.chain, removed))
        macs = 3.0 * count_macs(model, self.case.example).total * self.case.steps
        return Trained(model=model, macs=macs, seconds=self.fit(model), removed=removed)

    def dropped(self) -> Trained:
        """Return the whole network after steps that each go without some layers."""
        draw, shut = random.Random(self.seed), 1 - ConcurrentSettings().start
        left_out = LeftOut(
            self.model, self.chain, lambda _: [unit for unit in self.chain.removable if draw.random() < shut]
        )
        seconds = self.fit(self.model, left_out)
        left_out.close()
        return Trained(model=self.model, macs=left_out.macs, seconds=seconds)

    def cut_at_random(self, compute: float) -> Trained:
        """Return the network that loses random units at once, when that takes so much training compute."""
        gone = random_units(self.chain, self.case.budgets[self.kind], self.seed)
        share = 1 - sum(self.chain[index].macs for index in gone) / self.chain.macs
        at = round(self.case.steps * (compute / self.whole - share) / (1 - share))
        left_out = LeftOut(self.model, self.chain, lambda step: gone if step > at else ())
        seconds = self.fit(self.model, left_out)
        left_out.close()
        model = apply(self.model, Plan.removing(self.chain, gone))
        return Trained(model=model, macs=left_out.macs, seconds=seconds, removed=gone, known={"cut_at": at})

    def told(self, found: Trained) -> dict[str, Any]:
        """Return the figures of a network."""
        whole = self.case.network(self.seed)
        quality = evaluate_quality(found.model, self.case.judge)
        return {
            "loss": quality["loss"],
            "accuracy": quality.get("accuracy"),
            "units": len(self.chain) - len(found.removed),
            "removed": [self.chain[index].name for index in found.removed],
            "macs": count_macs(found.model, self.case.example).total / self.chain.macs,
            "params": count_params(found.model) / count_params(whole),
            "training_macs": found.macs / self.whole,
            "seconds": found.seconds,
            **found.known,
        }


def course(pruner: ConcurrentPruner) -> dict[str, Any]:
    """Return when units left, what the others are worth, and gates and price until all were settled."""
    trace, predicted = pruner.trace, pruner.plan().predicted
    settled = max(predicted["removed_at"].values(), default=pruner.steps)
    until = [point for point, step in enumerate(trace.steps) if step <= settled]
    points = until[:: -(-len(until) // POINTS)]
    theta = {unit.name: [trace.theta[point][unit.index] for point in points] for unit in pruner.chain}
    return {
        **{name: predicted[name] for name in ("removed_at", "gains", "worth", "undecided")},
        "steps": [trace.steps[point] for point in points],
        "price": [trace.price[point] for point in points],
        "theta": theta,
    }


def objective(model: nn.Module, inputs: dict[str, Tensor], labels: Tensor | None) -> Tensor:
    """Return the mean loss of a batch, of the bytes that follow or of labels."""
    loss = batch_loss(call(model, inputs), inputs, labels, causal=is_causal(model))
    if loss is None:
        raise SystemExit("there is nothing to compute a loss from.")
    return loss


def run(way: str, training: Training, before: Trained | None) -> Trained:
    """Return what one way comes to; `before` is `concurrent` of the same seed, case and kind of unit."""
    if way == "dense":
        return training.dense()
    if way == "concurrent":
        return training.concurrent()
    if way == "drop":
        return training.dropped()
    if way == "first":
        return training.shallow(tuple(range(len(training.chain) // 2, len(training.chain))))
    if before is None:
        raise SystemExit(f"{way} needs concurrent of the same seed and kind, before it among the ways.")
    return training.cut_at_random(before.macs) if way == "random" else training.shallow(before.removed)


def figures(ways: list[str], seeds: list[int]) -> Iterator[dict[str, Any]]:
    """Yield what is known after every run."""
    rows: list[dict[str, Any]] = []
    known: dict[str, Any] = {"threads": torch.get_num_threads(), "cases": {}}
    made = {"decoder": cache(decoder), "encoder": cache(encoder)}
    for seed in seeds:
        before: dict[tuple[str, Granularity], Trained] = {}
        for name in ways:
            where = "encoder" if name.startswith("encoder-") else "decoder"
            kind: Granularity = "sublayer" if name.endswith("-sublayer") else "block"
            way, case = name.removeprefix("encoder-").removesuffix("-sublayer"), made[where]()
            training = Training(case, seed, kind)
            found = run(way, training, before.get((where, kind)))
            if way == "concurrent":
                before[where, kind] = found
            known["cases"][where] = {"recipe": asdict(case.recipe), "budgets": case.budgets, **case.known}
            rows.append({"way": name, "seed": seed, **training.told(found)})
            names = ("loss", "accuracy", "units", "macs", "training_macs", "seconds")
            yield {**known, "means": means(rows, names), "rows": rows}


def main() -> None:
    """Run the ways and write their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--output", help="file for the figures")
    options = parser.parse_args()
    for found in figures(options.ways, options.seeds):
        report("concurrent_transformers", found, options.output)


if __name__ == "__main__":
    main()
