"""What stock loaders make of a model of transformers: whether its config builds it, and nothing else.

A stock loader builds the network that the config describes and fills in the weights; what the file
lacks it draws at random.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from shoal.architectures.functions import HOW_TO_BUILD
from shoal.architectures.pretrained import dtype_of, forget_code_, quiet, transformers_for
from shoal.architectures.skeletons import difference_of, listed, refusals, skeleton, stand_ins_of
from shoal.architectures.trials import FAILURES
from shoal.errors import ConfigError

__all__ = [
    "build_from_config",
    "read_config",
    "why_not_stock",
    "write_config",
]


def why_not_stock(model: nn.Module) -> str:
    """Return why a stock loader would not give this model of transformers back; empty if it would."""
    instead = stand_ins_of(model)
    if instead:
        return f"stand-ins take the places of {listed(instead)}, which its config cannot say"
    if getattr(model, "hf_quantizer", None) is not None or getattr(model, "_hf_peft_config_loaded", False):
        # Its weights are not those that the config describes, and were not to be.
        return ""
    built = skeleton(type(model), model.config)
    return "" if built is None else difference_of(model, built)


def write_config(model: nn.Module, config: Any, folder: Path) -> None:
    """Write the config that a model is built again from, and its generation config where it has one."""
    config = copy.deepcopy(config)
    forget_code_(config, type(model))
    config.architectures, config.dtype = [type(model).__name__], dtype_of(model)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with quiet():
        config.save_pretrained(folder)
        generation = getattr(model, "generation_config", None)
        if generation is not None:
            generation.save_pretrained(folder)


def read_config(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """Return the config that `write_config` wrote.

    Raises:
        MissingExtraError: If transformers is not installed.
        ConfigError: If it cannot be read.
    """
    transformers = transformers_for("to read the config of the original network")
    try:
        with quiet():
            return transformers.AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except refusals(OSError) as error:
        raise ConfigError(_not_built(folder, str(error))) from error


def build_from_config(folder: Path, *, trust_remote_code: bool = False) -> nn.Module:
    """Return the network that `write_config` described; its weights are of no matter.

    Raises:
        MissingExtraError: If transformers is not installed.
        ConfigError: If the config cannot be read, or transformers does not have the class.
    """
    config = read_config(folder, trust_remote_code=trust_remote_code)
    transformers = transformers_for("to build the original network")
    if not config.architectures:
        raise ConfigError(_not_built(folder, "it names no class"))
    stock: Any = getattr(transformers, config.architectures[0], None)
    known = isinstance(stock, type) and issubclass(stock, transformers.PreTrainedModel)
    if stock is not None and not known:
        raise ConfigError(_not_built(folder, f"{config.architectures[0]} is no model of transformers"))
    try:
        with quiet(), torch.random.fork_rng(devices=[]):
            if stock is not None:
                model = cast(Any, stock)._from_config(config)
            else:
                automatic = getattr(transformers, _automatic(config))
                model = automatic.from_config(config, trust_remote_code=trust_remote_code)
            if (folder / "generation_config.json").is_file():
                model.generation_config = transformers.GenerationConfig.from_pretrained(folder)
    except (OSError, *FAILURES) as error:
        raise ConfigError(_not_built(folder, str(error))) from error
    return model


def _automatic(config: Any) -> str:
    """The `AutoModel…` for a class of the model's own code."""
    names = getattr(config, "auto_map", None) or {}
    return next((name for name in names if name.startswith("AutoModelFor")), "AutoModel")


def _not_built(folder: Path, reason: str) -> str:
    first = reason.strip().split("\n")[0].rstrip(".")
    return f"asked to build the network that {folder} describes: {first}. {HOW_TO_BUILD}"
