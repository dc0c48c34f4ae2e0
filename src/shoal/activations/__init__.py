"""What the units of a network put out while it runs. Hooks live only inside a `with`."""

from shoal.activations.boundaries import Boundaries, watching
from shoal.activations.replay import Replay, sharing_order
from shoal.activations.rows import Rows, flattened, lies_channels_last, rows_of

__all__ = [
    "Boundaries",
    "Replay",
    "Rows",
    "flattened",
    "lies_channels_last",
    "rows_of",
    "sharing_order",
    "watching",
]
