"""Every method and control on one network at three budgets, before healing and after equal healing.

    python benchmarks/dense.py                  first: the ResNet-56 that is compared on
    python benchmarks/compare.py resnet56       about an hour on two cores
    python benchmarks/compare.py smollm2        about two hours on two cores
    python benchmarks/compare.py resnet56 --stage latency     then, on a quiet machine

- `resnet56`: 6, 9 and 12 of 27 blocks out; JPEG-compressed CIFAR-10: 1,000 test images choose, 4,000
  others judge; healing is one epoch of 5,000 training images.
- `smollm2`: 3, 6 and 9 of 30 layers out; wikitext-2, windows of 256 tokens from all over the text: 6
  choose, 12 others judge, healing is four steps of one other window each. SGLP and best exchange 32
  times at most, and CKA pruning removes 3 layers a round.

Stages: `choose` (no healing), `heal`, `latency`, `again` (judged on six windows of 512 tokens that follow
each other, without healing; for text); the first two where none is named. All that is measured
is kept in `benchmarks/cache/`, so that a run that stopped goes on. Losses are cross-entropy in nats (a
token, for text).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from inputs import CACHE, batched, jpeg_cifar, smollm2, spread_windows, tuned_resnet56, windows
from reporting import RESULTS, report
from torch import nn

from shoal import Comparison, apply, compare
from shoal.architectures import find_units
from shoal.calling import first_sample, split_batch
from shoal.importance import SkipLosses
from shoal.journal import Journal
from shoal.measurement import measure_latency
from shoal.methods import names
from shoal.training import HealSettings

SEEDS = 3


class Case:
    """A network with its data: to choose by, to judge by, to heal on."""

    def __init__(
        self, model: nn.Module, units: list[int], data: tuple[list[Any], list[Any], list[Any]], told: str
    ) -> None:
        self.model, self.units, self.told = model, units, told
        self.settings: dict[str, dict[str, Any]] = {}
        self.heal = HealSettings(epochs=1)
        self.again: list[Any] = []
        self.unhealed: tuple[str, ...] = ()
        self.choose, self.judge, self.train = data
        self.example = first_sample(split_batch(self.choose[0])[0])


def resnet56() -> Case:
    """ResNet-56 at home on JPEG images."""
    images, labels = jpeg_cifar("test", 5000)
    parts = (
        batched(images[:1000], labels[:1000], 125),
        batched(images[1000:], labels[1000:], 250),
        batched(*jpeg_cifar("train", 5000), 128),
    )
    told = "CIFAR-10 (JPEG): 1,000 test images choose, 4,000 judge, 5,000 training images heal"
    return Case(tuned_resnet56(), [21, 18, 15], parts, told)


def smollm2_135m() -> Case:
    """SmolLM2-135M-Instruct."""
    loaded = smollm2()
    ids = spread_windows(loaded, "wikitext-2-valid.txt", count=26, length=256)
    parts = [[{"input_ids": window} for window in ids[a:b]] for a, b in ((0, 6), (6, 18), (18, 26))]
    told = (
        "wikitext-2, windows of 256 tokens from all over the text: 6 choose, 12 judge, 4 heal; "
        "exchanges=32 for sglp and best, per_round=3 for cka"
    )
    case = Case(loaded.model, [27, 24, 21], (parts[0], parts[1], parts[2]), told)
    # So that all methods together take hours, not a day.
    case.settings = {"sglp": {"exchanges": 32}, "best": {"exchanges": 32}, "cka": {"per_round": 3}}
    case.heal = HealSettings(max_steps=4)
    # Four steps teach random weights nothing.
    case.unhealed = ("scratch",)
    # Windows that follow each other, as texts are often judged.
    following = windows(loaded, "wikitext-2-valid.txt", count=6, length=512, skip=6)
    case.again = [{"input_ids": window} for window in following]
    return case


CASES = {"resnet56": resnet56, "smollm2": smollm2_135m}


def compared(name: str, case: Case, *, heal: HealSettings | None) -> Comparison:
    """Return the comparison; what the cache holds is not done again."""
    return compare(
        case.model,
        case.choose,
        budgets=[f"units={count}" for count in case.units],
        evaluation=case.judge,
        example=case.example,
        methods=[name for name in names() if heal is None or name not in case.unhealed],
        settings=case.settings,
        heal=heal,
        heal_batches=case.train,
        seeds=SEEDS,
        latency=False,
        journal=Journal(CACHE / f"compare-{name}.jsonl"),
    )


def figures(comparison: Comparison) -> dict[str, Any]:
    """Return how all methods stand, without the losses of single samples."""
    original = comparison.original
    budgets: dict[str, Any] = {}
    for budget in comparison.budgets:
        rows = {}
        for standing in comparison.standings(budget):
            told = standing.as_json()
            if "accuracy" in standing.rows[0].quality:
                told["accuracy"] = standing.mean("accuracy")
            told["removed"] = [list(row.plan.removed) for row in standing.rows]
            told["asked"] = dict(standing.rows[0].asked)
            told["seconds_choosing"] = standing.rows[0].seconds
            rows[told.pop("method")] = told
        budgets[budget] = rows
    whole = {"loss": original.mean("loss"), "spread": original.spread("loss")}
    if "accuracy" in original.rows[0].quality:
        whole["accuracy"] = original.mean("accuracy")
    failed = [f"{each.method} at {each.budget}: {each.reason}" for each in comparison.failures]
    return {"whole": whole, "budgets": budgets, "failures": failed, "settings": dict(comparison.settings)}


def latencies(name: str, case: Case) -> dict[str, Any]:
    """Return every network's latency as a share of the whole one's, measured in turns with it."""
    comparison = compared(name, case, heal=None)
    example = torch.cat([case.example] * 64) if isinstance(case.example, torch.Tensor) else case.choose[0]
    ratios: dict[str, float] = {}
    for row in comparison.rows:
        key = ",".join(map(str, row.plan.removed))
        if key not in ratios:
            timings = measure_latency({"whole": case.model, "cut": apply(case.model, row.plan)}, example)
            ratios[key] = timings["cut"].median / timings["whole"].median
    return {"ratios": ratios}


def judged_again(name: str, case: Case) -> dict[str, Any]:
    """Return the losses of all networks without healing on other samples, which follow each other."""
    comparison = compared(name, case, heal=None)
    chain = find_units(case.model, case.example)
    losses = SkipLosses(case.model, chain, case.again)
    budgets: dict[str, dict[str, list[float]]] = {budget: {} for budget in comparison.budgets}
    rows = [row for row in comparison.rows if not row.own_weights]
    found = losses.of([(), *(row.plan.removed for row in rows)])
    for row, loss in zip(rows, found[1:], strict=True):
        budgets[row.budget].setdefault(row.method, []).append(loss)
    return {"whole": found[0], "losses": budgets}


def main() -> None:
    """Run the stages and keep their figures as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--stage", choices=("choose", "heal", "latency", "again"), action="append")
    parser.add_argument("--threads", type=int, help="threads of torch; all cores where it is left out")
    parser.add_argument("--output", help="the JSON file; benchmarks/results/compare-CASE.json otherwise")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    path = Path(options.output or RESULTS / f"compare-{options.case}.json")
    known = json.loads(path.read_text()).get("stages", {}) if path.is_file() else {}
    case = CASES[options.case]()
    for stage in options.stage or ("choose", "heal"):
        begun = time.perf_counter()
        if stage == "latency":
            known[stage] = latencies(options.case, case)
        elif stage == "again":
            known[stage] = judged_again(options.case, case)
        else:
            heal = case.heal if stage == "heal" else None
            known[stage] = figures(compared(options.case, case, heal=heal))
        known[stage]["seconds"] = time.perf_counter() - begun
        report(f"compare-{options.case}", {"data": case.told, "stages": known}, str(path))


if __name__ == "__main__":
    main()
