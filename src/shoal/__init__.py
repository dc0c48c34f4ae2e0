"""shoal makes trained networks shallower. The public names, and nothing else.

Each name is imported from its module when it is first used, so that `import shoal` is quick and
planning works without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoal import methods
    from shoal.architectures import find_units
    from shoal.budget import Budget
    from shoal.comparing import compare
    from shoal.comparison import Comparison
    from shoal.errors import (
        BudgetError,
        ConfigError,
        DataError,
        MissingExtraError,
        PlanError,
        ShoalError,
        ShoalWarning,
        SurgeryError,
        UnitError,
        UnknownArchitectureError,
        VerificationError,
    )
    from shoal.measurement import measure
    from shoal.pipeline import compress
    from shoal.plan import Plan
    from shoal.result import CompressionResult, Evidence, Measurement
    from shoal.stages import analyze, make_plan
    from shoal.surgery import apply, expand, export_onnx, load, merge_layers, save, verify
    from shoal.tables import ImportanceTable, LatencyTable
    from shoal.training import ConcurrentPruner, ConcurrentSettings, FitSettings, HealSettings, heal, train
    from shoal.units import Chain, Segment, Segmentation, Unit

__version__ = "0.1.0"

__all__ = [
    "Budget",
    "BudgetError",
    "Chain",
    "Comparison",
    "CompressionResult",
    "ConcurrentPruner",
    "ConcurrentSettings",
    "ConfigError",
    "DataError",
    "Evidence",
    "FitSettings",
    "HealSettings",
    "ImportanceTable",
    "LatencyTable",
    "Measurement",
    "MissingExtraError",
    "Plan",
    "PlanError",
    "Segment",
    "Segmentation",
    "ShoalError",
    "ShoalWarning",
    "SurgeryError",
    "Unit",
    "UnitError",
    "UnknownArchitectureError",
    "VerificationError",
    "analyze",
    "apply",
    "compare",
    "compress",
    "expand",
    "export_onnx",
    "find_units",
    "heal",
    "load",
    "make_plan",
    "measure",
    "merge_layers",
    "methods",
    "save",
    "train",
    "verify",
]

_NAMES = {
    "shoal.architectures": ("find_units",),
    "shoal.budget": ("Budget",),
    "shoal.comparing": ("compare",),
    "shoal.comparison": ("Comparison",),
    "shoal.errors": tuple(name for name in __all__ if name.endswith(("Error", "Warning"))),
    "shoal.measurement": ("measure",),
    "shoal.pipeline": ("compress",),
    "shoal.plan": ("Plan",),
    "shoal.result": ("CompressionResult", "Evidence", "Measurement"),
    "shoal.stages": ("analyze", "make_plan"),
    "shoal.surgery": ("apply", "expand", "export_onnx", "load", "merge_layers", "save", "verify"),
    "shoal.tables": ("ImportanceTable", "LatencyTable"),
    "shoal.training": (
        "ConcurrentPruner",
        "ConcurrentSettings",
        "FitSettings",
        "HealSettings",
        "heal",
        "train",
    ),
    "shoal.units": ("Chain", "Segment", "Segmentation", "Unit"),
}
# Packages whose names the documentation writes out, as `shoal.training.pruning_callback`.
_PACKAGES = (
    "architectures",
    "data",
    "importance",
    "measurement",
    "methods",
    "reports",
    "surgery",
    "training",
)
_HOMES = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return import_module(f"shoal.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'shoal' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
