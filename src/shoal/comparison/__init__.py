"""What a comparison found: a row for every network that was made and judged, and how methods stand.

Plain data; `shoal.comparing` makes it.
"""

from shoal.comparison.rows import Failure, Row
from shoal.comparison.standings import Comparison, Standing

__all__ = ["Comparison", "Failure", "Row", "Standing"]
