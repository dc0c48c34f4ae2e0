"""What the units of a network put out while it runs. Hooks live only inside a `with`."""

from shoal.activations.boundaries import Boundaries, watching
from shoal.activations.heap import lean_heap, trim_heap
from shoal.activations.replay import Replay, sharing_order
from shoal.activations.rows import Rows, flattened, lies_channels_last, rows_of
from shoal.activations.store import ActivationStore, activation_store
from shoal.activations.streaming import StreamedBatch, UnitStream

__all__ = [
    "ActivationStore",
    "Boundaries",
    "Replay",
    "Rows",
    "StreamedBatch",
    "UnitStream",
    "activation_store",
    "flattened",
    "lean_heap",
    "lies_channels_last",
    "rows_of",
    "sharing_order",
    "trim_heap",
    "watching",
]
