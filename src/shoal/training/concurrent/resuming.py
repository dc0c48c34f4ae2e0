"""What a run that goes on has of the one before: what it must agree on, and what was known and decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from shoal.errors import ConfigError
from shoal.training.concurrent.decisions import Decisions
from shoal.training.concurrent.rules import Gain

__all__ = ["check_agreed", "restore_", "state_of"]


def check_agreed(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Check that a run goes on as it was begun.

    Raises:
        ConfigError: If not; names what has changed.
    """
    changed = [
        f"{name} {before.get(name)!r} -> {value!r}"
        for name, value in now.items()
        if before.get(name) != value
    ]
    if changed:
        raise ConfigError(
            f"asked to resume pruning in training with other settings: {', '.join(changed)}. Resume with "
            "those of the checkpoint, or start again."
        )


def state_of(decisions: Decisions) -> dict[str, Any]:
    """Return gates, prices and what is known of gains: JSON values, and the tensor `generator`."""
    prices = decisions.prices
    influence = {} if decisions.attraction is None else decisions.attraction.influence
    return {
        **decisions.gates.state(),
        "savings": list(prices.requirement.savings),
        "whole": prices.requirement.whole,
        "level": prices.level,
        "frozen": decisions.frozen,
        "undecided": decisions.undecided,
        "gains": {str(index): asdict(gain) for index, gain in decisions.gains.items()},
        "influence": {str(index): value for index, value in influence.items()},
    }


def restore_(decisions: Decisions, state: Mapping[str, Any]) -> None:
    """Take that up; units that had left then leave now.

    Raises:
        ConfigError: If units have left here that had not then.
    """
    gates, prices = decisions.gates, decisions.prices
    if back := sorted(set(gates.removed) - {int(index) for index in state["removed"]}):
        raise ConfigError(
            f"asked to take up a state of pruning in which units {back} were there: they have left this "
            "network. Make the network and its pruner anew first."
        )
    # A latency that is measured again is another one.
    savings, whole = tuple(map(float, state["savings"])), float(state["whole"])
    prices.requirement = replace(prices.requirement, savings=savings, whole=whole)
    prices.level = float(state["level"])
    gates.restore_(state, decisions.optimizer)
    decisions.frozen = gates.settled_for_good = bool(state["frozen"])
    decisions.undecided = int(state["undecided"])
    decisions.gains = {int(index): Gain(**gain) for index, gain in state["gains"].items()}
    if decisions.attraction is not None:
        decisions.attraction.influence = {int(key): float(value) for key, value in state["influence"].items()}
