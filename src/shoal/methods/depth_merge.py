"""Depth compression by activations alone: activations go, all convolutions stay and merge.

The predecessor of LayerMerge, and its special case without pruning of layers: merged kernels grow with every
convolution that is taken in.

Reference: Kim et al., 2023, "Efficient Latency-Aware CNN Depth Compression via Two-Stage Dynamic
Programming", https://arxiv.org/abs/2301.12187.
"""

from __future__ import annotations

from shoal.methods.merges import MERGES_ALONE, special_case

__all__ = ["METHOD"]

METHOD = special_case(
    "depth_merge",
    "drop activations alone so that neighbouring convolutions merge whole (CNNs)",
    MERGES_ALONE,
)
