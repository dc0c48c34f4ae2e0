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

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from shoal.errors import BudgetError, ConfigError
from shoal.importance import EvidenceSettings, GraftSettings
from shoal.methods import Method
from shoal.methods.request import Request
from shoal.plan import Plan
from shoal.planners import (
    best_subset,
    cheapest_removals,
    improve_by_exchanges,
    meets,
    removal_by_shares,
    top_units,
)
from shoal.result import Evidence
from shoal.segmentation import numbers_of_segments, released_segments, row_sums, segment_series
from shoal.segmentation.division import Rule
from shoal.similarity import SimilaritySettings
from shoal.tables import ImportanceTable
from shoal.units import Segment, Segmentation

__all__ = ["METHOD", "SGLPSettings", "choose"]

Removed = tuple[int, ...]
Division = tuple[Segment, ...]
Goal = tuple[Sequence[float], float]
Choice = tuple[Removed, dict[str, Any]]

# What else the default asks for an opinion.
_OPINIONS = ("drop_estimate", "block_influence", "mean_abs_saving")


@dataclass(frozen=True, kw_only=True)
class SGLPSettings:
    """How SGLP segments and chooses.

    Attributes:
        similarity: How similarity between units is estimated.
        partition: What is segmented: the whole similarity `matrix`, or its `row_sums`.
        segments: How many segments: a number; `joint` (decided with the budget, by measured loss;
            `penalised` where none is measured); `penalised` or `bic` (from the loss curve); `released`
            (the released code's rule). Where a rule's number of segments does not leave room for the
            budget, fewer are made; a number is kept to.
        most_segments: The most segments that `joint` tries and `released` allows.
        backtracking: `exact`, or `released` for the released code's faulty cuts.
        selection: `runs` (a dynamic program over runs of units under the budget), or `per_segment`
            (a share of each segment is kept, its best units by importance).
        importance: What the removal of units costs: `skip_loss` (measured), `graft`, or a score of
            the evidence such as `drop_estimate`.
        similarity_weight: How much the dissimilarity of a run's input and output adds to the cost of
            a run by score; for `runs`.
        longest_run: The longest run whose loss is measured; longer ones are estimated from it.
        candidates: Whether plans by other scores are proposed too, and measured beside the others;
            for `runs` by `skip_loss`.
        exchanges: The most measured losses that the exchange of units may spend, 0 for none; for `runs`
            by `skip_loss`.
        counts: Units kept in each segment, for `per_segment`, and so the number of segments; from
            the budget where it is None.
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
    exchanges: int = 96
    counts: tuple[int, ...] | None = None
    most_subsets: int = 64
    graft: GraftSettings = field(default_factory=GraftSettings)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("segments", "most_segments", "longest_run", "exchanges", "most_subsets"):
            found, least = getattr(self, name), 0 if name == "exchanges" else 1
            if isinstance(found, int) and found < least:
                raise ConfigError(f"asked for {name}={found}: numbers from {least} upwards work.")
        if self.counts is not None and isinstance(self.segments, int) and len(self.counts) != self.segments:
            raise ConfigError(
                f"asked for {self.segments} segments with counts={self.counts}: give one count a segment."
            )


PAPER = SGLPSettings(
    similarity=SimilaritySettings(estimator="biased", reduce="mean_of_ratios", minibatch=500),
    partition="row_sums",
    segments="released",
    most_segments=5,
    selection="per_segment",
    importance="graft",
    candidates=False,
    exchanges=0,
)


def choose(request: Request, settings: SGLPSettings) -> Plan:
    """Return the plan that SGLP chooses for the request.

    Raises:
        BudgetError: If no plan meets the budget.
        ConfigError: If the settings do not fit each other or the chain.
        DataError: If the batches do not allow the scores that the settings ask for.
    """
    # There is one segment at least, and one unit of it stays.
    savings, need = request.savings(keep=1)
    if need <= 0:
        return _plan(request, settings, (), {"segments": []})
    scored = settings.candidates or settings.importance not in ("graft", "skip_loss")
    evidence = request.collect(EvidenceSettings(similarity=settings.similarity, gradients=scored))
    whole = settings.partition == "matrix"
    segmentation = evidence.segmentation if whole else segment_series(row_sums(evidence.similarity))
    select = _by_shares if settings.selection == "per_segment" else _over_runs
    attempt = select(request, evidence, settings, (savings, need))
    removed, facts = _first_possible(_divisions(evidence, segmentation, settings), attempt)
    return _plan(request, settings, removed, {**facts, "segmentation_losses": list(segmentation.losses)})


def _divisions(
    evidence: Evidence, segmentation: Segmentation, settings: SGLPSettings
) -> list[tuple[Division, ...]]:
    """The divisions that are tried: those of one entry together, of the next only if need be."""
    rule: int | Rule = len(settings.counts) if settings.counts is not None else _rule(settings)
    cuts = [
        segmentation.segments(k)
        if settings.backtracking == "exact"
        else released_segments(evidence.similarity, k)
        for k in numbers_of_segments(segmentation, rule, most=settings.most_segments)
    ]
    return [tuple(cuts)] if rule == "all" else [(division,) for division in cuts]


def _rule(settings: SGLPSettings) -> int | Rule:
    if settings.segments == "joint":
        return "all" if _is_measured(settings) else "penalised"
    return settings.segments


def _is_measured(settings: SGLPSettings) -> bool:
    return settings.selection == "runs" and settings.importance == "skip_loss"


def _first_possible(
    divisions: Sequence[tuple[Division, ...]], attempt: Callable[[tuple[Division, ...]], Choice]
) -> Choice:
    *before, last = divisions
    for together in before:
        with suppress(BudgetError):
            return attempt(together)
    return attempt(last)


# The default: runs of units under the budget, with the true loss as the judge.


def _over_runs(
    request: Request, evidence: Evidence, settings: SGLPSettings, goal: Goal
) -> Callable[[tuple[Division, ...]], Choice]:
    tables = _tables(request, evidence, settings)

    def attempt(divisions: tuple[Division, ...]) -> Choice:
        proposals = cheapest_removals(tables, divisions, *goal, length=len(request.chain))
        if _is_measured(settings):
            return _best_measured(request, proposals, goal, settings)
        first, division = next(iter(proposals.items()))
        return first, {"segments": _starts(division)}

    return attempt


def _tables(request: Request, evidence: Evidence, settings: SGLPSettings) -> list[ImportanceTable]:
    """What the removal of runs costs; other opinions follow where a measured loss can judge them."""
    if not _is_measured(settings):
        return [_additive(request.scores(settings.importance, settings.graft), evidence, settings)]
    tables = [request.losses.runs(settings.longest_run)]
    if settings.candidates:
        tables.append(ImportanceTable.additive(request.losses.units(), request.chain.removable))
        others = [name for name in _OPINIONS if name in evidence.importance]
        tables += [_additive(evidence.importance[name].tolist(), evidence, settings) for name in others]
    return tables


def _additive(scores: Sequence[float], evidence: Evidence, settings: SGLPSettings) -> ImportanceTable:
    table = ImportanceTable.additive(scores, evidence.chain.removable, source=settings.importance)
    if not settings.similarity_weight:
        return table
    alike = evidence.boundary_similarity
    entries = {
        run: cost + settings.similarity_weight * (1 - float(alike[run.start, run.stop]))
        for run, cost in table.entries.items()
    }
    return ImportanceTable(entries=entries, source=table.source)


def _best_measured(
    request: Request, proposals: dict[Removed, Division], goal: Goal, settings: SGLPSettings
) -> Choice:
    losses = request.losses.of(list(proposals), "measuring candidate plans")
    first = min(losses)
    removed = list(proposals)[losses.index(first)]
    division, loss, spent = proposals[removed], first, 0
    if settings.exchanges:
        found = improve_by_exchanges(
            [removed],
            losses=lambda sets: request.losses.of(sets, "exchanging units"),
            allowed=meets(*goal, division),
            known={units: request.losses(units) for units in {(), *request.losses.asked}},
            candidates=request.chain.removable,
            length=len(request.chain),
            evaluations=settings.exchanges,
        )
        (removed, loss), spent = found.best[0], found.measured
    return removed, {
        "segments": _starts(division),
        "loss": loss,
        "loss_before": request.losses(),
        "loss_before_exchanges": first,
        "measured_candidates": len(proposals),
        "measured_exchanges": spent,
    }


# As published: a share of every segment is kept, its best units or its best subset by score.


def _by_shares(
    request: Request, evidence: Evidence, settings: SGLPSettings, goal: Goal
) -> Callable[[tuple[Division, ...]], Choice]:
    removable = request.chain.removable
    scores = [] if settings.importance == "graft" else request.scores(settings.importance, settings.graft)

    def pick(segment: Segment, keep: int) -> Removed:
        if settings.importance == "graft":
            kept = _best_grafted(request, segment, keep, settings)
        else:
            kept = top_units(scores, [segment], [keep], removable)
        return tuple(index for index in segment if index not in kept)

    def attempt(divisions: tuple[Division, ...]) -> Choice:
        (division,) = divisions
        removed = removal_by_shares(division, *goal, removable, pick=pick, counts=settings.counts)
        return removed, {"segments": _starts(division)}

    return attempt


def _best_grafted(request: Request, segment: Segment, keep: int, settings: SGLPSettings) -> Removed:
    free = [index for index in segment if index in request.chain.removable]
    fixed = [index for index in segment if index not in free]
    best = best_subset(
        free,
        keep - len(fixed),
        scores=lambda subsets: request.grafts([(*fixed, *subset) for subset in subsets], settings.graft),
        most=settings.most_subsets,
        seed=settings.seed,
    )
    return (*fixed, *best)


def _starts(division: Division) -> list[list[int]]:
    return [[segment.start, segment.stop] for segment in division]


def _plan(request: Request, settings: SGLPSettings, removed: Removed, predicted: dict[str, Any]) -> Plan:
    return request.plan(removed, method="sglp", settings=asdict(settings), predicted=predicted)


def _goes_by_evidence(settings: SGLPSettings) -> bool:
    measured = settings.importance in ("skip_loss", "graft")
    return not measured and settings.similarity == SimilaritySettings()


METHOD = Method(
    name="sglp",
    help="segments of like units by Fisher optimal segmentation, then what to remove inside them",
    settings=SGLPSettings,
    presets={"default": SGLPSettings(), "paper": PAPER},
    choose=choose,
    by_evidence=_goes_by_evidence,
)
