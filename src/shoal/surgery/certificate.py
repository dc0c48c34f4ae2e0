"""Does a network with merged convolutions compute what the expanded one does? Proof in float64, of the whole
and of every segment by itself, with borders and at odd sizes.

How far moving the zeros to the beginning of segments changed the network, before any training, is told
beside it: that step is the one that is not exact.
"""

from __future__ import annotations

import copy
from contextlib import redirect_stderr
from dataclasses import replace
from io import StringIO
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves, tree_map

from shoal.architectures.convolutions import Convolutions, find_convolutions
from shoal.architectures.symbolic import shape_of
from shoal.architectures.trials import FAILURES
from shoal.calling import Inputs, device_of, inputs_like, sample_count
from shoal.errors import VerificationError
from shoal.plan import Plan
from shoal.result import Certificate
from shoal.surgery.affine import exact_device, to_convolution
from shoal.surgery.applying import traced_for
from shoal.surgery.collapsing import as_affine
from shoal.surgery.expanding import adopt_, expand_, merge_, rewritten
from shoal.surgery.probe import answers, difference
from shoal.surgery.rewriting import ENTRY, Rewrite
from shoal.surgery.writing import Writer

__all__ = ["certify"]

_LIMIT = 1e-9
# Of the whole network in float32, where sums are rounded otherwise when they are made otherwise.
_LIMIT_FLOAT32 = 1e-4
# An odd number, so that what was even becomes odd; and one for networks that halve maps again and again.
_MORE = (5, 16)


def certify(model: nn.Module, plan: Plan, trained: nn.Module | None = None) -> Certificate:
    """Return the proof that a plan's merged convolutions compute what the expanded network does.

    The network runs on two random samples of the size that the plan was made with, and on larger ones
    where it takes them: `sizes` says which were tried. Sizes at which its calls, written down, answer
    otherwise than its code are not: code may ask for sizes.

    Args:
        model: The network that the plan was made for; left as it was found.
        plan: Merges.
        trained: What `expand` returned for both, with the weights that it has come to; those of `model`
            where it is None.

    Raises:
        PlanError, SurgeryError, UnitError: If the plan does not fit the model.
        VerificationError: If a merged segment, or the network, computes something else.
    """
    own = traced_for(model, plan)
    whole, wide = _widened(model, plan)
    plain = wide.copy().pieces.assemble()
    expanded = expand_(wide.copy(), plan.merges).eval()
    drift = _drift(wide, plan, expanded)
    if trained is not None:
        expanded.load_state_dict(trained.state_dict())
        adopt_(wide, plan.merges, expanded)
    segments = _segments(wide, plan)
    merged = merge_(wide, plan.merges, expanded).eval()
    sizes = _sizes(plan, whole, plain, expanded)
    found = _compared(merged, expanded, plan, sizes)
    _check(plan, "the whole network", max(found.values(), default=float("inf")), _LIMIT)
    if next(model.parameters()).dtype == torch.float32:
        rounded = expand_(own.copy(), plan.merges).eval()
        rounded.load_state_dict(expanded.state_dict())
        found32 = _compared(merge_(own, plan.merges, rounded).eval(), rounded, plan, sizes)
        _check(plan, "the whole network, in float32,", max(found32.values()), _LIMIT_FLOAT32)
    return Certificate(
        whole=max(found.values()), segments=segments, sizes=tuple(found), drift=drift, limit=_LIMIT
    )


def _check(plan: Plan, what: str, found: float, limit: float) -> None:
    if not found <= limit:
        raise VerificationError(
            f"asked to prove the merges of {plan.model.name}: {what} computes something else once merged, by "
            f"{found:.1e} of the largest number ({limit:.0e} allowed). Leave that segment as it is."
        )


def _widened(model: nn.Module, plan: Plan) -> tuple[nn.Module, Convolutions]:
    """A copy of the network in float64, and its convolutions."""
    wide = copy.deepcopy(model).to(exact_device(device_of(model))).to(torch.float64).eval()
    return wide, find_convolutions(wide, _inputs(plan, wide))


