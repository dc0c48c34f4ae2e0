"""Which units each way of choosing removes, and what is lost, with no healing.

    python benchmarks/selection.py resnet56     about 40 minutes on two cores
    python benchmarks/selection.py smollm2      about 40 minutes on two cores

Units are chosen on one part of held-out data and judged on another; neither was trained on.
ResNet-56: 500 + 500 CIFAR-10 test images, both ways round. SmolLM2: 1,536 tokens of wikitext-2 to
choose on, 2,048 others to judge. Losses are cross-entropy, in nats (a token, for text).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from functools import partial
from random import Random
from statistics import mean, median, stdev
from typing import Any

import torch
from inputs import batched, cifar, smollm2, trained_resnet56, windows
from reporting import report
from torch import nn

from shoal.architectures import find_units
from shoal.budget import Budget
from shoal.calling import first_sample, split_batch
from shoal.importance import SkipLosses, collect_evidence
from shoal.methods import Request, get, settings_for
from shoal.result import Evidence
from shoal.units import Chain

Removed = tuple[int, ...]
DRAWS = 20
SCORES = ("drop_estimate", "mean_abs_saving", "gradnorm", "output_gradnorm", "block_influence")


class Choices:
    """The ways of choosing, on one part of the data; what is dear is measured once."""

    def __init__(self, model: nn.Module, chain: Chain, batches: list[Any]) -> None:
        self.model, self.chain, self.batches = model, chain, batches
        self.losses = SkipLosses(model, chain, batches)
        self.evidence: Evidence | None = None
        self._greedy: list[int] = []

    def sglp(self, count: int, preset: str | None = None, **settings: Any) -> Removed:
        """SGLP under a budget of units."""
        method = get("sglp")
        request = Request(
            model=self.model,
            chain=self.chain,
            batches=self.batches,
            example=first_sample(split_batch(self.batches[0])[0]),
            budget=Budget.parse(f"units={len(self.chain) - count}"),
            evidence=None if preset else self.evidence,
        )
        request.losses = self.losses
        plan = method.choose(request, settings_for(method, settings, preset))
        self.evidence = self.evidence or (None if preset else request.evidence)
        return plan.removed

    def ways(self, subsets: int) -> dict[str, Callable[[int], Removed]]:
        """The deterministic ways of choosing so many units, by name."""
        ways: dict[str, Callable[[int], Removed]] = {
            "sglp": self.sglp,
            "sglp without exchanges": partial(self.sglp, exchanges=0),
            "sum of single losses": self.single,
            "greedy": self.greedy,
            "uniform": self.uniform,
            "last": self.last,
            **{name: partial(self.by_score, name) for name in SCORES},
        }
        if subsets:
            ways[f"sglp paper, {subsets} subsets"] = partial(self.sglp, preset="paper", most_subsets=subsets)
        return ways

    def judged(self, way: Callable[[int], Removed], count: int, judge: SkipLosses) -> dict[str, Any]:
        """What a way removes, what is lost on both parts, and how many losses were measured for it."""
        before = self.losses.measured
        removed = way(count)
        return {
            "removed": list(removed),
            "measured": self.losses.measured - before,
            "loss_chosen_on": self.losses(removed),
            "loss": judge(removed),
        }

    def by_score(self, name: str, count: int) -> Removed:
        """The units of lowest score by one backward pass."""
        if self.evidence is None:
            self.evidence = collect_evidence(self.model, self.chain, self.batches)
        return self.lowest(self.evidence.importance[name], count)

    def lowest(self, scores: Iterable[float], count: int) -> Removed:
        """The units of lowest score."""
        ranked = sorted(zip(scores, range(len(self.chain)), strict=True))
        return tuple(sorted([index for _, index in ranked if index in self.chain.removable][:count]))

    def single(self, count: int) -> Removed:
        """The units whose removal alone costs least."""
        alone = dict(
            zip(self.chain.removable, self.losses.of([(i,) for i in self.chain.removable]), strict=True)
        )
        return self.lowest([alone.get(index, 0.0) for index in range(len(self.chain))], count)

    def greedy(self, count: int) -> Removed:
        """Remove what costs least, measure all others again, and so on."""
        while len(self._greedy) < count:
            rest = [index for index in self.chain.removable if index not in self._greedy]
            losses = self.losses.of([(*self._greedy, index) for index in rest])
            self._greedy.append(min(zip(losses, rest, strict=True))[1])
        return tuple(sorted(self._greedy[:count]))

    def uniform(self, count: int) -> Removed:
        """Every so-manieth removable unit."""
        free = self.chain.removable
        return tuple(free[int((i + 0.5) * len(free) / count)] for i in range(count))

    def last(self, count: int) -> Removed:
        """The last units before the final one."""
        return self.chain.removable[-1 - count : -1]

    def random(self, count: int, seed: int) -> Removed:
        """A draw."""
        return tuple(sorted(Random(seed).sample(self.chain.removable, count)))


def study(
    model: nn.Module, chosen_on: list[Any], judged_on: list[Any], counts: list[int], subsets: int
) -> dict[str, Any]:
    """Return what every way of choosing removes and the loss on the other part of the data.

    The paper's preset is left out where no `subsets` of a segment are to be grafted.
    """
    chain = find_units(model, first_sample(split_batch(chosen_on[0])[0]))
    choices, judge = Choices(model, chain, chosen_on), SkipLosses(model, chain, judged_on)
    ways = choices.ways(subsets)
    rows: dict[str, Any] = {}
    for count in counts:
        row: dict[str, Any] = {name: choices.judged(way, count, judge) for name, way in ways.items()}
        draws = [judge(choices.random(count, seed)) for seed in range(DRAWS)]
        row["random"] = {
            "losses": draws,
            "median": median(draws),
            "mean": mean(draws),
            "deviation": stdev(draws),
        }
        rows[str(count)] = row
        for name in ways:
            print(f"{count:3d} {name:28s} {row[name]['loss']:8.3f}  {row[name]['removed']}", flush=True)
        print(f"{count:3d} {f'random, median of {DRAWS}':28s} {median(draws):8.3f}", flush=True)
    return {
        "units": len(chain),
        "loss_whole": judge(),
        "loss_whole_chosen_on": choices.losses(),
        "removed": rows,
    }


def resnet56(paper: bool) -> dict[str, Any]:
    """ResNet-56 on CIFAR-10 test images, both ways round."""
    images, labels = cifar("test", 1000)
    halves = [batched(images[a : a + 500], labels[a : a + 500], 125) for a in (0, 500)]
    model, counts = trained_resnet56(), [3, 6, 9, 12]
    return {
        "first half chooses": study(model, halves[0], halves[1], counts, 16 * paper),
        "second half chooses": study(model, halves[1], halves[0], counts, 0),
    }


def smollm2_135m(paper: bool) -> dict[str, Any]:
    """SmolLM2-135M-Instruct on wikitext-2 validation, windows of 512 tokens."""
    loaded = smollm2()
    parts = [
        [{"input_ids": torch.cat(ids[i : i + 2])} for i in range(0, len(ids), 2)]
        for ids in (
            windows(loaded, "wikitext-2-valid.txt", count=count, length=512, skip=skip)
            for count, skip in ((3, 0), (4, 3))
        )
    ]
    return {"first part chooses": study(loaded.model, parts[0], parts[1], [3, 6], 4 * paper)}


PARTS = {"resnet56": resnet56, "smollm2": smollm2_135m}


def main() -> None:
    """Run one part and print its figures as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--no-paper", action="store_true", help="leave out the paper's preset, which is slow")
    parser.add_argument(
        "--output", help="the JSON file; benchmarks/results/selection-PART.json where it is left out"
    )
    options = parser.parse_args()
    figures = PARTS[options.part](not options.no_paper)
    report(f"selection-{options.part}", figures, options.output)


if __name__ == "__main__":
    main()
