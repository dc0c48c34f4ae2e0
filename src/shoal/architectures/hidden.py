"""The hidden state that a unit takes and returns, wherever its arguments and results carry it.

What a unit returns is described by JSON values (`describe`), so that a plan can say what stands in
for it when it is bypassed (`rebuild`):

    "hidden"                         the hidden state
    "zeros"                          zeros in its shape (a branch that is added elsewhere)
    {"arg": 1}, {"kwarg": "name"}    an argument handed through
    {"value": null}                  a constant
    {"tuple": […]}, {"list": […]}, {"dict": {…}}   a structure of these

A unit of several modules either hands its hidden state through all of them (`"hidden"`), or says for
each of them what stands in: `{"each": […]}`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "Bypass",
    "describe",
    "hidden_input",
    "hidden_output",
    "in_zeros",
    "rebuild",
    "replace_hidden",
    "stand_ins",
]

_CONSTANTS = (bool, int, float, str, type(None))


def hidden_input(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
    """Return the hidden state among a call's arguments: the first floating-point tensor, or None."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor) and value.is_floating_point():
            return value
    return None


def hidden_output(output: Any) -> Tensor | None:
    """Return the hidden state in what a call returned: its first floating-point tensor, or None."""
    if isinstance(output, Tensor):
        return output if output.is_floating_point() else None
    if isinstance(output, Mapping):
        output = tuple(output.values())
    if isinstance(output, (tuple, list)):
        first = next((value for value in output if isinstance(value, Tensor)), None)
        return first if first is not None and first.is_floating_point() else None
    return None


def describe(
    output: Any, args: Sequence[Any], kwargs: Mapping[str, Any], *, spare: bool = False
) -> Any | None:
    """Return where each returned value would come from if the call were bypassed.

    Args:
        output: What the call returned.
        args, kwargs: Its arguments.
        spare: Whether what only the call can make (attention weights) may be left out: None stands in
            its place.

    Returns:
        JSON values as in the module's docstring; None if something is returned that is neither the
        hidden state, nor an argument handed through, nor a constant.
    """
    return _describe(output, hidden_output(output), args, kwargs, {"value": None} if spare else None)


def _describe(
    value: Any, hidden: Tensor | None, args: Sequence[Any], kwargs: Mapping[str, Any], unknown: Any
) -> Any | None:
    if value is hidden and hidden is not None:
        return "hidden"
    if isinstance(value, _CONSTANTS):
        return {"value": value}
    for position, argument in enumerate(args):
        if value is argument:
            return {"arg": position}
    for name, argument in kwargs.items():
        if value is argument:
            return {"kwarg": name}
    if type(value) in (tuple, list):
        parts = [_describe(part, hidden, args, kwargs, unknown) for part in value]
        return None if None in parts else {type(value).__name__: parts}
    if type(value) is dict:
        entries = {key: _describe(part, hidden, args, kwargs, unknown) for key, part in value.items()}
        return None if None in entries.values() else {"dict": entries}
    return unknown


def in_zeros(description: Any) -> Any:
    """Return the description with zeros where the hidden state stood.

    Example:
        >>> in_zeros({"tuple": ["hidden", {"value": None}]})
        {'tuple': ['zeros', {'value': None}]}
    """
    if description == "hidden":
        return "zeros"
    if isinstance(description, dict) and not description.keys().isdisjoint({"tuple", "list", "dict"}):
        ((form, content),) = description.items()
        if isinstance(content, dict):
            return {form: {key: in_zeros(part) for key, part in content.items()}}
        return {form: [in_zeros(part) for part in content]}
    return description


def rebuild(description: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Return what a call with these arguments returns when it is bypassed.

    Raises:
        ValueError: If the arguments hold no hidden state, or the description is malformed.
    """
    if description in ("hidden", "zeros"):
        hidden = hidden_input(args, kwargs)
        if hidden is None:
            raise ValueError("a bypassed unit was called without a floating-point tensor.")
        return hidden if description == "hidden" else torch.zeros_like(hidden)
    if isinstance(description, dict) and len(description) == 1:
        ((form, content),) = description.items()
        if form == "value":
            return content
        if form == "arg":
            return args[content] if content < len(args) else None
        if form == "kwarg":
            return kwargs.get(content)
        if form in ("tuple", "list"):
            parts = [rebuild(part, args, kwargs) for part in content]
            return tuple(parts) if form == "tuple" else parts
        if form == "dict":
            return {key: rebuild(part, args, kwargs) for key, part in content.items()}
    raise ValueError(f"{description!r} does not describe what a unit returns.")


def replace_hidden(output: Any, hidden: Tensor) -> Any:
    """Return `output` with `hidden` in place of its hidden state; the structure stays."""
    old = hidden_output(output)
    if output is old:
        return hidden
    if isinstance(output, Mapping):
        replaced: Any = copy(output)
        for key, part in output.items():
            if part is old:
                replaced[key] = hidden
        return replaced
    parts = [hidden if part is old else part for part in output]
    if isinstance(output, list):
        return parts
    return tuple(parts) if type(output) is tuple else type(output)(*parts)


class Bypass(nn.Module):
    """Stands where a unit was and hands its input through, in the structure that the unit returned.

    Args:
        outputs: What the unit returned, as `describe` says it.
    """

    def __init__(self, outputs: Any = "hidden") -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the arguments' hidden state in the unit's structure."""
        return rebuild(self.outputs, args, kwargs)


def stand_ins(outputs: Any, count: int) -> list[nn.Module]:
    """Return what stands in for a bypassed unit, a module for each of its own.

    Args:
        outputs: What the unit returned, as `Unit.outputs` says it.
        count: How many modules it consists of.

    Example:
        >>> [type(module).__name__ for module in stand_ins("hidden", 2)]
        ['Bypass', 'Identity']
    """
    if isinstance(outputs, dict) and "each" in outputs:
        return [Bypass(description) for description in outputs["each"]]
    return [Bypass(outputs), *(nn.Identity() for _ in range(count - 1))]