def _inputs(plan: Plan, model: nn.Module, samples: int | None = None, more: int = 0) -> Inputs:
    """Random inputs for a network, like those that the plan was made with, or with another number of
    samples and with feature maps that are larger.
    """
    like = next(each for each in model.parameters() if each.is_floating_point())
    inputs = inputs_like(plan.model.inputs)
    batch, generator = sample_count(inputs), torch.Generator().manual_seed(0)

    def made(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        count, *rest = leaf.shape or (1,)
        shape = (samples if samples and count == batch else count, *rest[:1], *(n + more for n in rest[1:]))
        if leaf.dim() == 0 or not leaf.is_floating_point():
            return leaf.new_zeros(shape[: leaf.dim()]).to(like.device)
        return torch.randn(shape, generator=generator).to(like)

    return tree_map(made, inputs)


def _drift(wide: Convolutions, plan: Plan, expanded: nn.Module) -> float | None:
    """How far zeros at the beginning of segments lead away from zeros where they were; None where that is
    not a number.
    """
    apart = expand_(wide.copy(), [replace(step, fused=False) for step in plan.merges]).eval()
    example = _inputs(plan, expanded)
    found = difference(answers(expanded, example), answers(apart, example))
    return found if found < float("inf") else None


def _sizes(
    plan: Plan, whole: nn.Module, plain: nn.Module, expanded: nn.Module
) -> list[tuple[int | None, int]]:
    """Numbers of samples, and by how much maps are larger, at most two: those that the expanded network
    takes, and at which the calls of the network, written down and not edited, answer as it does.
    """
    found: list[tuple[int | None, int]] = []
    for more in (0, *_MORE):
        if len(found) == 2:
            break
        # Some networks take as many samples as they were traced with.
        for samples in (2, None):
            inputs = _inputs(plan, expanded, samples, more)
            try:
                # A graph that fails says so on stderr, besides.
                with redirect_stderr(StringIO()):
                    answers(expanded, inputs)
                    same = difference(answers(plain, inputs), answers(whole, inputs)) <= _LIMIT
            except FAILURES:
                continue
            if same:
                found.append((samples, more))
                break
    return found


def _compared(
    merged: nn.Module, expanded: nn.Module, plan: Plan, sizes: list[tuple[int | None, int]]
) -> dict[tuple[int, ...], float]:
    """Shape of the first input → the difference, for some sizes."""
    found: dict[tuple[int, ...], float] = {}
    for samples, more in sizes:
        inputs = _inputs(plan, expanded, samples, more)
        found[_first_shape(inputs)] = difference(answers(merged, inputs), answers(expanded, inputs))
    return found


def _first_shape(inputs: Inputs) -> tuple[int, ...]:
    return next(tuple(leaf.shape) for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor))


def _segments(wide: Convolutions, plan: Plan) -> dict[str, float]:
    """Segment → the difference, for all that become one convolution."""
    standing, found = wide.copy(), {}
    for step in plan.merges:
        rest = rewritten(standing, step)
        if step.fused and rest.result != ENTRY:
            found[str(step.segment)] = _difference(rest)
            _check(plan, f"the segment {step.segment}", found[str(step.segment)], _LIMIT)
    return found


def _difference(found: Rewrite) -> float:
    """How far the merged convolution is from the expanded form, on maps of two sizes, even and odd."""
    merged = as_affine(found)
    expanded = _expanded(found)
    module = to_convolution(merged.affine, padding=merged.padding)
    shape, generator = shape_of(found.region.entry) or (), torch.Generator().manual_seed(0)
    reach = [
        d * (k - 1) + 2 * s + 1
        for d, k, s in zip(merged.affine.dilation, merged.affine.kernel, merged.affine.stride, strict=True)
    ]

    def random(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64).to(merged.affine.bias.device)

    worst = 0.0
    for more in (0, 1):
        x = random(2, shape[1], *(size + more for size in reach))
        terms = {term: random(2, matrix.shape[1]) for term, matrix in merged.shifts.items()}
        tail = (..., *(None for _ in range(found.axes)))
        with torch.no_grad():
            inner = [terms[term][tail] for term in found.terms]
            expected = expanded(x, *inner)
            outer = sum((terms[term] @ matrix.T)[tail] for term, matrix in merged.shifts.items())
            worst = max(worst, difference((module(x) + outer,), (expected,)))
    return worst


def _expanded(found: Rewrite) -> nn.Module:
    """The expanded form of a segment as a module of its own, which takes what goes in and what is added."""
    graph, traced = fx.Graph(), found.region.piece.traced
    entry = graph.placeholder("x")
    terms = {term: graph.placeholder(f"term{number}") for number, term in enumerate(found.terms)}
    writer = Writer(graph=graph, traced=traced, found=found, moved=True)
    graph.output(writer.write(entry, terms))
    return fx.GraphModule(traced, graph).eval()
