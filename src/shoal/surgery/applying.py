"""Plan + model → new model, whatever the plan says: units that are removed, or convolutions that merge.

The model that came in stays as it was.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map

from shoal.architectures.convolutions import Convolutions, find_convolutions
from shoal.calling import Inputs, device_of, inputs_like
from shoal.errors import DataError, PlanError
from shoal.plan import Plan
from shoal.surgery.expanding import expand_, merge_
from shoal.surgery.removal import check_removals, remove_units

__all__ = ["apply", "check_plan", "expand", "fold", "merge_layers", "traced_for"]


def apply(model: nn.Module, plan: Plan) -> nn.Module:
    """Return a new model without the units that the plan removes, or with the convolutions that it merges.

    After removals it has the class, device, dtype and training mode of `model`, see `remove_units`. After
    merges it is an ordinary module too, with the same inputs and outputs, whose calls are written out; batch
    norms are folded. An empty plan gives an equal copy. Nothing of it is compiled: wrappers of
    `torch.compile` stay behind.

    Args:
        model: The network that the plan was made for; stays untouched.
        plan: What to do.

    Raises:
        PlanError: If the plan does not fit the model.
        UnitError: If the model is a Hugging Face model whose config or cache shoal cannot repair, or a
            segment cannot become one convolution.
        SurgeryError: If the model cannot be copied, or the result fails a post-condition.

    Example:
        >>> import torch
        >>> from shoal.architectures import find_units
        >>> net = nn.Sequential(*[nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(3)])
        >>> len(apply(net, Plan.removing(find_units(net, torch.ones(1, 4)), [1])))
        2
    """
    return merge_layers(model, plan) if plan.merges else remove_units(model, plan)


def expand(model: nn.Module, plan: Plan) -> nn.Module:
    """Return the new model that is trained before `merge_layers`: for merges with all convolutions that stay
    still apart, batch norms live; for removals what `apply` returns.

    Args:
        model: The network that the plan was made for; stays untouched.
        plan: What to do.

    Raises:
        PlanError, SurgeryError, UnitError: As `apply`.
    """
    if not plan.merges:
        return remove_units(model, plan)
    return expand_(traced_for(model, plan), plan.merges).train(model.training)


def merge_layers(model: nn.Module, plan: Plan, trained: nn.Module | None = None) -> nn.Module:
    """Return the model with merged convolutions.

    Args:
        model: The network that the plan was made for; stays untouched.
        plan: What to do.
        trained: What `expand` returned for both, with the weights that it has come to; those of `model`
            where it is None. After removals it is what comes back.

    Raises:
        PlanError, SurgeryError, UnitError: As `apply`.
    """
    if not plan.merges:
        return remove_units(model, plan) if trained is None else trained
    like = model if trained is None else trained
    return merge_(traced_for(model, plan), plan.merges, trained).train(like.training)


def fold(model: nn.Module, example: Inputs) -> nn.Module:
    """Return a new model whose batch norms are part of the convolutions before them: what a plan of merges
    that merges nothing would leave, and what others should be compared with.

    Args:
        model: Any network; stays untouched.
        example: What its forward takes.

    Raises:
        DataError, UnknownArchitectureError: If its convolutions cannot be found.
    """
    return merge_(find_convolutions(model, example), ()).train(model.training)


def check_plan(model: nn.Module, plan: Plan) -> None:
    """Check, without cutting anything, that `apply` can do what a plan says.

    Args:
        model: The network that the plan was made for.
        plan: What to do.

    Raises:
        PlanError: If the plan does not fit the model.
        UnitError: If it is a Hugging Face model whose config cannot say what would be left; names the
            nearest cut that it can.
    """
    if plan.merges:
        _check_size(model, plan)
    else:
        check_removals(model, plan)


def traced_for(model: nn.Module, plan: Plan) -> Convolutions:
    """Return the convolutions of a copy of the network that a plan of merges was made for.

    Raises:
        PlanError: If it was made for another network.
    """
    _check_size(model, plan)
    inputs = _in_dtype_of(model, inputs_like(plan.model.inputs, device_of(model)))
    try:
        found = find_convolutions(model, inputs)
    except DataError as error:
        raise PlanError(
            f"asked to use a plan for {plan.model.name} whose inputs are {plan.model.inputs!r}: "
            f"{type(model).__name__} does not run on them. Make a plan for this model."
        ) from error
    names = tuple(layer.name for layer in found.layers)
    if names != plan.model.units:
        raise PlanError(
            f"asked to use a plan for {plan.model.name} with {len(plan.model.units)} convolutions on "
            f"{type(model).__name__} with {len(names)}, or with other names. Make a plan for this model."
        )
    return found


def _in_dtype_of(model: nn.Module, inputs: Inputs) -> Inputs:
    """Floating-point inputs in the dtype that the network has now: it may have been converted since."""
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)

    def cast(leaf: Any) -> Any:
        return leaf.to(dtype) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

    return inputs if dtype is None else tree_map(cast, inputs)


def _check_size(model: nn.Module, plan: Plan) -> None:
    params = sum(parameter.numel() for parameter in model.parameters())
    if params != plan.model.params:
        raise PlanError(
            f"asked to use a plan for {plan.model.name} with {plan.model.params:,} parameters on "
            f"{type(model).__name__} with {params:,}. Make a plan for this model."
        )
