"""Training and pruning at once: a gate on every unit, which ends open or takes its unit out of the network.

Each step draws the gates, trains the weights of what is drawn, and asks a few units what they are worth by
running the batch once more with their gates turned. A gate opens while its unit's gain is above its price,
and shuts while it is below; a unit whose gate is shut and whose gain is surely below its price leaves at
once, so that what is left of training is cheaper.

Default: prices follow from a budget, raised until it is met. What is published and what is shoal's own
choice: docs/methods/concurrent.md.

Reference: Guenter & Sideris, 2024, "Concurrent Training and Layer Pruning of Deep Neural Networks",
https://arxiv.org/abs/2406.04549.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from shoal.architectures import find_units
from shoal.budget import Budget
from shoal.calling import Batch, Inputs, device_of, split_batch, to_device
from shoal.errors import ConfigError, DataError
from shoal.measurement import Loss, is_causal, sample_losses, sample_weights, unit_latency
from shoal.plan import Plan
from shoal.planners import Requirement
from shoal.processes import together
from shoal.training.concurrent_settings import ConcurrentSettings
from shoal.training.gate_decisions import Decisions
from shoal.training.gate_gains import Estimator, SlopeGains, flip_gains
from shoal.training.gate_rules import Gain
from shoal.training.gates import Gates
from shoal.training.shortcuts import Shortcut
from shoal.training.unit_prices import UnitPrices
from shoal.units import Chain, Granularity

__all__ = ["ConcurrentPruner", "PruningProgress"]


@dataclass(frozen=True, kw_only=True)
class PruningProgress:
    """How far a run has come.

    Attributes:
        step: Steps done.
        units: Units that are left.
        remaining: Share of the network's cost that is left, in the quantity of the budget.
        expected: That share, as gates are drawn now.
        saved: Share of the training compute so far, in MACs, that gates and removals have saved; what asking
            units has cost is taken off.
        removed: Units that left in this step.
        price: What all of the network's cost has to be worth, in mean loss.
    """

    step: int
    units: int
    remaining: float
    expected: float
    saved: float
    removed: tuple[int, ...]
    price: float


class ConcurrentPruner:
    """Makes a network shallower while somebody trains it.

        pruner = ConcurrentPruner(model, example, steps=len(loader) * epochs, budget="macs=0.5",
                                  optimizer=optimizer)
        for inputs, labels in batches:
            loss = cross_entropy(model(inputs), labels)
            loss.backward()
            pruner.step((inputs, labels))
            optimizer.step()
            optimizer.zero_grad()
        small = pruner.finish()

    Args:
        model: The network; it is gated and loses units in place until `finish`.
        example: What its forward takes, for units and MACs.
        steps: How many steps training will have.
        budget: What may remain at the end, `units=…`, `params=…`, `macs=…` or `latency=…`.
        price: In place of a budget: the mean loss that all of the network's MACs are worth; a unit that
            gains less than its share of it goes.
        optimizer: The optimiser, from which the weights of units that leave are taken.
        loss: Called as `loss(outputs, labels)`, where the batches are neither labelled nor text.
        settings: How gates are trained.
        granularity: What the units are.

    Raises:
        ConfigError: If neither or both of budget and price are given, or steps are too few.
        BudgetError: If the budget cannot be met; names the nearest.
        UnitError: If no unit can be removed.
    """

    def __init__(
        self,
        model: nn.Module,
        example: Inputs,
        *,
        steps: int,
        budget: Budget | str | None = None,
        price: float | None = None,
        optimizer: Optimizer | None = None,
        loss: Loss | None = None,
        settings: ConcurrentSettings | None = None,
        granularity: Granularity = "block",
    ) -> None:
        if (budget is None) == (price is None):
            raise ConfigError(
                f"asked to prune in training with budget={budget} and price={price}: one of them works, "
                "budget='macs=0.5' or price=0.1."
            )
        if price is not None and not (price >= 0 and math.isfinite(price)):
            raise ConfigError(f"asked for a price of {price}: a number from 0 upwards works.")
        if steps < 1:
            raise ConfigError(f"asked to prune in a training of {steps} steps: 1 or more works.")
        self.settings = settings or ConcurrentSettings()
        self.model, self.optimizer, self.steps = model, optimizer, steps
        self.budget = None if budget is None else Budget.parse(budget)
        self.chain = find_units(model, example, granularity=granularity)
        self.prices = _prices(model, example, self.chain, self.budget, price)
        self.gates = Gates(model, self.chain, start=self.settings.start, seed=self.settings.seed)
        self.decisions = Decisions(
            gates=self.gates,
            prices=self.prices,
            settings=self.settings,
            steps=steps,
            led=self.budget is not None,
            optimizer=optimizer,
        )
        self.done = 0
        self.removed_at: dict[int, int] = {}
        self._loss, self._price = loss, price
        self._random = random.Random(self.settings.seed)
        self._run = 0.0
        self._slopes = SlopeGains(self.gates) if self.settings.estimator == "slope" else None
        self._estimate: Estimator = self._slopes or flip_gains

    @property
    def removed(self) -> tuple[int, ...]:
        """The units that have left, ascending."""
        return tuple(sorted(self.gates.removed))

    def attach(self, optimizer: Optimizer) -> None:
        """Take the weights of units that leave out of this optimiser from now on."""
        self.optimizer = self.decisions.optimizer = optimizer

    def status(self) -> str:
        """Return in words what is left of the network, and what of the training was saved."""
        now = self.progress()
        return (
            f"{now.units} of {len(self.chain)} units, {now.remaining:.0%} of "
            f"{self.prices.requirement.budget.quantity}, {now.saved:.0%} of the training saved"
        )

    def step(self, batch: Batch | None = None) -> PruningProgress:
        """Learn from the batch on which the network was just called, move the gates, remove what is not
        worth its price. Call it after `loss.backward()` and before the optimiser's step.

        Args:
            batch: That batch, with its labels; may be left out where the network was called with its labels,
                or with text.

        Raises:
            DataError: If its loss is not finite, or there is nothing to compute a loss from.
            ConfigError: If the network was not called in training mode since the last step, or `finish` was.
        """
        if self.gates.closed:
            raise ConfigError(
                "asked for a step of pruning after finish: make a new pruner for more training."
            )
        gone: list[int] = []
        if self.decisions.frozen:
            self._run += self._macs(self.gates.removed) * 3
            self.done += 1
        else:
            self.gates.check_called()
            gains = self._ask(batch, self.done + 1)
            self._run += self._macs(self.gates.off) * 3
            self.done += 1
            gone = self.decisions.after(self.done, gains)
        self.removed_at |= dict.fromkeys(gone, self.done)
        self.gates.forget()
        return self.progress(tuple(gone))

    def progress(self, removed: tuple[int, ...] = ()) -> PruningProgress:
        """Return how far the run has come."""
        gates, prices = self.gates, self.prices
        whole = prices.requirement.whole
        return PruningProgress(
            step=self.done,
            units=len(self.chain) - len(gates.removed),
            remaining=prices.requirement.remaining(gates.removed) / whole,
            expected=prices.expected(gates.theta, gates.removed),
            saved=1 - self._run / (3 * self.chain.macs * self.done) if self.done else 0.0,
            removed=removed,
            price=prices.level,
        )

    def finish(self) -> nn.Module:
        """Return the new, ordinary network that training has come to, and ungate the one in training.

        Gates that were not settled, as training stopped early, are settled now.

        Raises:
            SurgeryError, UnitError: As `shoal.apply`.
        """
        if not self.decisions.frozen:
            self.removed_at |= dict.fromkeys(self.decisions.freeze(), self.done)
        self.close()
        return self.gates.finished(self.plan())

    def close(self) -> None:
        """Gate the network no longer; units that have left stay away."""
        self.gates.close()
        if self._slopes is not None:
            self._slopes.close()

    def plan(self) -> Plan:
        """Return the plan that removes what has left, and what it rests on."""
        return Plan.removing(
            self.chain,
            self.removed,
            budget=self.budget,
            method="concurrent",
            settings=asdict(self.settings),
            predicted={
                "price": self.prices.level,
                "gains": {str(index): gain for index, gain in sorted(self.decisions.worth.items())},
                "training_macs_saved": self.progress().saved,
                "steps": self.done,
                "removed_at": {str(index): step for index, step in sorted(self.removed_at.items())},
            },
        )

    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed run needs of the pruner: JSON values, and the tensor `generator`."""
        return {
            **self.gates.state(),
            "agreed": self._agreed(),
            "savings": list(self.prices.requirement.savings),
            "whole": self.prices.requirement.whole,
            "done": self.done,
            "frozen": self.decisions.frozen,
            "level": self.prices.level,
            "gains": {str(index): asdict(gain) for index, gain in self.decisions.gains.items()},
            "influence": {str(index): value for index, value in self.decisions.influence.items()},
            "removed_at": {str(index): step for index, step in self.removed_at.items()},
            "run": self._run,
            "random": self._random.getstate(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the state of a run; do so before the network's and the optimiser's own are loaded, which
        then fit: units that had left leave now.

        Raises:
            ConfigError: If the state is of another number of steps, budget or settings.
        """
        mine = self._agreed()
        changed = [
            f"{name} {state['agreed'].get(name)!r} -> {value!r}"
            for name, value in mine.items()
            if state["agreed"].get(name) != value
        ]
        if changed:
            raise ConfigError(
                f"asked to resume pruning in training with other settings: {', '.join(changed)}. Resume with "
                "those of the checkpoint, or start again."
            )
        # A latency that is measured again is another one.
        savings, whole = tuple(map(float, state["savings"])), float(state["whole"])
        self.prices.requirement = replace(self.prices.requirement, savings=savings, whole=whole)
        self.gates.restore_(state, self.optimizer)
        decisions = self.decisions
        self.done, decisions.frozen = int(state["done"]), bool(state["frozen"])
        self.gates.settled_for_good = decisions.frozen
        self.removed_at = {int(index): int(at) for index, at in state["removed_at"].items()}
        self.prices.level, self._run = float(state["level"]), float(state["run"])
        decisions.gains = {int(index): Gain(**gain) for index, gain in state["gains"].items()}
        decisions.influence = {int(index): float(value) for index, value in state["influence"].items()}
        version, numbers, spare = state["random"]
        self._random.setstate((version, tuple(numbers), spare))

    def _agreed(self) -> dict[str, Any]:
        """What a resumed run must have in common with the one before."""
        asked = {"steps": self.steps, "budget": str(self.budget), "price": self._price}
        return asdict(self.settings) | asked | {"units": len(self.chain)}

    def _ask(self, batch: Batch | None, step: int) -> dict[int, float]:
        """Return what some units are worth on this batch, on the mean of all processes."""
        ends = step >= self.decisions.last
        if not ends and (step % self.settings.every or step <= self.decisions.first // 2):
            return {}
        units = list(self.gates.theta) if ends else self._chosen()
        gains = self._estimate(self.gates, units, self._loss_of(batch))
        if self._slopes is None:
            self._run += sum(self._macs(self.gates.off ^ {index}, start=index) for index in units)
        return _averaged(gains)

    def _chosen(self) -> list[int]:
        """The units to ask: any whose gate is undecided, and now and then one whose gate is open."""
        undecided = [index for index, theta in self.gates.theta.items() if theta < 1]
        decided = [index for index, theta in self.gates.theta.items() if theta == 1]
        chosen: list[int] = []
        for _ in range(min(self.settings.probes, len(self.gates.theta))):
            revisit = self._random.random() < self.settings.revisit
            pool = decided if decided and (revisit or not undecided) else undecided
            chosen.append(pool.pop(self._random.randrange(len(pool))))
        return chosen

    def _loss_of(self, batch: Batch | None) -> Callable[[Any], float]:
        given = self.gates.inputs if batch is None else to_device(batch, device_of(self.model))
        labelled = batch is not None or isinstance(given, Mapping)
        inputs, labels = split_batch(given) if labelled else (given, None)
        causal = is_causal(self.model)

        def loss_of(outputs: Any) -> float:
            with torch.no_grad():
                losses = sample_losses(outputs, inputs, labels, loss=self._loss, causal=causal)
                if losses is None:
                    raise DataError(
                        "asked what units are worth: there is nothing to compute a loss from. Pass the batch "
                        "with its labels, step((inputs, labels)), or loss= for the pruner."
                    )
                weights = sample_weights(outputs, inputs, labels, loss=self._loss, causal=causal).to(losses)
                return float(losses.double() @ weights.double() / weights.sum())

        self._check_finite(loss_of(self.gates.outputs) if self.gates.outputs is not None else 0.0)
        return loss_of

    def _check_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise DataError(
                f"asked to prune in training: at step {self.done} (from 0) the loss is {loss}. Nothing was "
                "removed. A lower learning rate may work; look for NaN or infinity in that batch too."
            )

    def _macs(self, off: Collection[int], start: int = 0) -> float:
        """Multiply-accumulates of a forward pass without some units, those before `start` not computed."""
        units = sum(unit.macs for unit in self.chain)
        computed = (unit.macs for unit in self.chain if unit.index >= start and unit.index not in off)
        return self.chain.macs - units + sum(computed)


def _prices(
    model: nn.Module, example: Inputs, chain: Chain, budget: Budget | None, price: float | None
) -> UnitPrices:
    shortcuts = any(isinstance(module, Shortcut) for module in model.modules())
    if budget is None:
        whole = Budget(quantity="macs", limit=1.0, relative=True)
        return UnitPrices(chain, Requirement.of(chain, whole), level=price or 0.0, whole_stages=shortcuts)
    latency = unit_latency(model, chain, example) if budget.quantity == "latency" else None
    return UnitPrices.of(chain, budget, latency, whole_stages=shortcuts)


def _averaged(gains: dict[int, float]) -> dict[int, float]:
    """The mean over all processes that train together."""
    with together() as processes:
        found = processes.exchange(gains)
    return {index: math.fsum(each[index] for each in found) / len(found) for index in gains}
