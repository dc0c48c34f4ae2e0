"""LayerMerge end to end on trained networks: predicted and measured latency, accuracy before and after.

    python benchmarks/layermerge.py resnet20     ResNet-20 on CIFAR-10
    python benchmarks/layermerge.py lite0        EfficientNet-Lite0 on 1,000 ImageNet images

Each at `latency=0.7` and `latency=0.5` of the network as it came, for batches of 1 and of 32. `layermerge` is
compared with `layer_only`, `depth_merge` and SGLP. The networks of all of them have their batch norms
folded when they are timed; SGLP removes as many blocks as bring its folded network down to the budget.
All are healed alike.

- `resnet20`: 300 lossless test images choose (the network has memorised those that it was trained on), the
  700 others judge; 4,000 training images heal. `layermerge-quick` measures entries by reconstruction.
- `lite0`: one image a class, so that healing on labels would teach some classes alone: 600 images heal, by
  the original's outputs, 192 of them choose; 400 others judge. Entries are measured by reconstruction, and
  `layermerge` searches segments that pass no stride, with kernels up to 5.

All that is measured is kept in `benchmarks/cache/`, so that a run that stopped goes on.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from inputs import CACHE, batched, cifar, efficientnet_lite0, imagenet_sample, trained_resnet20
from reporting import report
from torch import Tensor, nn

from shoal import Plan, find_units, make_plan
from shoal.errors import BudgetError
from shoal.journal import Journal
from shoal.measurement import count_macs, count_params, evaluate_quality, measure_latency
from shoal.surgery import apply, expand, fold, merge_layers
from shoal.surgery.certificate import certify
from shoal.training import HealSettings, heal

METHODS = ("layermerge", "layermerge-quick", "layer_only", "depth_merge", "sglp")
QUICK: dict[str, Any] = {"importance": {"form": "reconstruction"}}
BUDGETS = (0.7, 0.5)
BATCHES = (1, 32)
Batches = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network with its data: to choose by, to judge by, to heal on."""

    model: nn.Module
    choose: Batches
    judge: Batches
    train: Batches
    heal: HealSettings
    told: str
    whole_steps: int = 40
    quick: bool = False
    rules: dict[str, Any] = field(default_factory=dict)


def resnet20() -> Case:
    """ResNet-20 on lossless CIFAR-10."""
    images, labels = cifar("test", 1000)
    return Case(
        model=trained_resnet20().eval(),
        choose=batched(images[:300], labels[:300], 50),
        judge=batched(images[300:], labels[300:], 100),
        train=batched(*cifar("train", 4000), 64),
        heal=HealSettings(epochs=2, lr=1e-3),
        told="CIFAR-10, lossless: 300 test images choose, 700 others judge, 4,000 training images heal",
    )


def lite0() -> Case:
    """EfficientNet-Lite0 on a thousand images of ImageNet."""
    images, labels = imagenet_sample()
    return Case(
        model=efficientnet_lite0(),
        choose=batched(images[:192], labels[:192], 16),
        judge=batched(images[600:], labels[600:], 50),
        train=batched(images[:600], labels[:600], 30),
        heal=HealSettings(epochs=3, lr=3e-4, distil=1.0, temperature=1.0),
        told="ImageNet, one image a class: 192 choose, 600 heal without labels, 400 others judge",
        whole_steps=20,
        quick=True,
        rules={"strided": False, "largest_kernel": 5},
    )


CASES = {"resnet20": resnet20, "lite0": lite0}


def chosen(name: str, case: Case, method: str, example: Tensor, share: float) -> tuple[Plan, float]:
    """Return a method's plan within a share of the original's latency, and the seconds it took."""
    journal = Journal(CACHE / f"layermerge-{name}.jsonl")
    begun = time.perf_counter()
    if method != "sglp":
        budget = f"latency={share}"
        base, _, quick = method.partition("-")
        settings: dict[str, Any] = {}
        if base == "layermerge":
            settings = {"whole_steps": case.whole_steps, "rules": case.rules}
        settings |= QUICK if quick or case.quick else {}
        plan = make_plan(
            case.model,
            case.choose,
            method=base,
            settings=settings,
            budget=budget,
            example=example,
            journal=journal,
        )
        return plan, time.perf_counter() - begun
    blocks = len(find_units(case.model, example))
    for left in range(blocks - 1, 0, -1):
        budget = f"units={left}"
        plan = make_plan(
            case.model, case.choose, method=method, budget=budget, example=example, journal=journal
        )
        if timed(case, fold(apply(case.model, plan), example), example)["share"] <= share:
            return plan, time.perf_counter() - begun
    raise BudgetError(f"asked sglp for latency={share}: no number of blocks meets it.")


