"""What a network's cost is worth to whoever trains it: a fixed price, in one quantity or in several."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import cast, get_args

from shoal.budget import Quantity
from shoal.errors import ConfigError

__all__ = ["Price"]

_FORMS = "0.1 (of MACs), params=0.3, latency=0.1, macs=0.1,params=0.05"


@dataclass(frozen=True)
class Price:
    """The mean loss that all of the network's MACs, parameters, latency or units are worth.

    A unit's price is its share of each, added up: with MACs at ν (1 − s) and parameters at ν s that is the
    pricing of Guenter & Sideris, 2024, "Complexity-Aware Training of Deep Neural Networks for Optimal
    Structure Discovery", https://arxiv.org/abs/2411.09127, for layers alone (as far as it is known).

    Attributes:
        levels: Quantities, each with the loss that all of it is worth, 0 or more.

    Example:
        >>> Price.parse("macs=0.1, params=0.05").levels
        (('macs', 0.1), ('params', 0.05))
        >>> str(Price.parse(0.3))
        'macs=0.3'
    """

    levels: tuple[tuple[Quantity, float], ...] = (("macs", 0.0),)

    def __post_init__(self) -> None:
        if not self.levels or not isinstance(self.levels, tuple) or not all(map(_is_level, self.levels)):
            raise ConfigError(f"asked for a price of {self.levels!r}: {_FORMS} work.")
        names = [name for name, _ in self.levels]
        if len({*names}) < len(names):
            raise ConfigError(
                f"asked for a price of {str(self)!r}, which names a quantity twice: {_FORMS} work."
            )
        if not all(0 <= level < math.inf for _, level in self.levels):
            raise ConfigError(f"asked for a price of {str(self)!r}: numbers from 0 upwards, {_FORMS}, work.")

    @classmethod
    def parse(cls, given: Price | float | str) -> Price:
        """Return the price that a number writes, of MACs, or `quantity=number`, several with commas.

        Raises:
            ConfigError: If it has another form, names a quantity twice, or is no number from 0 upwards.
        """
        if isinstance(given, Price):
            return given
        if isinstance(given, bool) or not isinstance(given, int | float | str):
            raise ConfigError(f"asked for a price of {given!r}: {_FORMS} work.")
        return cls(tuple(_level(part, given) for part in str(given).split(",")))

    def __str__(self) -> str:
        return ",".join(f"{name}={level!r}" for name, level in self.levels)


def _is_level(given: object) -> bool:
    match given:
        case (str(name), int() | float()):
            return name in get_args(Quantity)
    return False


def _level(part: str, whole: object) -> tuple[Quantity, float]:
    match = re.fullmatch(r"\s*(?:([A-Za-z]+)\s*=)?\s*([^\s=]+)\s*", part)
    try:
        level = float(match[2]) if match else math.nan
    except ValueError:
        level = math.nan
    if match is None or math.isnan(level):
        raise ConfigError(f"asked for a price of {whole!r}: numbers from 0 upwards, {_FORMS}, work.")
    return cast(Quantity, (match[1] or "macs").lower()), level
