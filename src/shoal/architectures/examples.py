"""An example input for models that say themselves what they take (Hugging Face models)."""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

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
    words = _words(model, config)
    if name == "input_ids" and words is not None:
        inputs = {"input_ids": words, "attention_mask": torch.ones_like(words)}
    elif name == "pixel_values" and hasattr(config, "image_size"):
        size = config.image_size
        height, width = size if isinstance(size, (tuple, list)) else (size, size)
        return {name: _silence(model, config.num_channels, height, width)}
    elif (
        name == "input_features"
        and hasattr(config, "num_mel_bins")
        and hasattr(config, "max_source_positions")
    ):
        # Its first layers halve the number of frames.
        inputs = {name: _silence(model, config.num_mel_bins, 2 * config.max_source_positions)}
    else:
        raise ConfigError(
            f"asked to run {type(model).__name__} without an example: only Hugging Face models of text, "
            "images or spectrograms say what they take. Pass example= (in Python) or --data (on the command "
            "line)."
        )
    decodes = words is not None and "decoder_input_ids" in signature(model.forward).parameters
    return inputs | ({"decoder_input_ids": words} if decodes else {})


def _words(model: nn.Module, config: Any) -> Tensor | None:
    """Token ids `(1, T)` of the vocabulary that the config, or the one of its text inside it, names."""
    if not hasattr(config, "vocab_size") and hasattr(config, "get_text_config"):
        config = config.get_text_config()
    if not hasattr(config, "vocab_size"):
        return None
    return torch.arange(_TOKENS, device=_device(model)).remainder(config.vocab_size)[None]


def _silence(model: nn.Module, *shape: int) -> Tensor:
    return torch.zeros(1, *shape, device=_device(model), dtype=next(model.parameters()).dtype)


def _device(model: nn.Module) -> torch.device:
    """Where the model takes its inputs; a network without weights is run on the CPU."""
    device = device_of(model)
    return torch.device("cpu") if device.type == "meta" else device