def timed(case: Case, network: nn.Module, example: Tensor) -> dict[str, float]:
    """Return the latency of a network beside the original's."""
    found = measure_latency({"before": case.model, "after": network}, example)
    before, after = found["before"].quickest, found["after"].quickest
    return {"before": before, "after": after, "share": after / before, "spread": found["after"].spread}


def row(case: Case, method: str, plan: Plan, seconds: float, example: Tensor) -> dict[str, Any]:
    """Return what a plan comes to: latency predicted and measured, quality before and after healing."""
    expanded = expand(case.model, plan)
    small = merge_layers(case.model, plan, expanded) if plan.merges else fold(expanded, example)
    latency = timed(case, small, example)
    healed = heal(expanded, case.train, teacher=case.model, plan=plan, settings=case.heal)
    finished = merge_layers(case.model, plan, healed) if plan.merges else fold(healed, example)
    known = dict(plan.predicted)
    told: dict[str, Any] = {
        "convolutions": sum(isinstance(module, nn.Conv2d) for module in small.modules()),
        "params": count_params(small),
        "macs": count_macs(small, example).total // len(example),
        "latency_measured": latency,
        "seconds_choosing": seconds,
        "quality": dict(evaluate_quality(small, case.judge)),
        "quality_healed": dict(evaluate_quality(finished, case.judge)),
        "plan": str(plan),
    }
    if plan.merges:
        certificate = certify(case.model, plan, healed)
        told |= {"certificate": certificate.whole, "drift": certificate.drift}
        told["predicted"] = {
            key: value
            for key, value in known.items()
            if key.startswith(("latency", "entries", "added", "compared"))
        }
        told["predicted_share"] = known["latency"] / known["latency_before"]
        told["predicted_by_table"] = known["latency_by_table"] / known["latency_before"]
        told["off"] = told["predicted_share"] / latency["share"] - 1
        told["off_by_table"] = told["predicted_by_table"] / latency["share"] - 1
    return told


def trained_alike(case: Case) -> nn.Module:
    """Return the original, healed as all others are."""
    return heal(case.model, case.train, teacher=case.model, settings=case.heal)


def figures(
    name: str, methods: list[str], batches: list[int], budgets: list[float]
) -> Iterator[dict[str, Any]]:
    """Yield what is known after every row of a case."""
    case, rows = CASES[name](), []
    image = case.judge[0][0][:1]
    known = {
        "data": case.told,
        "heal": asdict(case.heal),
        "threads": torch.get_num_threads(),
        "original": dict(evaluate_quality(case.model, case.judge)),
        "original_healed": dict(evaluate_quality(trained_alike(case), case.judge)),
        "params": count_params(case.model),
        "macs": count_macs(case.model, image).total,
    }
    for batch in batches:
        example = torch.cat([image] * batch)
        folded = timed(case, fold(case.model, example), example)["share"]
        for share in budgets:
            for method in methods:
                asked = {"method": method, "batch": batch, "budget": share, "folded_share": folded}
                try:
                    plan, seconds = chosen(name, case, method, example, share)
                    rows.append(asked | row(case, method, plan, seconds, example))
                except BudgetError as error:
                    rows.append(asked | {"failed": str(error)})
                yield {**known, "rows": rows}


def main() -> None:
    """Run one case and write its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--methods", nargs="*", choices=METHODS)
    parser.add_argument("--batches", nargs="*", type=int, default=list(BATCHES))
    parser.add_argument("--budgets", nargs="*", type=float, default=list(BUDGETS))
    parser.add_argument("--output", help="file for the figures")
    options = parser.parse_args()
    # Tuning a network of ImageNet for every entry takes hours here: there all are quick.
    methods = [name for name in METHODS if options.case == "resnet20" or name != "layermerge-quick"]
    # A run that is cut short leaves the rows that it has come to.
    for found in figures(options.case, options.methods or methods, options.batches, options.budgets):
        report(f"layermerge-{options.case}", found, options.output)


if __name__ == "__main__":
    main()
