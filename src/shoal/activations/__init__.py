"""What the units of a network put out while it runs. Hooks live only inside a `with`."""

from shoal.activations.boundaries import Boundaries, watching
from shoal.activations.replay import recorded, replayed
from shoal.activations.rows import Rows, rows_of

__all__ = ["Boundaries", "Rows", "recorded", "replayed", "rows_of", "watching"]
