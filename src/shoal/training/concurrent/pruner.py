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

import copy
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from torch import nn
from torch.optim import Optimizer

from shoal.architectures import find_units
from shoal.budget import Budget
from shoal.calling import Batch, Inputs
from shoal.errors import ConfigError
from shoal.measurement import Loss
from shoal.plan import Plan
from shoal.training.concurrent.attraction import Attraction
from shoal.training.concurrent.compute import Compute
from shoal.training.concurrent.decisions import Decisions
from shoal.training.concurrent.gates import Gates
from shoal.training.concurrent.price import Price
from shoal.training.concurrent.prices import prices_of
from shoal.training.concurrent.progress import PruningProgress
from shoal.training.concurrent.questions import Questions
from shoal.training.concurrent.resuming import check_agreed, restore_, state_of
from shoal.training.concurrent.settings import ConcurrentSettings
from shoal.training.concurrent.trace import Trace
from shoal.training.concurrent.worth import Worth, measured_worth
from shoal.units import Granularity

__all__ = ["ConcurrentPruner"]

# Of what a state holds.
_VERSION = 2


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
        price: In place of a budget: the mean loss that all of the network's MACs are worth, a number, or
            that of other quantities, `params=0.1`, `macs=0.1,latency=0.2`; a unit that gains less than its
            share of it goes.
        optimizer: The optimiser, from which the weights of units that leave are taken.
        loss: Called as `loss(outputs, labels)` in place of the usual losses.
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
        price: Price | float | str | None = None,
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
        if not isinstance(steps, int) or steps < 1:
            raise ConfigError(f"asked to prune in a training of {steps} steps: a whole number from 1 works.")
        self.settings = settings or ConcurrentSettings()
        self.model, self.optimizer, self.steps = model, optimizer, steps
        self.budget = None if budget is None else Budget.parse(budget)
        self.price = None if price is None else Price.parse(price)
        self.chain = find_units(model, example, granularity=granularity)
        self.prices = prices_of(model, example, self.chain, self.budget, self.price)
        attracted = self.settings.condition == "attracted"
        # Before there are gates, which leave units out.
        attraction = Attraction(model, self.chain, example) if attracted else None
        self.gates = Gates(model, self.chain, start=self.settings.start, seed=self.settings.seed)
        self.decisions = Decisions(
            gates=self.gates,
            prices=self.prices,
            settings=self.settings,
            steps=steps,
            led=self.budget is not None,
            optimizer=optimizer,
            attraction=attraction,
        )
        self.done = 0
        self.removed_at: dict[int, int] = {}
        self.trace = Trace()
        self._worth: dict[int, Worth] = {}
        self._questions = Questions(self.gates, self.settings, loss)
        self._compute = Compute(self.chain)
        self.gates.counting = self._compute.count

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
        quantity = self.prices.requirement.budget.quantity
        mixed = self.price is not None and len(self.price.levels) > 1
        named = quantity in ("params", "latency") and not mixed
        other = f"{now.remaining:.0%} of {quantity}, " if named else ""
        saved = "saved" if now.saved >= 0 else "on top"
        return (
            f"{now.units} of {len(self.chain)} units, {other}{now.macs:.0%} of MACs, {abs(now.saved):.0%} of "
            f"the training {saved}"
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
        decisions, step, gone = self.decisions, self.done + 1, list[int]()
        self._worth = {}
        if not decisions.frozen:
            gains = {}
            if asked := decisions.asked(step):
                gains = self._questions.ask(batch, asked)
            else:
                self.gates.check_called()
            gone = decisions.after(step, gains)
            self.gates.decay_shut_()
        self.done = step
        if decisions.frozen:
            self._questions.close()
        # Others may have left in a step that was interrupted.
        self.removed_at |= dict.fromkeys({*self.gates.removed} - {*self.removed_at}, self.done)
        self.gates.forget()
        self._note()
        return self.progress(tuple(gone))

    def progress(self, removed: tuple[int, ...] = ()) -> PruningProgress:
        """Return how far the run has come."""
        gates, prices = self.gates, self.prices
        whole = prices.requirement.whole
        return PruningProgress(
            step=self.done,
            units=len(self.chain) - len(gates.removed),
            remaining=prices.requirement.remaining(gates.removed) / whole,
            macs=self._compute.left(gates.removed),
            expected=prices.expected(gates.theta, gates.removed),
            saved=self._compute.saved(self._questions.macs),
            removed=removed,
            price=prices.level,
        )

    def worth(self, batches: Iterable[Batch], *, most_batches: int = 8) -> dict[int, Worth]:
        """Return what each unit that is left and could leave is worth on these batches, and its price, to see
        at the end of training whether all of them should have stayed; the plan keeps it until the next step.

        Several processes ask each for itself. What it costs is not part of the training compute.

        Args:
            batches: `(inputs, labels)`, or dicts with `labels`: the network is called without them.
            most_batches: After how many to stop: each costs half a forward pass a unit.

        Raises:
            DataError: If there are no batches, or nothing to compute a loss from.
            ConfigError: After `finish`, or if no batch is wanted.
        """
        if self.gates.closed:
            raise ConfigError("asked what units are worth after finish: ask before it.")
        self._worth = measured_worth(
            self.gates,
            [index for index in self.gates.theta if not self.prices.is_last(index, self.gates.removed)],
            batches,
            loss_of=self._questions.loss_of,
            price=self.prices.price,
            most_batches=most_batches,
        )
        return self._worth

    def finish(self) -> nn.Module:
        """Return the new, ordinary network that training has come to, and ungate the one in training.

        Gates that were not settled, as training stopped early, are settled now.

        Raises:
            ConfigError: If units have to leave for a budget, and none was asked yet what it is worth.
            SurgeryError, UnitError: As `shoal.apply`.
        """
        if not self.decisions.frozen:
            self._check_known()
            self.removed_at |= dict.fromkeys(self.decisions.freeze(), self.done)
        self.close()
        return self.gates.finished(self.plan())

    def _check_known(self) -> None:
        known = any(gain.count for gain in self.decisions.gains.values())
        if self.budget is not None and not known and not self.prices.is_met(self.gates.removed):
            raise ConfigError(
                f"asked to finish pruning after {self.done} of {self.steps} steps: no unit was asked yet "
                f"what it is worth. Train for at least {max(1, self.decisions.first)} steps."
            )

    def close(self) -> None:
        """Gate the network no longer; units that have left stay away."""
        self.gates.close()
        self._questions.close()

    def plan(self) -> Plan:
        """Return the plan that removes what has left, and what it rests on: in `predicted` the gains of units
        that stay, on how many batches each was asked, the steps at which units left, and how many gates were
        undecided when all were settled; once asked for, `worth`: their gains at the end of training.
        """
        left = sorted(self._worth.keys() & self.gates.theta.keys())
        worth = {str(index): asdict(self._worth[index]) for index in left}
        return Plan.removing(
            self.chain,
            self.removed,
            budget=self.budget,
            method="concurrent",
            settings=asdict(self.settings),
            predicted={
                "price": self.prices.level,
                "gains": {str(index): gain for index, gain in sorted(self.decisions.means.items())},
                "asked": {str(index): gain.count for index, gain in sorted(self.decisions.gains.items())},
                "training_macs_saved": self.progress().saved,
                "undecided": self.decisions.undecided,
                "steps": self.done,
                "removed_at": {str(index): step for index, step in sorted(self.removed_at.items())},
                **({"worth": worth} if worth else {}),
            },
        )

    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed run needs of the pruner: JSON values, and the tensor `generator`."""
        return {
            **state_of(self.decisions),
            "agreed": self._agreed(),
            "done": self.done,
            "removed_at": {str(index): step for index, step in self.removed_at.items()},
            "compute": [self._compute.calls, self._compute.called, self._questions.macs],
            "random": self._questions.state(),
            "trace": asdict(self.trace),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the state of a run; do so before the network's and the optimiser's own are loaded, which
        then fit: units that had left leave now.

        Raises:
            ConfigError: If the state is of another number of steps, budget or settings.
        """
        check_agreed(state["agreed"], self._agreed())
        restore_(self.decisions, state)
        self.done = int(state["done"])
        self.removed_at = {int(index): int(at) for index, at in state["removed_at"].items()}
        calls, self._compute.called, self._questions.macs = map(float, state["compute"])
        self._compute.calls = int(calls)
        self._questions.restore_(state["random"])
        self.trace = Trace(**copy.deepcopy(state["trace"]))

    def _note(self) -> None:
        theta = dict.fromkeys(self.gates.removed, 0.0) | self.gates.theta
        macs = self._compute.expected(theta)
        self.trace.note(self.done, theta, units=len(self.chain), macs=macs, price=self.prices.level)

    def _agreed(self) -> dict[str, Any]:
        """What a resumed run must have in common with the one before."""
        asked = {
            "steps": self.steps,
            "budget": str(self.budget),
            "price": None if self.price is None else str(self.price),
        }
        return (
            {"version": _VERSION}
            | asdict(self.settings)
            | asked
            | {"units": [unit.name for unit in self.chain]}
        )
