"""What a network is: model → Chain; how models of each library are loaded and kept consistent."""

from shoal.architectures.bypassing import bypassed, forward_replaced
from shoal.architectures.discovery import find_units
from shoal.architectures.examples import example_for
from shoal.architectures.head import Head, find_head
from shoal.architectures.hidden import Bypass, hidden_input, hidden_output, rebuild, replace_hidden

__all__ = [
    "Bypass",
    "Head",
    "bypassed",
    "example_for",
    "find_head",
    "find_units",
    "forward_replaced",
    "hidden_input",
    "hidden_output",
    "rebuild",
    "replace_hidden",
]
