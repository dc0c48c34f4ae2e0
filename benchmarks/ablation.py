"""What each part of the method `best` is worth: the loss of what is chosen without it, and what it costs.

    python benchmarks/ablation.py            about an hour on two cores the first time
    python benchmarks/ablation.py --count 9  one number of removed blocks

ResNet-56 on CIFAR-10 (lossless images): 500 test images choose, the 500 others judge, and the other
way round, no healing. Losses are kept in `benchmarks/cache/`, so that a second run is quick; the cost
of a variant is the number of losses that it would measure by itself.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import mean
from typing import Any

from inputs import CACHE, batched, cifar, trained_resnet56
from reporting import report

from shoal.architectures import find_units
from shoal.budget import Budget
from shoal.calling import first_sample, split_batch
from shoal.importance import SkipLosses
from shoal.journal import Journal
from shoal.methods import Request, get, settings_for

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "best": ("best", {}),
    "only single units measured": ("best", {"longest_run": 1}),
    "runs of three measured": ("best", {"longest_run": 3}),
    "without greedy search": ("best", {"greedy": False}),
    "greedy search measures all again": ("best", {"lazy": 0.0}),
    "without exchanges": ("best", {"exchanges": 0}),
    "only exchanges": ("best", {"longest_run": 1, "greedy": False}),
    "a third of the patience": ("best", {"patience": 1}),
    "twice the patience": ("best", {"patience": 6}),
    "search on all data": ("best", {"held_out": 0.0}),
    "search on half of the data": ("best", {"held_out": 0.5}),
    "one finalist": ("best", {"finalists": 1}),
    "greedy": ("greedy", {}),
    "sleb": ("sleb", {}),
    "sglp": ("sglp", {}),
    "perplexity": ("perplexity", {}),
}


def request_for(model: Any, batches: list[Any], count: int, journal: Journal) -> Request:
    """Return the request to remove so many blocks."""
    example = first_sample(split_batch(batches[0])[0])
    chain = find_units(model, example)
    budget = Budget.parse(f"units={len(chain) - count}")
    return Request(model=model, chain=chain, batches=batches, example=example, budget=budget, journal=journal)


def cost(request: Request) -> Callable[[], float]:
    """Return a function that says how many losses were asked for since, in passes over all the data."""
    made: list[SkipLosses] = []
    build = SkipLosses.__init__

    def noted(self: SkipLosses, *args: Any, **kwargs: Any) -> None:
        build(self, *args, **kwargs)
        made.append(self)

    SkipLosses.__init__ = noted  # type: ignore[method-assign]

    def total() -> float:
        SkipLosses.__init__ = build  # type: ignore[method-assign]
        whole = len(list(request.batches))
        return sum(len(each.asked) * len(list(each.batches)) / whole for each in made)

    return total


def main() -> None:
    """Choose with every variant, judge on the other half, and write the figures as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, action="append", help="blocks to remove; 3, 6, 9 and 12")
    parser.add_argument("--output", help="the JSON file; benchmarks/results/ablation.json otherwise")
    options = parser.parse_args()
    images, labels = cifar("test", 1000)
    halves = [batched(images[a : a + 500], labels[a : a + 500], 63) for a in (0, 500)]
    model, counts = trained_resnet56(), options.count or [3, 6, 9, 12]
    journal = Journal(CACHE / "ablation.jsonl")
    rows: dict[str, Any] = {}
    for name, (method, settings) in VARIANTS.items():
        cells = {}
        for count in counts:
            losses, costs, removed = [], [], []
            for half in (0, 1):
                request = request_for(model, halves[half], count, journal)
                judge = request_for(model, halves[1 - half], count, journal).losses
                spent = cost(request)
                plan = get(method).choose(request, settings_for(get(method), settings))
                costs.append(spent())
                losses.append(judge(plan.removed))
                removed.append(list(plan.removed))
            cells[str(count)] = {
                "losses": losses,
                "mean": mean(losses),
                "measured": costs,
                "removed": removed,
            }
            told = " ".join(f"{loss:.4f}" for loss in losses)
            print(f"{name:34s} {count:3d}  {told}  measured {costs[0]:.0f} {costs[1]:.0f}", flush=True)
        rows[name] = cells
        report("ablation", {"images": [500, 500], "variants": rows}, options.output)


if __name__ == "__main__":
    main()
