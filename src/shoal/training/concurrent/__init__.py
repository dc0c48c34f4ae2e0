"""Training and pruning at once: gates on units, what units are worth, and who leaves.

`pruner` tells the story; `gates` are what the network runs with, `rules` the plain numbers.
"""

from shoal.training.concurrent.pruner import ConcurrentPruner, PruningProgress
from shoal.training.concurrent.settings import PRESETS, ConcurrentSettings

__all__ = ["PRESETS", "ConcurrentPruner", "ConcurrentSettings", "PruningProgress"]
