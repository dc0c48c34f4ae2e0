"""The networks of which something cannot be shown, each with the true reason: declared here, and tested to
be so still.

A row holds for one major version of transformers, or for all.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

import transformers

__all__ = ["MAJOR", "ROWS", "Row", "row_of"]

MAJOR = int(transformers.__version__.partition(".")[0])
Part = Literal["running", "cutting", "cache"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """What cannot be shown of a network.

    Attributes:
        name: The family, or the class of `ENCODERS`.
        part: `running`: it cannot be built, or run, or nothing in it is a layer of its own. `cutting`:
            cuts are refused without another that works. `cache`: the original itself gives other
            logits with its cache than without, or does not generate from ids alone.
        why: The reason.
        said: What shoal or transformers says of it, as a pattern; what `generate` says of the cache.
        major: The version of transformers; None for all.
        unless: A package with which the row does not hold.
    """

    name: str
    part: Part
    why: str
    said: str = ""
    major: int | None = None
    unless: str = ""

    @property
    def holds(self) -> bool:
        """Whether the row is about what is installed."""
        return self.major in (None, MAJOR) and not (self.unless and find_spec(self.unless))


def row_of(name: str, *parts: Part) -> Row | None:
    """The row that says which of these parts cannot be shown of a network; None where all can."""
    return next((row for row in ROWS if row.name == name and row.part in parts and row.holds), None)


_KV_SHARING = "transformers refuses its config: no layer would keep keys and values, which is what it is for"
_UNEVEN = "its original gives other logits with its cache than without"

ROWS = (
    Row(
        name="gemma3n",
        part="running",
        why="its part for images needs timm; the text model is tried as gemma3n_text",
        said="TimmWrapperModel requires",
        unless="timm",
    ),
    Row(
        name="gemma4_assistant",
        part="running",
        why="transformers refuses the defaults of its config, and builds no model of another",
        said="hidden_size_per_layer_input must be 0",
        major=5,
    ),
    Row(
        name="gemma4_unified_assistant",
        part="running",
        why=_KV_SHARING,
        said="set of layer types producing a cache is different",
        major=5,
    ),
    Row(
        name="hrm_text",
        part="running",
        why="its layers are run several times, as in a recurrent network",
        said="it is used 6 times",
        major=5,
    ),
    Row(
        name="qdqbert",
        part="running",
        why="it needs the package pytorch-quantization",
        said="requires the pytorch-quantization library",
        major=4,
    ),
    Row(
        name="speech_to_text_2",
        part="running",
        why="transformers does not build it with this torch",
        said="has no attribute 'weight'",
        major=4,
    ),
    Row(
        name="transfo-xl",
        part="running",
        why="transformers does not run it with this torch",
        said=r"type_as\(\) missing",
        major=4,
    ),
    Row(
        name="xlstm",
        part="running",
        why="transformers does not run it without the package xlstm: a call of a tensor",
        said="'Tensor' object is not callable",
        major=4,
        unless="xlstm",
    ),
    Row(
        name="dbrx",
        part="cutting",
        why="its config cannot be read again once transformers has written it, cut or not",
        said="its config class refuses its config",
        major=4,
    ),
    Row(
        name="inkling2_text",
        part="cutting",
        why="every n-th layer, by its number, hands its result to layers further on",
        said="with n_layers_per_attn_res_block=4 what a layer does depends on its number",
        major=5,
    ),
    Row(
        name="minimax",
        part="cutting",
        why="the decay of its linear attention is made of a layer's number and the number of layers",
        said="num_hidden_layers of .* would be",
    ),
    Row(
        name="reformer",
        part="cutting",
        why="its layers are reversible: each hands on two states",
        said="(it returns values beside the hidden state|the network does not run without it)",
    ),
    Row(
        name="rwkv",
        part="cutting",
        why="every n-th layer, by its number, halves the hidden state",
        said="with rescale_every=6 what a layer does depends on its number",
    ),
    Row(
        name="xlm",
        part="cutting",
        why="attention and MLP of a layer stand in two lists that run in turns",
        said="cannot say that a pass-through stands in a layer's place",
    ),
    Row(
        name="EsmModel",
        part="cutting",
        why="its head for contacts has a weight for every attention map of every layer",
        said="contact_head.regression.weight would be another one",
    ),
    Row(
        name="blt",
        part="cache",
        why="its config has no field that a cache is made of",
        said="num_hidden_layers",
    ),
    Row(name="cpmant", part="cache", why=_UNEVEN),
    Row(name="doge", part="cache", why=_UNEVEN, major=4),
    Row(
        name="gemma3n_text",
        part="cache",
        why="its last layers share keys and values by the cache alone, and not without it",
        major=4,
    ),
    Row(name="musicgen", part="cache", why="it does not generate from ids alone"),
    Row(name="musicgen_melody", part="cache", why="it does not generate from ids alone"),
    Row(name="prophetnet", part="cache", why=_UNEVEN),
)
