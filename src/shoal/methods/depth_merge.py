"""Depth compression by activations alone: activations go, all convolutions stay and merge.

The predecessor of LayerMerge, and its special case without pruning of layers: merged kernels grow with every
convolution that is taken in.

Reference: Kim et al., 2023, "Efficient Latency-Aware CNN Depth Compression via Two-Stage Dynamic
Programming", https://arxiv.org/abs/2301.12187.
"""

from __future__ import annotations

from dataclasses import replace

from shoal.importance import MergeLossSettings
from shoal.methods import Method
from shoal.methods.merges import MergeSettings, choose_merges
from shoal.methods.request import Request
from shoal.plan import Plan
from shoal.surgery import EntryRules

__all__ = ["METHOD", "choose"]

RULES = EntryRules(prune=False, empty=False)

# Layers that stay as they are need not be learnt anew: the sum of added losses is made small.
PUBLISHED = replace(MergeLossSettings.published(), fresh_single=False)


def choose(request: Request, settings: MergeSettings) -> Plan:
    """Return the plan that merges segments of convolutions whole.

    Raises:
        BudgetError: If no plan meets the budget; names the nearest that can be had.
        DataError: If the data does not allow the losses that are asked for.
        UnknownArchitectureError: If no convolution of the network can be followed.
    """
    return choose_merges(request, settings, method="depth_merge", rules=RULES)


METHOD = Method(
    name="depth_merge",
    help="drop activations alone so that neighbouring convolutions merge whole (CNNs)",
    settings=MergeSettings,
    presets={
        "default": MergeSettings(),
        "paper": MergeSettings(importance=PUBLISHED, measure="all", time_all=True),
    },
    choose=choose,
    granularity="layer",
    times_itself=True,
)
