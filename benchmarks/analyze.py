"""What the evidence pass costs beside a bare forward and backward pass over the same batches.

    python benchmarks/analyze.py                    all parts, about twelve minutes on two cores
    python benchmarks/analyze.py --part resnet56    one part

Ratios are of medians; the two passes take turns in one run. Memory is the peak of tensor storage
beyond what was held before, over two batches.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from itertools import combinations
from statistics import median
from typing import Any

import numpy as np
import torch
from inputs import batched, cifar, smollm2, trained_resnet56, windows
from reporting import report
from torch import Tensor, nn

from shoal.activations import watching
from shoal.architectures import find_units
from shoal.calling import call, evaluating, split_batch
from shoal.importance import collect_evidence
from shoal.measurement import peak_memory, sample_losses
from shoal.planners import cheapest_removal
from shoal.similarity import SimilaritySums
from shoal.tables import ImportanceTable
from shoal.units import Segment


def bare_pass(model: nn.Module, batches: list[Any]) -> None:
    """Go forward and backward over the batches and do nothing with it."""
    with evaluating(model):
        for batch in batches:
            inputs, labels = split_batch(batch)
            model.zero_grad()
            losses = sample_losses(call(model, inputs), inputs, labels, causal=labels is None)
            if losses is None:
                raise SystemExit("the batches have no labels and the model is no language model.")
            losses.sum().backward()
        model.zero_grad()


def take_turns(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of every call, the functions taking turns."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def compare_passes(model: nn.Module, batches: list[Any], rounds: int) -> dict[str, Any]:
    """Return seconds and memory of the bare pass and of the evidence pass, and their ratios."""
    chain = find_units(model, split_batch(batches[0])[0])
    passes = {
        "bare": lambda: bare_pass(model, batches),
        "evidence": lambda: collect_evidence(model, chain, batches),
    }
    bare_pass(model, batches[:1])
    collect_evidence(model, chain, batches[:1])
    seconds = take_turns(passes, rounds)
    few = batches[:2]
    memory = {
        "bare": peak_memory(lambda: bare_pass(model, few)),
        "evidence": peak_memory(lambda: collect_evidence(model, chain, few)),
    }
    ratios = [new / old for old, new in zip(seconds["bare"], seconds["evidence"], strict=True)]
    return {
        "units": len(chain),
        "seconds": seconds,
        "time_ratio": median(seconds["evidence"]) / median(seconds["bare"]),
        "time_ratio_by_round": ratios,
        "peak_bytes": memory,
        "memory_ratio": (memory["evidence"] or 0) / (memory["bare"] or 1),
    }


def resnet56(rounds: int) -> dict[str, Any]:
    """2,048 CIFAR-10 images, batches of 128."""
    images, labels = cifar("train", 2048)
    return {
        "images": 2048,
        "batch": 128,
        **compare_passes(trained_resnet56(), batched(images, labels, 128), rounds),
    }


def smollm2_135m(rounds: int) -> dict[str, Any]:
    """32 × 512 tokens of wikitext-2, batches of 4."""
    loaded = smollm2()
    ids = windows(loaded, "wikitext-2-valid.txt", count=32, length=512)
    batches = [{"input_ids": torch.cat(ids[i : i + 4])} for i in range(0, 32, 4)]
    return {"tokens": 32 * 512, "batch": 4, **compare_passes(loaded.model, batches, rounds)}


def released_hsic(x: Tensor, y: Tensor) -> Tensor:
    """HSIC as the released code computes it: both Gram matrices and both centrings, every time."""
    count = len(x)
    centring = torch.eye(count) - torch.ones(count, count) / count
    return torch.trace(x @ x.T @ centring @ (y @ y.T) @ centring) / (count - 1) ** 2


def similarity(rounds: int) -> dict[str, Any]:
    """500 images and the stem and 27 units of ResNet-56: all pairs at once against pair by pair."""
    model, (images, _) = trained_resnet56(), cifar("test", 500)
    chain = find_units(model, images[:1])
    with evaluating(model), torch.no_grad(), watching(model, chain) as boundaries:
        model(images)
        layers = [tensor.flatten(1) for tensor in boundaries.points()[0]]

    def at_once() -> np.ndarray:
        sums = SimilaritySums()
        for start in range(0, 500, 64):
            sums.update([layer[start : start + 64] for layer in layers])
        return sums.matrix()

    def by_pair() -> None:
        for x, y in combinations(layers, 2):
            released_hsic(x, y) / (released_hsic(x, x) * released_hsic(y, y)).sqrt()

    seconds = {
        **take_turns({"at_once": at_once}, max(rounds, 3)),
        **take_turns({"pair_by_pair": by_pair}, 1),
    }
    ratio = median(seconds["pair_by_pair"]) / median(seconds["at_once"])
    return {"images": 500, "layers": len(layers), "seconds": seconds, "times_faster": ratio}


def planner(rounds: int) -> dict[str, Any]:
    """200 units of uneven costs and savings, runs of up to 8, six segments, 40 % to be saved."""
    draw = np.random.default_rng(0)
    savings = draw.uniform(1, 2, 200)
    runs = [Segment(a, b) for a in range(200) for b in range(a + 1, min(a + 8, 200) + 1)]
    table = ImportanceTable(entries={run: float(draw.uniform(0, len(run))) for run in runs})
    cuts = [Segment(a, a + 40) for a in range(0, 200, 40)]
    need = 0.4 * float(savings.sum())
    seconds = take_turns(
        {"plan": lambda: cheapest_removal(table, savings.tolist(), need, length=200, segments=cuts)},
        max(rounds, 3),
    )
    return {"units": 200, "runs": len(runs), "seconds": seconds, "median_seconds": median(seconds["plan"])}


PARTS = {"resnet56": resnet56, "smollm2": smollm2_135m, "similarity": similarity, "planner": planner}


def main() -> None:
    """Run the parts that were asked for and print their figures as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=PARTS, action="append", help="one part; all where it is left out")
    parser.add_argument("--rounds", type=int, default=3, help="how often each pass is timed")
    parser.add_argument(
        "--output", help="the JSON file; benchmarks/results/analyze.json where it is left out"
    )
    options = parser.parse_args()
    report("analyze", {name: PARTS[name](options.rounds) for name in options.part or PARTS}, options.output)


if __name__ == "__main__":
    main()
