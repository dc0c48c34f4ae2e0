"""Greedy generation, with and without the cache: where a language model cut wrongly breaks first."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from shoal.architectures.pretrained import quiet
from shoal.measurement import cannot_generate

__all__ = ["cannot_generate", "compare_generation"]


def compare_generation(
    model: Any, prompt: Tensor, *, tokens: int = 8, tolerance: float = 1e-4
) -> tuple[bool, str]:
    """Return whether greedy generation gives the same with and without the cache, and in words what.

    Logits are compared token by token. Where the two choose another token although their logits agree,
    two tokens were equally likely, and the comparison ends there.

    Args:
        model: A model of transformers that generates.
        prompt: Token ids `(1, T)`.
        tokens: How many to generate.
        tolerance: Largest difference of logits, relative to the largest logit.
    """
    cached, plain = (_generate(model, prompt, tokens, use_cache=use) for use in (True, False))
    for number, (ours, theirs) in enumerate(zip(cached, plain, strict=False)):
        if not (torch.isfinite(ours).all() and torch.isfinite(theirs).all()):
            return False, f"logits of generated token {number} are not finite"
        gap = ((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-30)).item()
        if gap > tolerance:
            return (
                False,
                f"logits of token {number} differ with and without cache by {gap:.1e} of the largest",
            )
        if ours.argmax() != theirs.argmax():
            return True, f"{number} tokens equal with and without cache, then a tie"
    return len(cached) == len(plain), f"{len(cached)} tokens equal with and without cache, logits finite"


def _generate(model: Any, prompt: Tensor, tokens: int, *, use_cache: bool) -> list[Tensor]:
    """Logits `(V,)` of every generated token, float64 on the CPU."""
    with quiet(), torch.no_grad():
        out = model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            num_beams=1,
            use_cache=use_cache,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_logits=True,
        )
    return [step[0].double().cpu() for step in out.logits]
