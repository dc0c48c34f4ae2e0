"""The exact front of merge plans beside the published program on a grid of 0.1 ms, on made-up tables.

    python benchmarks/front.py          about twenty seconds on one core

The tables have the 391 entries of MobileNetV2 that the authors' code enumerates (Kim et al., 2024,
LayerMerge, https://github.com/snu-mllab/LayerMerge): its segments, and for each the numbers of
depthwise convolutions that may stay. Latencies, in seconds, are 0.05 ms and 2 ms for each 10⁹ MACs of
the merged convolution and up to 0.3 ms drawn at random; the importance of an entry of n layers, of
which m are left out, is exp(-0.02 (n - 1) - 0.01 m u) with u drawn from [0, 1]. Such latencies are
small for a grid of 0.1 ms: `mobilenetv2_slow` has them all longer, so that the layers one by one take
40.5 ms, of which the authors' budget of 22.3 ms is 55 %. A longer chain has 1,485 entries of random
latencies and losses.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from math import exp
from random import Random
from statistics import mean, median
from time import perf_counter
from typing import Any

from reporting import report

from shoal.errors import BudgetError
from shoal.layers import ConvShape
from shoal.planners.discretised import Rounding, discretised_plan
from shoal.planners.fronts import FrontPoint, Option, best_within, merge_front

# Borders between layers 1 … 50; the stem and the last convolution stay as they are.
BARRIERS = (5, 11, 20, 41, 50)
SKIPS = {5: 8, 11: 14, 14: 17, 20: 23, 23: 26, 26: 29, 32: 35, 35: 38, 41: 44, 44: 47}
# Channels, blocks and first stride of the stages whose blocks widen sixfold.
STAGES = ((24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))
QUANTUM = 1e-4
APART = 0.0405
CHAIN, LONGEST = 250, 6


def layers() -> list[ConvShape]:
    """Return the convolutions of MobileNetV2 between the stem and the last one, at 224 pixels."""
    found = [convolution(32, 32, 3, 1, 112, groups=32), convolution(32, 16, 1, 1, 112)]
    for channels, blocks, stride in STAGES:
        for number in range(blocks):
            narrow, (size, _) = found[-1].out_channels, found[-1].out_size
            wide, step = 6 * narrow, stride if number == 0 else 1
            found += [
                convolution(narrow, wide, 1, 1, size),
                convolution(wide, wide, 3, step, size, groups=wide),
                convolution(wide, channels, 1, 1, size // step),
            ]
    return found


def convolution(inputs: int, outputs: int, kernel: int, stride: int, size: int, groups: int = 1) -> ConvShape:
    """Return a square convolution that keeps the size but for its stride."""
    return ConvShape(
        in_channels=inputs,
        out_channels=outputs,
        kernel=(kernel, kernel),
        stride=(stride, stride),
        dilation=(1, 1),
        padding=((kernel // 2, kernel // 2),) * 2,
        groups=groups,
        in_size=(size, size),
    )


def segments(length: int) -> Iterator[tuple[int, int]]:
    """Yield the legal segments: they pass no barrier, and leave a skip only with its end."""
    for start in range(length):
        furthest = min(border for border in BARRIERS if border > start)
        furthest = min([furthest, *(end for begin, end in SKIPS.items() if begin < start < end)])
        stop = start + 1
        while stop <= furthest:
            yield start, stop
            stop = SKIPS.get(stop, stop + 1)


def mobilenet(random: Random) -> tuple[int, list[Option]]:
    """Return the number of layers and the made-up table of MobileNetV2."""
    convs, options = layers(), []
    for start, stop in segments(len(convs)):
        inside = convs[start:stop]
        free = sum(conv.depthwise and conv.stride == (1, 1) for conv in inside)
        for kept in range(0 if free < len(inside) else 1, free + 1):
            macs = merged(inside, left_out=free - kept).macs
            seconds = (0.05 + 2 * macs / 1e9 + random.uniform(0, 0.3)) / 1000
            importance = exp(-0.02 * (stop - start - 1) - 0.01 * (free - kept) * random.random())
            options.append(Option(start=start, stop=stop, cost=seconds, loss=-importance))
    return len(convs), options


def slow_mobilenet(random: Random) -> tuple[int, list[Option]]:
    """Return the table with the latencies in proportion to those that were published."""
    length, options = mobilenet(random)
    factor = APART / sum(option.cost for option in options if option.stop - option.start == 1)
    return length, [replace(option, cost=option.cost * factor) for option in options]


def merged(inside: Sequence[ConvShape], left_out: int) -> ConvShape:
    """Return the one convolution that these become when some of the free 3 × 3 ones are left out."""
    first, last = inside[0], inside[-1]
    kernel = 1 + sum(conv.kernel[0] - 1 for conv in inside) - 2 * left_out
    stride = first.in_size[0] // last.out_size[0]
    groups = first.in_channels if all(conv.depthwise for conv in inside) else 1
    return convolution(first.in_channels, last.out_channels, kernel, stride, first.in_size[0], groups)


def chain(random: Random) -> tuple[int, list[Option]]:
    """Return a long chain whose segments of up to six layers cost less and lose more the longer they are."""
    options = []
    for start in range(CHAIN):
        for stop in range(start + 1, min(start + LONGEST, CHAIN) + 1):
            apart = sum(random.uniform(0.2, 1) for _ in range(start, stop))
            loss = (stop - start - 1) * random.random()
            cost = apart * random.uniform(0.4, 1) / 1000
            options.append(Option(start=start, stop=stop, cost=cost, loss=loss))
    return CHAIN, options


def study(table: Callable[[Random], tuple[int, list[Option]]], seeds: int, rounds: int) -> dict[str, Any]:
    """Return what the whole front takes and how plans on the grid compare, over the seeds."""
    runs = [run(*table(Random(seed)), rounds) for seed in range(seeds)]
    first = runs[0]
    return {
        "layers": first["layers"],
        "entries": first["entries"],
        "segments": first["segments"],
        "plans_on_the_front": summary([each["plans"] for each in runs]),
        "seconds": {
            "whole_front": summary([each["seconds"] for each in runs]),
            "one_budget_on_the_grid": summary([each["grid_seconds"] for each in runs]),
        },
        "front_over_allowance": max(each["over"] for each in runs),
        **{
            rounding: compared([row for each in runs for row in each[rounding]])
            for rounding in ("floor", "ceil")
        },
    }


def run(length: int, options: list[Option], rounds: int) -> dict[str, Any]:
    """Return the figures of one table; nine allowances lie evenly between the ends of its front."""
    seconds, front = timed(lambda: merge_front(length, options), rounds)
    span = front[-1].cost - front[0].cost
    allowances = [front[0].cost + tenths / 10 * span for tenths in range(1, 10)]
    middle = allowances[4]
    grid_seconds, _ = timed(lambda: on_grid(length, options, middle, "floor"), rounds)
    return {
        "layers": length,
        "entries": len(options),
        "segments": len({(option.start, option.stop) for option in options}),
        "plans": len(front),
        "seconds": seconds,
        "grid_seconds": grid_seconds,
        "over": max(best_within(front, allowance).cost / allowance - 1 for allowance in allowances),
        **{
            rounding: [
                (allowance, best_within(front, allowance), on_grid(length, options, allowance, rounding))
                for allowance in allowances
            ]
            for rounding in ("floor", "ceil")
        },
    }


def on_grid(length: int, options: list[Option], allowance: float, rounding: Rounding) -> FrontPoint | None:
    """Return the plan of the published program, or None where rounding leaves none."""
    try:
        return discretised_plan(length, options, allowance, quantum=QUANTUM, rounding=rounding)
    except BudgetError:
        return None


def compared(rows: list[tuple[float, FrontPoint, FrontPoint | None]]) -> dict[str, Any]:
    """Return how plans on the grid compare with the best ones of the front under the same allowances."""
    found = [(allowance, best, plan) for allowance, best, plan in rows if plan is not None]
    if not found:
        return {"allowances": len(rows), "plans_found": 0}
    over = [plan.cost / allowance - 1 for allowance, _, plan in found]
    worst = max(found, key=lambda row: row[2].cost / row[0])
    lost = [plan.loss - best.loss for _, best, plan in found]
    return {
        "allowances": len(rows),
        "plans_found": len(found),
        "plans_over_the_allowance": sum(share > 1e-9 for share in over),
        "cost_over_the_allowance": {"mean": mean(over), "largest": max(over)},
        "furthest_over": {"allowance_ms": worst[0] * 1000, "cost_ms": worst[2].cost * 1000},
        "more_loss_than_the_front": {"mean": mean(lost), "largest": max(lost)},
    }


def timed(work: Callable[[], Any], rounds: int) -> tuple[float, Any]:
    """Return the median time of some rounds and what the last one returned."""
    times, result = [], None
    for _ in range(rounds):
        before = perf_counter()
        result = work()
        times.append(perf_counter() - before)
    return median(times), result


def summary(values: list[float]) -> dict[str, float]:
    """Return the middle and the largest of values."""
    return {"median": median(values), "largest": max(values)}


def main() -> None:
    """Compare on every kind of table and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", help="the JSON file; benchmarks/results/front.json where it is left out")
    options = parser.parse_args()
    figures = {
        "quantum_ms": QUANTUM * 1000,
        "seeds": options.seeds,
        "rounds": options.rounds,
        "mobilenetv2": study(mobilenet, options.seeds, options.rounds),
        "mobilenetv2_slow": study(slow_mobilenet, options.seeds, options.rounds),
        "chain": study(chain, options.seeds, options.rounds),
    }
    report("front", figures, options.output)


if __name__ == "__main__":
    main()
