"""What a plan does, and the proof of its merges, as rows of text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from shoal.plan import Merge, Plan
from shoal.reports.numbers import count_text, number_text, ratio_text
from shoal.reports.tables import Table, columns_of
from shoal.result import Certificate, Evidence
from shoal.units import Segment

__all__ = ["certificate_table", "plan_table"]

_FOLDED = "batch norms behind convolutions are folded into them, in all layers"
# What `compared_whole` calls the plans that were compared.
_CASES = {
    "merges and removals": "layers merged or left out",
    "removals alone": "single layers left out, nothing merged",
    "merges alone": "layers merged, none left out",
}
_SCORES = ("drop_estimate", "gradnorm", "block_influence", "angular_distance")


def plan_table(plan: Plan, evidence: Evidence | None = None) -> Table:
    """Return what a plan removes, with the scores that speak for it; or what it merges."""
    if plan.merges:
        return _merging(plan)
    scores = (
        {} if evidence is None else {n: evidence.importance[n] for n in _SCORES if n in evidence.importance}
    )
    segments = [Segment(*ends) for ends in plan.predicted.get("segments", ())]
    names = ["unit", "name", "params", *(["segment"] if segments else []), *scores]
    rows = []
    for step in plan.removals:
        segment = [str(s) for s in segments if step.index in s] or ["-"]
        size = count_text(plan.model.unit_params[step.index])
        told = [_ranked(values, step.index) for values in scores.values()]
        rows.append((str(step.index), step.unit, size, *(segment[:1] if segments else []), *told))
    right = (0, 2, *range(4 if segments else 3, len(names)))
    ranks = ("in brackets: rank among all units, 1 = least important",) if scores and plan.removals else ()
    notes = (*ranks, *_promises(plan))
    return Table(title=str(plan), columns=columns_of(names, right), rows=tuple(rows), notes=notes)


def certificate_table(certificate: Certificate) -> Table:
    """Return the proof that merged convolutions compute what was trained."""
    rows = [("whole network", f"{certificate.whole:.1e}")]
    if certificate.segments:
        worst = max(certificate.segments, key=lambda name: certificate.segments[name])
        told = f"{certificate.segments[worst]:.1e}"
        rows.append((f"the worst of {len(certificate.segments)} segments, {worst}", told))
    notes = [
        f"largest difference over the largest output, in float64; up to {certificate.limit:.0e} is rounding"
    ]
    if certificate.drift is not None:
        notes.append(
            "before training, moving the zeros to the beginning of segments changed "
            f"{certificate.drift:.1e} of the outputs"
        )
    columns = columns_of(("merged against expanded", "difference"), (1,))
    return Table(title="Certificate", columns=columns, rows=tuple(rows), notes=tuple(notes))


def _merging(plan: Plan) -> Table:
    """What becomes of segments of layers."""
    rows = []
    for step in plan.merges:
        gone = ", ".join(plan.model.units[index] for index in step.removed) or "-"
        first, last = step.layers[0], step.layers[-1]
        named = first if len(step.layers) == 1 else f"{first} … {last}"
        rows.append((str(step.segment), named, _becomes(step), gone, step.added or "-"))
    nothing = plan.left == len(plan.model.units)
    folded = f"{_FOLDED}; nothing merges, and nothing is left out" if nothing else _FOLDED
    columns = columns_of(("layers", "names", "become", "left out", "activation added"), ())
    return Table(title=str(plan), columns=columns, rows=tuple(rows), notes=(folded, *_promises(plan)))


def _becomes(step: Merge) -> str:
    if not step.kept:
        return "identity"
    if len(step.segment) == 1:
        return "itself, folded" if step.fused else "itself"
    return "1 convolution" if step.fused else f"{len(step.kept)} in a row"


def _ranked(values: Iterable[float], index: int) -> str:
    """A score with its rank among all units, 1 = least important."""
    scores = [float(value) for value in values]
    return f"{number_text(scores[index])} ({1 + sum(score < scores[index] for score in scores)})"


def _promises(plan: Plan) -> Iterable[str]:
    facts = plan.predicted
    remain = [f"{facts['units']} of {len(plan.model.units)} units"] if "units" in facts else []
    if "params" in facts:
        remain.append(f"{ratio_text(plan.model.params, facts['params'])} of the parameters")
    if "macs" in facts:
        remain.append(f"{ratio_text(plan.model.macs, facts['macs'])} of the MACs")
    if remain:
        yield f"remaining: {', '.join(remain)}" + (
            "" if plan.budget is None else f" (asked for {plan.budget})"
        )
    if facts.get("latency_measured") is not None:
        yield _latencies(facts)
    # What stands in for the loss where the data has no labels.
    gap = str(facts.get("importance", "")).partition(",")[0]
    loss = f"{gap}, as the data has no labels" if gap.startswith("gap") else "loss"
    if facts.get("added_loss") is not None:
        yield (
            f"added {loss}, the sum over segments: {facts['added_loss']:.4g}; measured for "
            f"{facts['entries_measured']} of {facts['entries']} ways to rewrite segments"
        )
    if facts.get("compared_whole"):
        told = "; ".join(
            f"{_CASES.get(case, case)}: {loss:.4g}" for case, loss in facts["compared_whole"].items()
        )
        measure = loss.partition(",")[0]
        yield f"the best of these plans, by the {measure} after brief training of the whole: {told}"
    if facts.get("loss") is not None and facts.get("loss_before") is not None:
        yield f"loss on the calibration data: {facts['loss_before']:.4g} → {facts['loss']:.4g}, measured"


def _latencies(facts: Mapping[str, Any]) -> str:
    """What latency was predicted and measured, as shares of the original's."""
    predicted = f"{facts['latency'] / facts['latency_before']:.3f} of the original's"
    if "latency_by_table" in facts:
        predicted += f" ({facts['latency_by_table'] / facts['latency_before']:.3f} by the table alone)"
    told = f"latency: predicted {predicted}"
    told += f", measured {facts['latency_measured'] / facts['latency_before_measured']:.3f}"
    if "latency_folded" in facts:
        folded = facts["latency_folded"] / facts["latency_before"]
        told += f"; {folded:.3f} with batch norms folded and nothing merged"
    return told
