"""What may remain of a network: a number of units, parameters, MACs, or seconds of latency."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal, get_args

from shoal.errors import BudgetError

__all__ = ["Budget", "Quantity"]

Quantity = Literal["units", "params", "macs", "latency"]
QUANTITIES: tuple[str, ...] = get_args(Quantity)
_SUFFIXES = {"k": 1e3, "m": 1e6, "g": 1e9, "ms": 1e-3, "s": 1.0, "us": 1e-6}
# How far above it a number may be rounded, relative: shares are rounded themselves.
_SLACK = 1e-9
_FORMS = "units=20, params=0.7, macs=0.5, latency=0.6, latency=12ms, macs=60M"


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What may remain after compression.

    Attributes:
        quantity: `units`, `params`, `macs` or `latency`.
        limit: The most that may remain: a count (seconds for latency), or a share of the original.
        relative: Whether `limit` is a share, in (0, 1].

    Example:
        >>> Budget.parse("macs=0.6").allowance(1000)
        600.0
        >>> Budget.parse("units=20").allowance(27)
        20.0
        >>> str(Budget.parse("latency=12ms"))
        'latency=0.012s'
    """

    quantity: Quantity
    limit: float
    relative: bool

    def __post_init__(self) -> None:
        if self.quantity not in QUANTITIES:
            raise BudgetError(
                f"asked for a budget of {self.quantity!r}: budgets are of {', '.join(QUANTITIES)}."
            )
        if self.relative and not 0 < self.limit <= 1:
            raise BudgetError(
                f"asked for {self.quantity}={self.limit:g}: a share of the original lies above 0 "
                f"and is at most 1. Forms that work: {_FORMS}."
            )
        if not self.relative and not self.limit > 0:
            raise BudgetError(
                f"asked for {self.quantity}={self.limit:g}: what may remain must be more than "
                f"nothing. Forms that work: {_FORMS}."
            )

    @classmethod
    def parse(cls, text: str | Budget) -> Budget:
        """Return the budget that `text` writes: `quantity=number`, with an optional suffix.

        An integer counts; a number with a point is a share of the original; `k M G` multiply a
        count; latency in absolute terms needs `s`, `ms` or `us`.

        Raises:
            BudgetError: If the text has another form, an unknown quantity or an impossible value.
        """
        if isinstance(text, Budget):
            return text
        if not isinstance(text, str):
            raise BudgetError(f"asked for the budget {text!r}: forms that work are {_FORMS}.")
        match = re.fullmatch(r"\s*([A-Za-z_]+)\s*=\s*([0-9]*\.?[0-9]+(?:e-?\d+)?)\s*([A-Za-z]*)\s*", text)
        if match is None:
            raise BudgetError(f"asked for the budget {text!r}: forms that work are {_FORMS}.")
        name, number, suffix = match[1].lower(), match[2], match[3].lower()
        if name not in QUANTITIES:
            near = get_close_matches(name, QUANTITIES, n=1, cutoff=0.0)[0]
            raise BudgetError(
                f"asked for a budget of {name!r}: budgets are of {', '.join(QUANTITIES)}; "
                f"the nearest is {near!r}."
            )
        timed = suffix in ("s", "ms", "us")
        if (suffix and suffix not in _SUFFIXES) or (suffix and timed != (name == "latency")):
            raise BudgetError(
                f"asked for the budget {text!r}: {match[3]!r} is no unit of {name}. "
                f"Forms that work: {_FORMS}."
            )
        relative = not suffix and ("." in number or "e" in number)
        if name == "latency" and not suffix and not relative:
            relative = float(number) == 1
            if not relative:
                raise BudgetError(
                    f"asked for {text!r}: write a share (latency=0.6) or a time with its unit (latency=12ms)."
                )
        limit = float(number) * _SUFFIXES.get(suffix, 1.0)
        return cls(quantity=name, limit=limit, relative=relative)  # type: ignore[arg-type]

    def allowance(self, original: float) -> float:
        """Return the most that may remain of `original`, in its unit (numbers, or seconds)."""
        return self.limit * original if self.relative else self.limit

    def nearest(self, remains: float, original: float) -> Budget:
        """Return the tightest budget of the same form that so much meets.

        Shares and seconds are rounded up to three digits. What is nothing leaves a 1000th, as no budget is
        zero.

        Args:
            remains: What remains, in the unit of `original`.
            original: All that there was.

        Example:
            >>> str(Budget.parse("latency=0.1").nearest(0.12341, 1.0))
            'latency=0.124'
        """
        remains = max(remains, original / 1000)
        if self.relative:
            limit = min(_rounded_up(remains / original), 1.0)
        elif self.quantity == "latency":
            limit = _rounded_up(remains)
        else:
            limit = float(math.ceil(remains))
        return Budget(quantity=self.quantity, limit=limit, relative=self.relative)

    def __str__(self) -> str:
        if self.relative:
            return f"{self.quantity}={self.limit!r}"
        if self.quantity == "latency":
            return f"{self.quantity}={self.limit:g}s"
        return f"{self.quantity}={self.limit:.0f}"


def _rounded_up(value: float) -> float:
    """Return `value` with three significant digits, not below it."""
    if value <= 0:
        return 0.0
    places = 2 - math.floor(math.log10(value))
    # The slack keeps 0.137 from becoming 0.138 by its binary rounding.
    return float(f"{math.ceil(value * 10.0**places * (1 - _SLACK)) / 10.0**places:.3g}")
