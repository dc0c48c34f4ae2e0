"""Pure: similarity of units -> contiguous segments of like units, and how many of them there are."""

from shoal.segmentation.choice import bic, penalised, released_rule
from shoal.segmentation.division import numbers_of_segments, released_segments
from shoal.segmentation.fisher import released_backtracking, row_sums, segment_series, segment_similarity

__all__ = [
    "bic",
    "numbers_of_segments",
    "penalised",
    "released_backtracking",
    "released_rule",
    "released_segments",
    "row_sums",
    "segment_series",
    "segment_similarity",
]
