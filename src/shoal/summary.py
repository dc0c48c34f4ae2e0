"""What a plan remembers of the network that it was made for. Plain data, that people may edit: what is read
from JSON is checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shoal.errors import PlanError
from shoal.units import Chain

__all__ = ["DTYPES", "ModelSummary", "holds_tensor", "summary_from"]

DTYPES = frozenset(
    {"bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "bfloat16"}
    | {"float32", "float64", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"}
    | {"complex64", "complex128"}
)
"""Names of what inputs may hold, as PyTorch has them: planning does not know it."""

# What a summary's JSON has to hold, lists of it for the last two.
_KINDS = {"name": str, "params": int, "macs": int, "units": str, "unit_params": int}
_LISTS = ("units", "unit_params")
_TOLD = {str: "text", int: "a whole number from 0"}
_TOLD_LIST = {str: "a list of texts", int: "a list of whole numbers from 0"}


@dataclass(frozen=True, kw_only=True)
class ModelSummary:
    """What a plan remembers of the network that it was made for.

    Attributes:
        name: Class name of the network.
        params: Its parameters.
        macs: Its multiply-accumulates for the example that the units were found with.
        units: Dotted names of its units in forward order.
        unit_params: Parameters of each unit.
        inputs: Shapes and dtypes of the example, as `shoal.calling.describe_inputs` writes them; None
            where the plan can be applied without running the network.
    """

    name: str
    params: int
    macs: int
    units: tuple[str, ...]
    unit_params: tuple[int, ...]
    inputs: Any = field(default=None, hash=False, compare=False)

    @classmethod
    def of(cls, chain: Chain) -> ModelSummary:
        """Return the summary of the network whose units are `chain`."""
        return cls(
            name=chain.model,
            params=chain.params,
            macs=chain.macs,
            units=tuple(unit.name for unit in chain),
            unit_params=tuple(unit.params for unit in chain),
            inputs=chain.inputs,
        )


def summary_from(fields: Mapping[str, Any]) -> ModelSummary:
    """Return the summary that a plan's JSON writes.

    Raises:
        PlanError: If names, numbers or inputs are none.
    """
    for name, kind in _KINDS.items():
        _check_field(name, fields[name], kind)
    units, sizes, inputs = fields["units"], fields["unit_params"], fields.get("inputs")
    if len(units) != len(sizes):
        raise PlanError(
            f"asked to read a plan for {len(units)} units with {len(sizes)} unit_params: one for each unit "
            "works. Make the plan anew."
        )
    if wrong := _why_no_inputs(inputs):
        raise PlanError(
            f"asked to read a plan whose network takes inputs of which {wrong}. Tensors written as "
            '{"shape": [1, 3, 8, 8], "dtype": "float32"} work, numbers, texts and null, and {"tuple": […]} '
            'and {"mapping": {…}} of them. Make the plan anew.'
        )
    return ModelSummary(
        name=fields["name"],
        params=fields["params"],
        macs=fields["macs"],
        units=tuple(units),
        unit_params=tuple(sizes),
        inputs=inputs,
    )


def _check_field(name: str, value: Any, kind: type) -> None:
    """Check that a field of a summary is of its kind, or a list of that."""
    listed = name in _LISTS
    if listed and isinstance(value, list):
        odd = [each for each in value if not _is(each, kind)]
    else:
        odd = [] if not listed and _is(value, kind) else [value]
    if odd:
        raise PlanError(
            f"asked to read a plan for a network whose {name} {'hold' if listed else 'is'} {odd[0]!r}: "
            f"{(_TOLD_LIST if listed else _TOLD)[kind]} works. Make the plan anew."
        )


def _is(value: Any, kind: type) -> bool:
    # True is an integer to Python.
    return type(value) is kind and (not isinstance(value, int) or value >= 0)


def holds_tensor(described: Any) -> bool:
    """Return whether there is a tensor in inputs as `shoal.calling.describe_inputs` writes them.

    Example:
        >>> holds_tensor({"tuple": [None, {"shape": [1, 3], "dtype": "float32"}]})
        True
        >>> holds_tensor({"tuple": []})
        False
    """
    if not isinstance(described, Mapping):
        return False
    return "shape" in described or any(map(holds_tensor, _parts(described) or ()))


def _parts(described: Mapping[str, Any]) -> list[Any] | None:
    """What a tuple or a mapping of inputs holds; None where it is neither."""
    if described.keys() == {"tuple"} and isinstance(described["tuple"], list):
        return described["tuple"]
    if described.keys() == {"mapping"} and isinstance(described["mapping"], Mapping):
        return list(described["mapping"].values())
    return None


def _why_no_inputs(described: Any) -> str:
    """Why something does not describe inputs; empty where it does."""
    if described is None or isinstance(described, (bool, int, float, str)):
        return ""
    if not isinstance(described, Mapping):
        return f"one is {described!r}"
    if described.keys() == {"shape", "dtype"}:
        shape, dtype = described["shape"], described["dtype"]
        if not isinstance(shape, list) or not all(_is(size, int) for size in shape):
            return f"one has the shape {shape!r}: its sizes are whole numbers from 0"
        known = isinstance(dtype, str) and dtype in DTYPES
        return "" if known else f"one has the dtype {dtype!r}: there are {', '.join(sorted(DTYPES))}"
    parts = _parts(described)
    if parts is None:
        return f"one is {dict(described)!r}"
    return next(filter(None, map(_why_no_inputs, parts)), "")
