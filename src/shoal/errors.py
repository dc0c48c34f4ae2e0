"""Every error that shoal raises on purpose.

A message has three parts: what was asked, what was found (with the values), what would work.

    ShoalError
    ├── UnknownArchitectureError (ValueError)   nothing removable was found
    ├── UnitError (ValueError)                  this unit cannot be removed, and why
    ├── BudgetError (ValueError)                no plan meets the budget; the nearest that can be had
    ├── PlanError (ValueError)                  the plan does not fit this model, or is too new
    ├── DataError (ValueError)                  batches that are empty, too few, non-finite, misshapen
    ├── SurgeryError (RuntimeError)             the edited model fails a post-condition
    ├── VerificationError (RuntimeError)        the saved folder does not reproduce the model
    ├── MissingExtraError (ImportError)         an optional dependency; names the extra to install
    └── ConfigError (ValueError)                a request that is wrong: option, name, path, recipe

Warnings are `ShoalWarning`, so that a caller can turn exactly shoal's into errors.
"""

__all__ = [
    "BudgetError",
    "ConfigError",
    "DataError",
    "MissingExtraError",
    "PlanError",
    "ShoalError",
    "ShoalWarning",
    "SurgeryError",
    "UnitError",
    "UnknownArchitectureError",
    "VerificationError",
]


class ShoalError(Exception):
    """The root of the tree: `except shoal.ShoalError` catches all that shoal raises on purpose."""


class UnknownArchitectureError(ShoalError, ValueError):
    """Nothing removable was found in a network; says what was tried and what would help."""


class UnitError(ShoalError, ValueError):
    """A unit cannot be removed: its shape, stride, shared weights or the model's config forbid it."""


class BudgetError(ShoalError, ValueError):
    """No plan meets the budget; the message names the nearest that can be had."""


class PlanError(ShoalError, ValueError):
    """A plan does not fit the model it is used on, is malformed, or was made by a newer version."""


class DataError(ShoalError, ValueError):
    """Batches are empty, too few, non-finite, or of the wrong shape."""


class SurgeryError(ShoalError, RuntimeError):
    """An edited model fails a post-condition."""


class VerificationError(ShoalError, RuntimeError):
    """A saved folder does not reproduce the model that was saved."""


class MissingExtraError(ShoalError, ImportError):
    """An optional dependency is needed.

    Args:
        package: The package that could not be imported, such as `"transformers"`.
        extra: The extra of shoal that brings it, such as `"hf"`.
        purpose: What it is needed for, as the end of "is needed …".
    """

    def __init__(self, package: str, *, extra: str, purpose: str) -> None:
        super().__init__(
            f"{package} is needed {purpose}, and is not installed here. "
            f"Install it with: pip install 'shoal[{extra}]'"
        )
        self.package = package
        self.extra = extra


class ConfigError(ShoalError, ValueError):
    """A request is wrong: an unknown name or option, a bad value, a missing path, a faulty recipe."""


class ShoalWarning(UserWarning):
    """Something that the user should know and that does not stop the work."""
