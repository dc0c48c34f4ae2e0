"""Layer-only pruning: single convolutions go with their activations; nothing merges.

The special case of LayerMerge without merges, to be compared with it: a knapsack of layers by what their
removal loses and saves.

Reference: Kim et al., 2024, "LayerMerge: Neural Network Depth Compression through Layer Pruning and
Merging", https://arxiv.org/abs/2406.12837 (the released code's LayerOnly).
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

RULES = EntryRules(merge=False)

# Layers that stay as they are need not be learnt anew: the sum of added losses is made small.
PUBLISHED = replace(MergeLossSettings.published(), fresh_single=False)


def choose(request: Request, settings: MergeSettings) -> Plan:
    """Return the plan that removes single convolutions.

    Raises:
        BudgetError: If no plan meets the budget; names the nearest that can be had.
        DataError: If the data does not allow the losses that are asked for.
        UnknownArchitectureError: If no convolution of the network can be followed.
    """
    return choose_merges(request, settings, method="layer_only", rules=RULES)


METHOD = Method(
    name="layer_only",
    help="single convolutions by what their removal loses and saves; LayerMerge without merges (CNNs)",
    settings=MergeSettings,
    presets={
        "default": MergeSettings(),
        "paper": MergeSettings(importance=PUBLISHED, measure="all", time_all=True),
    },
    choose=choose,
    granularity="layer",
    times_itself=True,
)
