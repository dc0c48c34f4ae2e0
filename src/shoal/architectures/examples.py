"""An example input for models that say themselves what they take (Hugging Face models)."""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch
from torch import nn

from shoal.calling import Inputs, device_of
from shoal.errors import ConfigError

__all__ = ["example_for"]

_TOKENS = 16


def example_for(model: nn.Module) -> Inputs:
    """Return a small example input, from the model's own config.

    Raises:
        ConfigError: If the model does not say what it takes.
    """
    config: Any = getattr(model, "config", None)
    name = getattr(model, "main_input_name", None)
    device = device_of(model)
    if config is not None and name == "input_ids" and hasattr(config, "vocab_size"):
        ids = torch.arange(_TOKENS, device=device).remainder(config.vocab_size)[None]
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        takes = signature(model.forward).parameters
        return inputs | ({"decoder_input_ids": ids} if "decoder_input_ids" in takes else {})
    if config is not None and name == "pixel_values" and hasattr(config, "image_size"):
        size = config.image_size
        height, width = size if isinstance(size, (tuple, list)) else (size, size)
        dtype = next(model.parameters()).dtype
        return {
            "pixel_values": torch.zeros(1, config.num_channels, height, width, device=device, dtype=dtype)
        }
    raise ConfigError(
        f"asked to run {type(model).__name__} without an example: only Hugging Face models of text or "
        "images say what they take. Pass example= (in Python) or --data (on the command line)."
    )
