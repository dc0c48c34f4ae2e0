"""Methods side by side: the same network, units, data, budgets, seeds and healing for all of them."""

from shoal.comparing.contenders import check_seeds, contenders
from shoal.comparing.running import compare

__all__ = ["check_seeds", "compare", "contenders"]
