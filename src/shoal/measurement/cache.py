"""How much a language model keeps of the tokens that it has seen.

Nothing is computed from a formula: the network is run on a few tokens with its cache, and what it keeps is
weighed. Weights do not matter for it, so that a network built without any will do, as long as it runs
(`shoal.architectures.weightless`).

T = tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from shoal.calling import Inputs, call, device_of, evaluating, first_sample, to_device

__all__ = ["CacheSize", "cache_size"]

# As many tokens as hold whole blocks, for caches that keep one entry for a block of tokens.
_MOST = 256
_LIMITS = ("max_position_embeddings", "max_target_positions", "max_seq_len", "n_positions")


@dataclass(frozen=True, kw_only=True)
class CacheSize:
    """How many bytes the cache of one sequence takes.

    Attributes:
        per_token: What every token adds for good.
        state: What is there whatever the number of tokens: states of recurrent layers and, where an
            encoder feeds a decoder, the keys and values of the example's encoder.
        windows: Number of last tokens that layers with a window keep → what each of these tokens adds.

    Example:
        >>> size = CacheSize(per_token=8, state=100, windows={511: 4})
        >>> size.per_first_token, size.total(10), size.total(1000)
        (12, 220, 10144)
    """

    per_token: float
    state: float
    windows: Mapping[int, float] = field(default_factory=dict, hash=False)

    @property
    def per_first_token(self) -> float:
        """What a token adds while no window is full."""
        return self.per_token + sum(self.windows.values())

    def total(self, tokens: int) -> float:
        """Return the bytes after so many tokens."""
        windowed = sum(each * min(tokens, kept) for kept, each in self.windows.items())
        return self.state + self.per_token * tokens + windowed


def cache_size(model: nn.Module, example: Inputs) -> CacheSize | None:
    """Return the size of a language model's cache for one sequence; None if it hands none out.

    The cache is what the model returns with `use_cache` and does not without. How it grows is seen
    between 128 and 256 tokens, or between fewer where the model takes fewer; in layers with a window,
    between fewer than that holds.

    Args:
        model: Any network that runs; left as it was found.
        example: What its forward takes; its token ids are repeated to the lengths that are needed.
    """
    given = example if isinstance(example, Mapping) else {}
    ids = next((name for name in ("decoder_input_ids", "input_ids") if name in given), None)
    if ids is None or "use_cache" not in signature(model.forward).parameters:
        return None
    scales = _Scales(model, to_device(first_sample(example), device_of(model)), ids)
    found = {place.window for place in scales.sizes(2)}
    if not found:
        return None
    most = min([_MOST, *_limits(model)])
    lines = {place: line for place, line in scales.lines(most).items() if place.window is None}
    if narrowest := min((window for window in found if window is not None), default=0):
        within = scales.lines(min(most, narrowest - 1))
        lines |= {place: line for place, line in within.items() if place.window is not None}
    windows: dict[int, float] = {}
    for place, line in lines.items():
        if place.window is not None:
            windows[place.window - 1] = windows.get(place.window - 1, 0) + line.slope
    return CacheSize(
        per_token=sum(line.slope for place, line in lines.items() if place.window is None),
        state=sum(line.start for line in lines.values()),
        windows=dict(sorted(windows.items())),
    )


def _limits(model: nn.Module) -> Iterator[int]:
    """Half of the tokens that the model takes, as its config says: some begin to count past zero."""
    config: Any = getattr(model, "config", None)
    for part in (config, config.get_text_config() if hasattr(config, "get_text_config") else None):
        values = [getattr(part, name, None) for name in _LIMITS]
        yield from (value // 2 for value in values if isinstance(value, int) and value > 3)


@dataclass(frozen=True)
class _Place:
    """Where in the cache a tensor lies; how many tokens its layer sees at once, if not all."""

    path: tuple[Any, ...]
    window: int | None


@dataclass(frozen=True, kw_only=True)
class _Line:
    """Bytes as a function of tokens."""

    slope: float
    start: float


@dataclass(frozen=True)
class _Scales:
    """A model, one sample for it, and which of its inputs are the ids of the tokens that are cached."""

    model: nn.Module
    example: Mapping[str, Any]
    ids: str

    def lines(self, most: int) -> dict[_Place, _Line]:
        """How every tensor of the cache grows up to so many tokens."""
        long = max(2, most - most % 2)
        few, many = self.sizes(long // 2), self.sizes(long)
        slopes = {place: (size - few.get(place, 0)) / (long - long // 2) for place, size in many.items()}
        return {place: _Line(slope=slopes[place], start=many[place] - slopes[place] * long) for place in many}

    def sizes(self, tokens: int) -> dict[_Place, int]:
        """Bytes of every tensor of the cache after so many tokens."""
        with evaluating(self.model), torch.no_grad():
            inputs = self._of_length(tokens)
            plain, cached = (call(self.model, {**inputs, "use_cache": use}) for use in (False, True))
        kept = {name: value for name, value in cached.items() if name not in plain}
        return {
            place: tensor.numel() * tensor.element_size()
            for place, tensor in _tensors(kept, _Place((), None), set())
        }

    def _of_length(self, tokens: int) -> dict[str, Any]:
        shape = self.example[self.ids].shape
        repeats = -(-tokens // shape[1])
        # An encoder's inputs stay what they are.
        cached = [self.ids] if self.ids == "decoder_input_ids" else list(self.example)
        return {
            name: value.repeat(1, repeats)[:, :tokens]
            if name in cached and isinstance(value, Tensor) and value.shape == shape
            else value
            for name, value in self.example.items()
        }


def _tensors(value: Any, place: _Place, seen: set[int]) -> Iterator[tuple[_Place, Tensor]]:
    """The tensors of one axis or more in lists, mappings and objects of transformers, each once."""
    if id(value) in seen:
        return
    if isinstance(value, Tensor):
        seen.add(id(value))
        if value.dim():
            yield place, value
        return
    window = place.window
    if isinstance(value, Mapping):
        entries = list(value.items())
    elif isinstance(value, (list, tuple)):
        entries = list(enumerate(value))
    elif type(value).__module__.startswith("transformers") and not isinstance(value, nn.Module):
        seen.add(id(value))
        entries, window = list(vars(value).items()), getattr(value, "sliding_window", None)
    else:
        return
    for key, entry in entries:
        # Beside keys and values a layer may keep states that know no window.
        sees = window if key in ("keys", "values") else None
        yield from _tensors(entry, _Place((*place.path, key), sees), seen)
