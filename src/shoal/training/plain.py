"""Plain networks (VGG, LeNet, MLP) in a training run: paths are added before it and folded after it, and a
budget refers to the network that the user has.
"""

from __future__ import annotations

import warnings
from dataclasses import replace

from torch import nn

from shoal.architectures import find_units
from shoal.budget import Budget
from shoal.calling import Inputs, describe_inputs
from shoal.errors import BudgetError, ConfigError, ShoalWarning, UnitError
from shoal.measurement import count_macs
from shoal.plan import Plan
from shoal.planners import Requirement, is_enough
from shoal.surgery.shortcuts import with_shortcuts

__all__ = ["absolute", "check_folded", "gated_copy", "plan_with_shortcuts", "refusal"]


def gated_copy(model: nn.Module, example: Inputs, *, seed: int) -> nn.Module:
    """Return a copy of a plain network with shortcuts, to be trained.

    Args:
        model: The plain network.
        example: What its forward takes.
        seed: Of the new paths' weights.

    Raises:
        ConfigError: If no layer can have one; says why of each.
    """
    try:
        return with_shortcuts(model, example, seed=seed)
    except UnitError as error:
        raise ConfigError(f"{error} Where blocks are residual already, train without shortcuts.") from error


def absolute(budget: Budget, plain: nn.Module, example: Inputs) -> Budget:
    """Return the budget that says of the network with shortcuts what this one says of the plain network.

    Shares of parameters and MACs become numbers; units and latency are those of the network with shortcuts.

    Args:
        budget: What may remain of the plain network.
        plain: That network.
        example: What it takes.
    """
    whole = _counted(budget, plain, example)
    if whole is None or not budget.relative:
        return budget
    return replace(budget, limit=budget.allowance(whole), relative=False)


def refusal(budget: Budget, plain: nn.Module, gated: nn.Module, example: Inputs) -> BudgetError:
    """Return what is said where a share of the plain network's parameters or MACs cannot be met.

    Args:
        budget: The share that was asked for.
        plain: The network that came in.
        gated: The same with shortcuts.
        example: What both take.
    """
    chain = find_units(gated, example)
    left = Requirement.of(chain, budget).remaining(chain.removable)
    whole = _counted(budget, plain, example) or 1
    asked = f"{budget} of {type(plain).__name__}, {budget.allowance(whole):,.0f} of {whole:,}"
    return BudgetError(
        f"asked for {asked}: with every layer gone that may, {left:,.0f} remain, as the paths around them "
        f"count until they are folded; the least that can be asked for is {budget.nearest(left, whole)}."
    )


def check_folded(budget: Budget, plain: nn.Module, folded: nn.Module, example: Inputs) -> None:
    """Warn where a folded network has more parameters or MACs than a budget of the plain network allows.

    Args:
        budget: What may remain of the plain network.
        plain: That network.
        folded: What training has made of it.
        example: What both take.
    """
    whole, left = _counted(budget, plain, example), _counted(budget, folded, example)
    if whole is None or left is None:
        return
    allowed = budget.allowance(whole)
    if not is_enough(whole - left, whole - allowed):
        warnings.warn(
            f"asked for {budget} of {type(plain).__name__}, which is {allowed:,.0f}: with its shortcuts "
            f"folded it has {left:,} {budget.quantity}. A path that stays takes a layer of its own, or makes "
            "the next one larger; ask for less.",
            ShoalWarning,
            # The caller of `train`.
            stacklevel=5,
        )


def plan_with_shortcuts(plan: Plan, example: Inputs) -> Plan:
    """Return a plan that says that its units are those of the network with shortcuts, which are folded, and
    what the network takes.
    """
    return replace(plan, settings={**plan.settings, "shortcuts": describe_inputs(example)})


def _counted(budget: Budget, model: nn.Module, example: Inputs) -> int | None:
    if budget.quantity == "params":
        return sum(parameter.numel() for parameter in model.parameters())
    return count_macs(model, example).total if budget.quantity == "macs" else None
