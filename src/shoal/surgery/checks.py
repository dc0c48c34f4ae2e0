"""What was checked of a folder, as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

__all__ = ["DEPTHS", "Check", "Depth", "Verification"]

Depth = Literal["auto", "full", "structure"]
DEPTHS: tuple[Depth, ...] = ("auto", "full", "structure")


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was checked.

    Attributes:
        name: What.
        passed: Whether it holds; None where it does not apply or could not be checked.
        detail: What was found, or why it was not checked.
    """

    name: str
    passed: bool | None
    detail: str

    def __str__(self) -> str:
        return f"{self.name}: {self.detail}"


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was checked of a folder.

    Attributes:
        folder: The folder.
        checks: What was checked, in order.
    """

    folder: Path
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(check.passed is not False for check in self.checks)

    def as_json(self) -> dict[str, Any]:
        """Return the verification as JSON values."""
        return {"passed": self.passed, "checks": [asdict(check) for check in self.checks]}
