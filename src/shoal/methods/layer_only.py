"""Layer-only pruning: single convolutions go with their activations; nothing merges.

The special case of LayerMerge without merges, to be compared with it: a knapsack of layers by what their
removal loses and saves.

Reference: Kim et al., 2024, "LayerMerge: Neural Network Depth Compression through Layer Pruning and
Merging", https://arxiv.org/abs/2406.12837 (the released code's LayerOnly).
"""

from __future__ import annotations

from shoal.methods.merges import REMOVALS_ALONE, special_case

__all__ = ["METHOD"]

METHOD = special_case(
    "layer_only",
    "single convolutions by what their removal loses and saves; LayerMerge without merges (CNNs)",
    REMOVALS_ALONE,
)
