"""SGLP: cut the chain into segments of like units, then choose inside them what to remove.

Default: similarity between all units and scores in one pass; Fisher optimal segmentation on the
whole similarity matrix; then the number of segments, how many units each keeps and which, jointly
under the budget: a dynamic program over runs of units proposes a plan for every number of segments,
their true loss on the calibration data decides, and exchanging units improves the best.

Costs of runs are measured by default (the loss of the network without the run): on trained networks
scores from one backward pass choose badly (docs/log.md). `preset="paper"` follows the released code,
with its faults that are plainly accidents repaired: graft scores with reset on shared minibatches.

Reference: Li et al., 2024, "SGLP: A Similarity Guided Fast Layer Partition Pruning for Compressing
Large Deep Models", https://arxiv.org/abs/2410.14720.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from math import comb
from random import Random
from typing import Any, Literal

import numpy as np

from shoal.errors import BudgetError, ConfigError, DataError
from shoal.importance import EvidenceSettings, GraftSettings, graft_scores
from shoal.methods import Method
from shoal.methods.request import Request
from shoal.plan import Plan
from shoal.planners import cheapest_removal, improve_by_swaps, keep_counts, top_units
from shoal.result import Evidence
from shoal.segmentation import bic, penalised, released_backtracking, released_rule, row_sums, segment_series
from shoal.similarity import SimilaritySettings
from shoal.tables import ImportanceTable
from shoal.units import Segment, Segmentation

__all__ = ["METHOD", "SGLPSettings", "choose"]

Removed = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class SGLPSettings:
    """How SGLP segments and chooses.

    Attributes:
        similarity: How similarity between units is estimated.
        partition: What is segmented: the whole similarity `matrix`, or its `row_sums`.
        segments: How many segments: a number; `joint` (decided with the budget, by measured loss);
            `penalised` or `bic` (from the loss curve); `released` (the released code's rule).
        most_segments: The most segments that `joint` tries and `released` allows.
        backtracking: `exact`, or `released` for the released code's faulty cuts.
        selection: `runs` (a dynamic program over runs of units under the budget), or `per_segment`
            (a share of each segment is kept, its best units by importance).
        importance: What the removal of units costs: `skip_loss` (measured), `graft`, or a score of
            the evidence such as `drop_estimate`.
        similarity_weight: How much the dissimilarity of a run's input and output adds to the cost of
            a run by score.
        longest_run: The longest run whose loss is measured; longer ones are estimated from it.
        candidates: Whether plans by other scores are proposed too, and measured beside the others.
        swaps: The most measured losses that the exchange of units may spend; 0 for none.
        counts: Units kept in each segment, for `per_segment`; from the budget where it is None.
        most_subsets: The most subsets of a segment that are grafted; beyond, a random draw of them.
        graft: How graft scores are taken.
        seed: Of that draw.
    """

    similarity: SimilaritySettings = field(default_factory=SimilaritySettings)
    partition: Literal["matrix", "row_sums"] = "matrix"
    segments: int | Literal["joint", "penalised", "bic", "released"] = "joint"
    most_segments: int = 6
    backtracking: Literal["exact", "released"] = "exact"
    selection: Literal["runs", "per_segment"] = "runs"
    importance: str = "skip_loss"
    similarity_weight: float = 0.0
    longest_run: int = 2
    candidates: bool = True
    swaps: int = 96
    counts: tuple[int, ...] | None = None
    most_subsets: int = 64
    graft: GraftSettings = field(default_factory=GraftSettings)
    seed: int = 0


PAPER = SGLPSettings(
    similarity=SimilaritySettings(estimator="biased", reduce="mean_of_ratios", minibatch=500),
    partition="row_sums",
    segments="released",
    most_segments=5,
    selection="per_segment",
    importance="graft",
    candidates=False,
    swaps=0,
)


def choose(request: Request, settings: SGLPSettings) -> Plan:
    """Return the plan that SGLP chooses for the request.

    Raises:
        BudgetError: If no plan meets the budget.
        DataError: If the batches do not allow the scores that the settings ask for.
    """
    savings, need = request.savings()
    if need <= 0:
        return _plan(request, settings, (), {"segments": []})
    evidence = request.collect(_evidence_settings(request, settings))
    segmentation = _segmentation(evidence, settings)
    if settings.selection == "per_segment":
        cuts = _cuts(segmentation, evidence, _number(segmentation, settings), settings)
        removed = _per_segment(request, evidence, cuts, settings, (savings, need))
        return _plan(request, settings, removed, {"segments": _starts(cuts), **_curve(segmentation)})
    removed, facts = _over_runs(request, evidence, segmentation, settings, (savings, need))
    return _plan(request, settings, removed, {**facts, **_curve(segmentation)})


def _evidence_settings(request: Request, settings: SGLPSettings) -> EvidenceSettings | None:
    default = settings.similarity == SimilaritySettings()
    scored = settings.importance not in ("graft", "skip_loss") or settings.candidates
    return None if default and request.evidence else EvidenceSettings(similarity=settings.similarity, gradients=scored)


def _segmentation(evidence: Evidence, settings: SGLPSettings) -> Segmentation:
    if settings.partition == "matrix":
        return evidence.segmentation
    return segment_series(row_sums(evidence.similarity))


def _number(segmentation: Segmentation, settings: SGLPSettings) -> int:
    rules = {
        "penalised": penalised,
        "bic": bic,
        "joint": penalised,
        "released": lambda s: released_rule(s, most=min(settings.most_segments, s.length)),
    }
    if isinstance(settings.segments, int):
        return settings.segments
    if settings.segments not in rules:
        raise ConfigError(f"asked for segments={settings.segments!r}: it is a number or one of {', '.join(rules)}.")
    return rules[settings.segments](segmentation)


def _cuts(segmentation: Segmentation, evidence: Evidence, k: int, settings: SGLPSettings) -> tuple[Segment, ...]:
    if settings.backtracking == "exact":
        return segmentation.segments(k)
    starts = released_backtracking(row_sums(evidence.similarity), k)
    return tuple(map(Segment, starts, (*starts[1:], segmentation.length)))


# The default: runs of units under the budget, with the true loss as the judge.


def _over_runs(
    request: Request,
    evidence: Evidence,
    segmentation: Segmentation,
    settings: SGLPSettings,
    goal: tuple[Sequence[float], float],
) -> tuple[Removed, dict[str, Any]]:
    measured = settings.importance == "skip_loss"
    table = _measured(request, settings) if measured else _scored(evidence, settings.importance, settings)
    tables = [table]
    if settings.candidates:
        alone = [table.entries.get(Segment(index, index + 1), 0.0) for index in range(len(request.chain))]
        tables.append(ImportanceTable.additive(alone, request.chain.removable, source="sum of single units"))
        others = [name for name in ("drop_estimate", "block_influence", "mean_abs_saving") if name in evidence.importance]
        tables += [_scored(evidence, name, settings) for name in others if name != settings.importance]
    numbers: Iterable[int] = (_number(segmentation, settings),)
    if settings.segments == "joint":
        numbers = range(1, min(settings.most_segments, segmentation.length) + 1)
    proposals = _proposals(tables, [segmentation.segments(k) for k in numbers], goal, len(request.chain))
    if not measured:
        removed = next(iter(proposals))
        return removed, {"segments": _starts(proposals[removed]), "tried": len(proposals)}
    losses = request.losses.of(list(proposals), "measuring candidate plans")
    ranked = sorted(zip(losses, range(len(losses)), proposals, strict=True))
    loss, _, removed = ranked[0]
    cuts = proposals[removed]
    first, spent = loss, 0
    if settings.swaps:
        removed, loss, spent = _improved(request, removed, cuts, goal, settings)
    return removed, {
        "segments": _starts(cuts),
        "loss": loss,
        "loss_before": request.losses(),
        "loss_before_swaps": first,
        "measured_candidates": len(proposals),
        "measured_swaps": spent,
    }


def _measured(request: Request, settings: SGLPSettings) -> ImportanceTable:
    """Measure what every run up to the longest costs: the loss without it, less the network's own."""
    removable = request.chain.removable
    listed = ImportanceTable.additive([0.0] * len(request.chain), removable, longest=settings.longest_run)
    runs = list(listed.entries)
    base, *losses = request.losses.of([(), *(tuple(run) for run in runs)], "measuring runs of units")
    entries = {run: loss - base for run, loss in zip(runs, losses, strict=True)}
    if not all(np.isfinite(list(entries.values()))):
        raise DataError("asked for the loss without runs of units: some are not finite. Check the data and precision.")
    return ImportanceTable(entries=entries, source="measured loss").extended(removable)


def _scored(evidence: Evidence, name: str, settings: SGLPSettings) -> ImportanceTable:
    if name not in evidence.importance:
        raise DataError(
            f"asked for SGLP by {name!r}: the evidence holds {', '.join(evidence.importance)}. Scores by "
            "gradient need labels, text, or loss=."
        )
    table = ImportanceTable.additive(evidence.importance[name].tolist(), evidence.chain.removable, source=name)
    if not settings.similarity_weight:
        return table
    alike = evidence.boundary_similarity
    entries = {
        run: cost + settings.similarity_weight * (1 - float(alike[run.start, run.stop]))
        for run, cost in table.entries.items()
    }
    return ImportanceTable(entries=entries, source=name)


def _proposals(
    tables: Sequence[ImportanceTable],
    divisions: Sequence[tuple[Segment, ...]],
    goal: tuple[Sequence[float], float],
    length: int,
) -> dict[Removed, tuple[Segment, ...]]:
    """The cheapest removal by every table under every division, with the finest division it fits."""
    proposals: dict[Removed, tuple[Segment, ...]] = {}
    refusal: BudgetError | None = None
    for table in tables:
        for cuts in divisions:
            try:
                found = cheapest_removal(table, *goal, length=length, segments=cuts)
            except BudgetError as error:
                refusal = refusal or error
                break
            proposals[found.removed] = cuts
    if not proposals:
        raise refusal or BudgetError("asked for a plan: no division into segments was tried.")
    return proposals


def _improved(
    request: Request,
    removed: Removed,
    cuts: tuple[Segment, ...],
    goal: tuple[Sequence[float], float],
    settings: SGLPSettings,
) -> tuple[Removed, float, int]:
    savings, need = goal
    removable = request.chain.removable
    alone = request.losses.of([(index,) for index in removable])

    def allowed(units: Removed) -> bool:
        gone = set(units)
        enough = sum(savings[index] for index in units) >= need * (1 - 1e-9)
        return enough and all(any(index not in gone for index in segment) for segment in cuts)

    return improve_by_swaps(
        removed,
        losses=lambda sets: request.losses.of(sets, "exchanging units"),
        allowed=allowed,
        single=dict(zip(removable, alone, strict=True)),
        evaluations=settings.swaps,
    )


# As published: a share of every segment is kept, its best subset by score.


def _per_segment(
    request: Request,
    evidence: Evidence,
    cuts: tuple[Segment, ...],
    settings: SGLPSettings,
    goal: tuple[Sequence[float], float],
) -> Removed:
    savings, need = goal
    removable = set(request.chain.removable)
    fixed = [sum(index not in removable for index in segment) for segment in cuts]
    known: dict[tuple[Segment, int], Removed] = {}
    for total in range(len(request.chain), len(cuts) - 1, -1):
        shares = settings.counts or keep_counts([len(segment) for segment in cuts], total)
        counts = [max(share, least) for share, least in zip(shares, fixed, strict=True)]
        removed: list[int] = []
        for segment, count in zip(cuts, counts, strict=True):
            possible = sorted((savings[i] for i in segment if i in removable), reverse=True)
            if (segment, count) not in known and sum(possible) > 0:
                known[segment, count] = _worst(request, evidence, segment, count, settings)
            removed += known.get((segment, count), ())
        if settings.counts or sum(savings[index] for index in removed) >= need * (1 - 1e-9):
            return tuple(sorted(removed))
    raise BudgetError(
        f"asked for {request.budget}: with a unit kept in each of {len(cuts)} segments no plan meets it. "
        "Ask for fewer segments, or for more to remain."
    )


def _worst(
    request: Request, evidence: Evidence, segment: Segment, count: int, settings: SGLPSettings
) -> Removed:
    """The units of a segment that go when `count` of it stay."""
    free = [index for index in segment if index in request.chain.removable]
    keep = count - (len(segment) - len(free))
    if keep >= len(free):
        return ()
    if settings.importance != "graft":
        scores = evidence.importance[settings.importance]
        best = sorted(free, key=lambda index: (-scores[index], index))[:keep]
        return tuple(index for index in free if index not in best)
    subsets = _subsets(free, keep, settings)
    fixed = [index for index in segment if index not in free]
    scores = graft_scores(
        request.model,
        request.chain,
        request.batches,
        [(*fixed, *subset) for subset in subsets],
        loss=request.loss,
        settings=settings.graft,
    )
    best = subsets[int(np.argmax(scores))]
    return tuple(index for index in free if index not in best)


def _subsets(free: list[int], keep: int, settings: SGLPSettings) -> list[Removed]:
    if comb(len(free), keep) <= settings.most_subsets:
        return list(combinations(free, keep))
    random = Random(settings.seed)
    drawn = {tuple(sorted(random.sample(free, keep))) for _ in range(settings.most_subsets)}
    return sorted(drawn)


def _starts(cuts: Iterable[Segment]) -> list[list[int]]:
    return [[segment.start, segment.stop] for segment in cuts]


def _curve(segmentation: Segmentation) -> dict[str, Any]:
    return {"segmentation_losses": list(segmentation.losses)}


def _plan(request: Request, settings: SGLPSettings, removed: Removed, predicted: dict[str, Any]) -> Plan:
    return request.plan(removed, method="sglp", settings=asdict(settings), predicted=predicted)


METHOD = Method(
    name="sglp",
    help="segments of like units by Fisher optimal segmentation, then what to remove inside them, under the budget",
    settings=SGLPSettings,
    presets={"default": SGLPSettings(), "paper": PAPER},
    choose=choose,
)
