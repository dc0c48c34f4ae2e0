"""Training and pruning at once: gates on units, what units are worth, and who leaves.

`pruner` tells the story; `gates` are what the network runs with, `rules` the plain numbers.
"""

from shoal.training.concurrent.price import Price
from shoal.training.concurrent.progress import PruningProgress
from shoal.training.concurrent.pruner import ConcurrentPruner
from shoal.training.concurrent.settings import PRESETS, ConcurrentSettings

__all__ = ["PRESETS", "ConcurrentPruner", "ConcurrentSettings", "Price", "PruningProgress"]
