"""Declares what a CPU build of torch lacks for torchvision to be imported.

These tests run in an environment of their own (`make test-vision`): while torchvision is installed
beside such a build, transformers cannot be imported.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch

_DECLARED = []

if find_spec("torchvision") is not None:
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operator):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    # A library that is collected takes its operators with it.
    _DECLARED.append(library)
