"""Pure: similarity of units -> contiguous segments of like units, and how many of them there are."""

from shoal.segmentation.choice import bic, penalised, released_rule
from shoal.segmentation.fisher import released_backtracking, row_sums, segment_series, segment_similarity

__all__ = [
    "bic",
    "penalised",
    "released_backtracking",
    "released_rule",
    "row_sums",
    "segment_series",
    "segment_similarity",
]
