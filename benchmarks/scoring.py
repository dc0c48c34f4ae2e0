"""What scoring costs beside the plain way of doing it, as ratios in one run.

    python benchmarks/scoring.py                         all parts, about 20 minutes on two cores
    python benchmarks/scoring.py --part cka              one part
    python benchmarks/scoring.py --before CHECKOUT       the pass beside that of another checkout of shoal

- `cka`: a round of CKA scoring on ResNet-56 against L + 1 plain forward passes over the same images.
- `sleb`: 6 layers of SmolLM2 chosen by `sleb` and by exact greedy search with shared prefixes, against
  greedy search that runs the whole network for every candidate; all choose on the same text.
- `criteria`: the pass that takes all one-pass criteria, against the pass as another checkout takes it.

The ways take turns, nothing else should run. Ratios are of medians.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from inputs import batched, cifar, smollm2, trained_resnet56, windows
from reporting import report
from torch import nn

from shoal.architectures import bypassed, find_units
from shoal.budget import Budget
from shoal.calling import call, evaluating, first_sample, split_batch
from shoal.importance import collect_evidence
from shoal.measurement import is_causal, sample_losses
from shoal.methods import Request, get, settings_for
from shoal.units import Chain


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds of a call, and what it returned."""
    start = time.perf_counter()
    found = function()
    return time.perf_counter() - start, found


def cka(rounds: int) -> dict[str, Any]:
    """1,000 CIFAR-10 images in batches of 125."""
    # Other checkouts, which `criteria` times, may not have it.
    from shoal.importance import RepresentationChange

    model, batches = trained_resnet56(), batched(*cifar("test", 1000), 125)
    chain = find_units(model, batches[0][0][:1])
    passes = len(chain.removable) + 1

    def plain() -> None:
        with evaluating(model), torch.no_grad():
            for _ in range(passes):
                for images, _ in batches:
                    model(images)

    def scored() -> list[float]:
        change = RepresentationChange(model, chain, batches)
        return list(change.of([(index,) for index in chain.removable]))

    seconds: dict[str, list[float]] = {"plain": [], "cka": []}
    scored()
    for _ in range(rounds):
        seconds["plain"].append(timed(plain)[0])
        seconds["cka"].append(timed(scored)[0])
    ratio = median(seconds["cka"]) / median(seconds["plain"])
    return {
        "images": 1000,
        "candidates": len(chain.removable),
        "passes": passes,
        "seconds": seconds,
        "ratio": ratio,
    }


def plain_greedy(model: nn.Module, chain: Chain, batches: list[Any], count: int) -> tuple[int, ...]:
    """Greedy search as it is usually written: the network without each candidate runs from end to end."""

    def loss(removed: tuple[int, ...]) -> float:
        total, samples = 0.0, 0
        with bypassed(model, chain, removed):
            for batch in batches:
                inputs, labels = split_batch(batch)
                losses = sample_losses(call(model, inputs), inputs, labels, causal=is_causal(model))
                if losses is None:
                    raise SystemExit("there is nothing to compute a loss from.")
                total, samples = total + float(losses.double().sum()), samples + len(losses)
        return total / samples

    gone: tuple[int, ...] = ()
    with evaluating(model), torch.no_grad():
        for _ in range(count):
            sets = [tuple(sorted((*gone, unit))) for unit in chain.removable if unit not in gone]
            gone = min((loss(units), units) for units in sets)[1]
    return gone


def sleb(rounds: int) -> dict[str, Any]:
    """6 of 30 layers, on 512 tokens of wikitext-2; one round, as it takes long."""
    loaded = smollm2()
    ids = windows(loaded, "wikitext-2-valid.txt", count=1, length=512)
    model, batches = loaded.model, [{"input_ids": torch.cat(ids)}]
    chain = find_units(model, first_sample(batches[0]))

    def by(method: str) -> tuple[int, ...]:
        budget = Budget.parse(f"units={len(chain) - 6}")
        request = Request(
            model=model, chain=chain, batches=batches, example=first_sample(batches[0]), budget=budget
        )
        return get(method).choose(request, settings_for(get(method))).removed

    ways: dict[str, Callable[[], tuple[int, ...]]] = {
        "plain greedy": lambda: plain_greedy(model, chain, batches, 6),
        "greedy": lambda: by("greedy"),
        "sleb": lambda: by("sleb"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    removed: dict[str, list[int]] = {}
    for _ in range(min(rounds, 1)):
        for name, way in ways.items():
            spent, found = timed(way)
            seconds[name].append(spent)
            removed[name] = list(found)
            print(name, f"{spent:.0f} s", found, flush=True)
    plain = median(seconds["plain greedy"])
    return {
        "tokens": 512,
        "removed": removed,
        "seconds": seconds,
        "ratio": {name: median(seconds[name]) / plain for name in ("greedy", "sleb")},
        "same_layers": {name: removed[name] == removed["plain greedy"] for name in ("greedy", "sleb")},
    }


def one_pass() -> None:
    """Time one pass over 1,024 images in this process, after one to warm up; for `criteria`."""
    model, batches = trained_resnet56(), batched(*cifar("train", 1024), 128)
    chain = find_units(model, batches[0][0][:1])
    collect_evidence(model, chain, batches[:2])
    seconds, evidence = timed(lambda: collect_evidence(model, chain, batches))
    print(json.dumps({"seconds": seconds, "scores": sorted(evidence.importance)}))


def criteria(rounds: int, before: Path) -> dict[str, Any]:
    """The pass of this checkout and that of another, each in a process of its own, in turns."""
    here = Path(__file__).resolve().parent.parent
    seconds: dict[str, list[float]] = {"before": [], "now": []}
    scores: dict[str, list[str]] = {}
    for _ in range(rounds):
        for name, checkout in (("before", before), ("now", here)):
            environment = {**os.environ, "PYTHONPATH": str(checkout / "src")}
            command = [sys.executable, str(Path(__file__).resolve()), "--one-pass"]
            run = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
            found = json.loads(run.stdout.splitlines()[-1])
            seconds[name].append(found["seconds"])
            scores[name] = found["scores"]
    ratio = median(seconds["now"]) / median(seconds["before"])
    return {"images": 1024, "scores": scores, "seconds": seconds, "ratio": ratio}


def main() -> None:
    """Run the parts that were asked for and print their figures as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=("cka", "sleb", "criteria"), action="append")
    parser.add_argument("--rounds", type=int, default=3, help="how often each way is timed")
    parser.add_argument("--before", type=Path, help="another checkout, for `criteria`")
    parser.add_argument("--one-pass", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--output", help="the JSON file; benchmarks/results/scoring.json otherwise")
    options = parser.parse_args()
    if options.one_pass:
        one_pass()
        return
    parts = options.part or ["cka", "sleb", *(["criteria"] if options.before else [])]
    figures: dict[str, Any] = {}
    for part in parts:
        if part == "criteria":
            if options.before is None:
                raise SystemExit(
                    "criteria needs --before CHECKOUT, such as a git worktree of an older commit."
                )
            figures[part] = criteria(options.rounds, options.before)
        else:
            figures[part] = {"cka": cka, "sleb": sleb}[part](options.rounds)
        report("scoring", figures, options.output)


if __name__ == "__main__":
    main()
