"""Which gates move, which units leave for good, and how all gates are settled in the end."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch.optim import Optimizer

from shoal.errors import ShoalWarning
from shoal.training.concurrent.attraction import Attraction
from shoal.training.concurrent.gates import Gates
from shoal.training.concurrent.prices import UnitPrices
from shoal.training.concurrent.rules import Gain, moved
from shoal.training.concurrent.settings import ConcurrentSettings

__all__ = ["Decisions"]

# Share of all steps in which a worthless unit loses its gate.
_TIME_TO_LEAVE = 0.2
# By what power of e the price changes over the window for a share of 1 too much.
_HASTE = 100.0
# Share of the window after which a budget should be met.
_IN_TIME = 0.6


@dataclass(kw_only=True)
class Decisions:
    """What becomes of the gates of one run.

    Attributes:
        gates: The gates.
        prices: What units have to be worth.
        settings: How gates are trained.
        steps: Steps of the whole training.
        led: Whether prices are led so that a budget is met.
        optimizer: Which loses the weights of units that leave.
        gains: Unit → what is known of its gain.
        attraction: With the condition `attracted`: where training can only draw units to zero.
        frozen: Whether all gates are settled.
        undecided: How many were still between 0.01 and 0.99 when they were.
    """

    gates: Gates
    prices: UnitPrices
    settings: ConcurrentSettings
    steps: int
    led: bool
    optimizer: Optimizer | None
    attraction: Attraction | None = None
    gains: dict[int, Gain] = field(default_factory=dict)
    frozen: bool = False
    undecided: int = 0
    _told: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.gains = {index: Gain(memory=self.settings.memory) for index in self.gates.theta}

    @property
    def first(self) -> int:
        """The last step of the warm-up, after which gates move."""
        return math.ceil(self.settings.warmup * self.steps)

    @property
    def last(self) -> int:
        """The step after which no gate moves."""
        return min(self.steps, max(self.first + 1, round(self.settings.window * self.steps)))

    def asked(self, step: int) -> int:
        """Return how many units are asked in a step: some every so many, from the middle of the warm-up on;
        all before prices begin, and before gates are settled.
        """
        if step == max(1, self.first) or step >= self.last:
            return len(self.gates.theta)
        probes, every = self._pace()
        return probes if step > self.first // 2 and step % every == 0 else 0

    def _pace(self) -> tuple[int, int]:
        units, left = len(self.gates.chain.removable), len(self.gates.theta)
        return self.settings.pace(units, left, self.last - self.first)

    @property
    def means(self) -> dict[int, float]:
        """What each unit that is left is worth, as far as is known."""
        return {index: self.gains[index].mean for index in self.gates.theta}

    def after(self, step: int, gains: Mapping[int, float]) -> list[int]:
        """Take in what a step has told of gains, and return the units that leave.

        Args:
            step: Its number, from 1.
            gains: Unit → its gain on that batch.
        """
        # Without a unit, or with it, the loss may overflow: such a batch says nothing of how much.
        gains = {index: gain for index, gain in gains.items() if math.isfinite(gain)}
        for index, gain in gains.items():
            self.gains[index].add(gain)
            if self.attraction is not None:
                self.attraction.note(index, self.gains[index].mean)
        gone: list[int] = []
        if self.led and step >= max(1, self.first) and not self._begun:
            # Units that have learnt little yet are worth more later on.
            self.prices.start(self.means)
        if step > self.first:
            gone = self._move(step, gains)
        if step >= self.last or (self.led and self.prices.is_met(self.gates.removed)):
            gone += self.freeze()
        return gone

    @property
    def _begun(self) -> bool:
        """Whether gates shut already, or units have left."""
        theta, start = self.gates.theta, self.settings.start
        return bool(self.gates.removed) or math.fsum(theta.values()) < start * len(theta)

    def freeze(self) -> list[int]:
        """Settle all gates by what units are worth, and return the units that leave."""
        self.undecided = sum(0.01 < theta < 0.99 for theta in self.gates.theta.values())
        going = self._surplus() if self.led else self._unworthy()
        for index in going:
            self.gates.remove_(index, self.optimizer)
        if self.led:
            known = {index: gain for index, gain in self.means.items() if self.gains[index].count}
            self.prices.settle(known, self.gates.removed)
        self.gates.theta = dict.fromkeys(self.gates.theta, 1.0)
        self.frozen = self.gates.settled_for_good = True
        return going

    def _surplus(self) -> list[int]:
        # Where no batch gave a finite gain, nobody knows that the network works without: those go last.
        worth = {index: gain if self.gains[index].count else math.inf for index, gain in self.means.items()}
        return list(self.prices.surplus(worth, self.gates.removed))

    def _unworthy(self) -> list[int]:
        """The units worth less than their price on the running average, but for the last of a stage."""
        short = {index: gain - self.prices.price(index) for index, gain in self.means.items()}
        going: list[int] = []
        for index in sorted(short, key=lambda index: short[index]):
            if self.gains[index].count and short[index] < 0 and not self._is_last(index, going):
                going.append(index)
        return going

    def _move(self, step: int, gains: Mapping[int, float]) -> list[int]:
        """Move the gates of the units that were asked, and return the units that leave."""
        gates, prices, settings = self.gates, self.prices, self.settings
        if self.led:
            done = (step - self.first) / (self.last - self.first)
            target = 1 - (1 - prices.goal) * min(1.0, done / _IN_TIME)
            expected = prices.expected(gates.theta, gates.removed)
            prices.lead(expected, target, haste=_HASTE / (self.last - self.first))
        mean = math.fsum(map(prices.price, gates.theta)) / max(1, len(gates.theta))
        if mean <= 0:
            return []
        undecided = sum(theta < 1 for theta in gates.theta.values())
        for index, gain in gains.items():
            price = prices.price(index)
            gates.theta[index] = moved(
                gates.theta[index],
                gain,
                price,
                # What is worth nothing loses its gate in the same time, dear or cheap.
                step=settings.haste * settings.start / ((price or mean) * _TIME_TO_LEAVE * self.steps),
                share=max(1.0, self._pace()[1] * undecided / max(1, len(gains))),
                deviation=self.gains[index].deviation,
            )
        return self._leaving(gains)

    def _leaving(self, asked: Mapping[int, float]) -> list[int]:
        """Remove the units whose gates are nearly shut and who are not worth their price; open the gates of
        others a little.
        """
        gates, gone = self.gates, []
        for index in asked:
            if gates.theta[index] > self.settings.tolerance:
                continue
            if self._goes(index):
                gates.remove_(index, self.optimizer)
                gone.append(index)
            else:
                gates.theta[index] = self.settings.floor
        return gone

    def _goes(self, index: int) -> bool:
        if self.led and index not in self._surplus():
            return False
        gain = self.gains[index]
        if math.isinf(gain.error):
            return False
        price = self.prices.price(index)
        if self.attraction is not None:
            theta = self.gates.theta[index]
            goes = self.attraction.draws(index, theta, price, self.optimizer)
        else:
            goes = gain.mean + self.settings.confidence * gain.error < price
        return goes and not self._is_last(index)

    def _is_last(self, index: int, going: Sequence[int] = ()) -> bool:
        """Whether a unit has to stay as the last of its stage; warns once of each."""
        unit = self.gates.chain[index]
        if not self.prices.is_last(index, {*self.gates.removed, *going}):
            return False
        if unit.group not in self._told:
            self._told.add(unit.group)
            warnings.warn(
                f"unit {index} ({unit.name}) stays although it is not worth its price: it is the last of its "
                "stage. At a lower price, or with a larger budget, others stay too.",
                ShoalWarning,
                stacklevel=2,
            )
        return True
