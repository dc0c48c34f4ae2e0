"""Random Llama checkpoints of any size in several shards, written without the network in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import ceil, sqrt
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

LAYERS = 24
VOCABULARY = 8192
HEADS, KEY_HEADS = 16, 4
_STEP = 8 * HEADS


def write_llama(
    folder: Path, gigabytes: float, dtype: torch.dtype = torch.float32, *, shards: int = 8, seed: int = 0
) -> Path:
    """Write a folder that `LlamaForCausalLM.from_pretrained` loads, and return it.

    It has at least 24 layers, untied embeddings of 8,192 tokens, and random weights.

    Args:
        folder: Where to; made where there is none.
        gigabytes: Bytes of the weights at least, in 10⁹.
        dtype: Of the weights.
        shards: How many files the weights are written to.
        seed: Of the weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = ceil(gigabytes * 1e9 / dtype.itemsize)
    # A layer has 2 + 2 / 4 for attention and 3 × 8 / 3 for its MLP: 10.5 width² weights.
    width = max(_STEP, round(sqrt(wanted / LAYERS / 10.5) / _STEP) * _STEP)
    shapes = _shapes(width, 1)
    layer = sum(_size(shape) for name, shape in shapes.items() if ".layers." in name)
    outside = sum(map(_size, shapes.values())) - layer
    layers = max(LAYERS, ceil((wanted - outside) / layer))
    shapes = _shapes(width, layers)
    _write_shards(folder, shapes, dtype, shards, seed)
    _write_config(folder, width, layers, dtype)
    return folder


def _shapes(width: int, layers: int) -> dict[str, tuple[int, ...]]:
    narrow = width // HEADS * KEY_HEADS
    parts: dict[str, tuple[int, ...]] = {
        "input_layernorm": (width,),
        "self_attn.q_proj": (width, width),
        "self_attn.k_proj": (narrow, width),
        "self_attn.v_proj": (narrow, width),
        "self_attn.o_proj": (width, width),
        "post_attention_layernorm": (width,),
        "mlp.gate_proj": (width * 8 // 3, width),
        "mlp.up_proj": (width * 8 // 3, width),
        "mlp.down_proj": (width, width * 8 // 3),
    }
    blocks = {
        f"model.layers.{number}.{part}.weight": shape
        for number in range(layers)
        for part, shape in parts.items()
    }
    ends: dict[str, tuple[int, ...]] = {"model.norm.weight": (width,), "lm_head.weight": (VOCABULARY, width)}
    return {"model.embed_tokens.weight": (VOCABULARY, width), **blocks, **ends}


def _size(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()


def _write_shards(
    folder: Path, shapes: dict[str, tuple[int, ...]], dtype: torch.dtype, shards: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    places: dict[str, str] = {}
    for number, names in enumerate(_divided(shapes, shards), start=1):
        file = f"model-{number:05d}-of-{shards:05d}.safetensors"
        tensors = {name: _drawn(shapes[name], dtype, generator) for name in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(names, file)
    total = sum(map(_size, shapes.values())) * dtype.itemsize
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _divided(shapes: dict[str, tuple[int, ...]], shards: int) -> Iterator[list[str]]:
    """Cut the names, in order, into as many runs of about the same number of weights."""
    total, before = sum(map(_size, shapes.values())), 0
    runs: list[list[str]] = [[] for _ in range(shards)]
    for name, shape in shapes.items():
        runs[before * shards // total].append(name)
        before += _size(shape)
    yield from runs


def _drawn(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    if len(shape) == 1:
        return torch.ones(shape, dtype=dtype)
    return torch.empty(shape, dtype=dtype).normal_(0.0, 0.02, generator=generator)


def _write_config(folder: Path, width: int, layers: int, dtype: torch.dtype) -> None:
    from transformers import LlamaConfig

    LlamaConfig(
        hidden_size=width,
        intermediate_size=width * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS,
        head_dim=width // HEADS,
        vocab_size=VOCABULARY,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        architectures=["LlamaForCausalLM"],
        dtype=str(dtype).removeprefix("torch."),
    ).save_pretrained(folder)
