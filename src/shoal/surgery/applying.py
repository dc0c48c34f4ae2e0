"""Plan + model → new model, whatever the plan says: units that are removed, or convolutions that merge.

The model that came in stays as it was.
"""

from __future__ import annotations

from torch import nn

from shoal.architectures.convolutions import Convolutions, find_convolutions
from shoal.calling import Inputs, device_of, inputs_like
from shoal.errors import PlanError, SurgeryError
from shoal.plan import Plan
from shoal.surgery.expanding import expand_, merge_
from shoal.surgery.removal import check_removals, remove_units

__all__ = ["apply", "check_plan", "expand", "fold", "merge_layers", "traced_for"]


def apply(model: nn.Module, plan: Plan) -> nn.Module:
    """Return a new model without the units that the plan removes, or with the convolutions that it merges.

    After removals it has the class, device, dtype and training mode of `model`, see `remove_units`. After
    merges it is an ordinary module too, with the same inputs and outputs, whose calls are written out; batch
    norms are folded. An empty plan gives an equal copy.

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
    """Return the new model that is trained before `merge_layers`: for merges with all convolutions that stay still
    apart, batch norms live; for removals what `apply` returns.

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
    found = traced_for(model, plan)
    if trained is None:
        return merge_(found, plan.merges).train(model.training)
    merged = merge_(_with_weights(found, plan, trained), plan.merges)
    _take_over(merged, trained)
    return merged.train(trained.training)


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
    found = find_convolutions(model, inputs_like(plan.model.inputs, device_of(model)))
    names = tuple(layer.name for layer in found.layers)
    if names != plan.model.units:
        raise PlanError(
            f"asked to use a plan for {plan.model.name} with {len(plan.model.units)} convolutions on "
            f"{type(model).__name__} with {len(names)}, or with other names. Make a plan for this model."
        )
    return found


def _check_size(model: nn.Module, plan: Plan) -> None:
    params = sum(parameter.numel() for parameter in model.parameters())
    if params != plan.model.params:
        raise PlanError(
            f"asked to use a plan for {plan.model.name} with {plan.model.params:,} parameters on "
            f"{type(model).__name__} with {params:,}. Make a plan for this model."
        )


def _with_weights(found: Convolutions, plan: Plan, trained: nn.Module) -> Convolutions:
    """The same convolutions with the weights of the expanded network that was trained."""
    expanded = expand_(found.copy(), plan.merges)
    mine, theirs = expanded.state_dict(), trained.state_dict()
    if mine.keys() != theirs.keys():
        odd = sorted(mine.keys() ^ theirs.keys())
        raise SurgeryError(
            f"asked to merge {type(trained).__name__}: it is not what the plan expands {plan.model.name} to "
            f"({', '.join(odd[:3])}). Pass what `expand` returned for this plan, trained."
        )
    held = found.pieces.state()
    for name, value in theirs.items():
        if name in held:
            held[name].data.copy_(value)
    return found


def _take_over(merged: nn.Module, trained: nn.Module) -> None:
    """Give norms that came in with the plan the weights that training has given them."""
    theirs = trained.state_dict()
    own = {**dict(merged.named_parameters()), **dict(merged.named_buffers())}
    for name, value in own.items():
        if name.rpartition(".")[0].endswith("_norm") and name in theirs:
            value.data.copy_(theirs[name])
