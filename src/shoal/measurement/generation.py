"""How well a language model writes: greedy continuations beside the answers they should be.

A network that predicts each next token of a given text well may still lose the thread of its own;
generation is where a cut shows first.

Shapes: N prompts, P tokens of a prompt, A tokens of its answer, B prompts in a batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from shoal.calling import device_of, evaluating
from shoal.errors import ConfigError, DataError
from shoal.measurement.intervals import wilson_interval
from shoal.progress import task

__all__ = [
    "Decode",
    "Ids",
    "Prompts",
    "cannot_generate",
    "check_generation",
    "evaluate_generation",
    "generation_accuracy",
    "with_reference",
]

Ids = tuple[int, ...]
Decode = Callable[[Ids], str]
_BATCH = 16


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """What a language model is to continue, and what it should write.

    Attributes:
        prompts: Token ids of every prompt.
        answers: Token ids of what should follow each prompt, by what the answers are: `answer`,
            `continuation` (of a text), `agreement` (with what another model writes).
        decode: From token ids to text, where texts are compared; None where tokens are.
        source: Where they come from, with the part that was used.
        sha256: The first 16 digits of a hash of prompts and answers, for the record.
    """

    prompts: tuple[Ids, ...]
    answers: Mapping[str, tuple[Ids, ...]] = field(hash=False)
    decode: Decode | None = field(default=None, hash=False)
    source: str = ""
    sha256: str = ""

    def __post_init__(self) -> None:
        found = {kind: len(answers) for kind, answers in self.answers.items()}
        if not found or set(found.values()) != {len(self.prompts)}:
            raise DataError(
                f"asked for {len(self.prompts)} prompts with answers {found or 'of no kind'}: every kind "
                "needs one answer a prompt."
            )

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def description(self) -> str:
        """What was used, in words."""
        return f"{self.source}: {len(self):,} prompts, sha256 {self.sha256}"


def generation_accuracy(
    model: Any,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    batch_size: int | None = None,
    decode: Decode | None = None,
) -> dict[str, float]:
    """Return how often a language model writes the answer to a prompt, word for word, greedily.

    Args:
        model: A causal model of transformers; left as it was found.
        pairs: Token ids of each prompt and of its answer.
        batch_size: Most prompts in a batch, which are of one length; 16 where it is None.
        decode: Compares texts, apart from white space, in place of tokens.

    Returns:
        `exact`, the share of answers that are met as a whole, with its 95 % interval `exact_low` and
        `exact_high`; `prefix`, the mean share of an answer's tokens that are met before the first
        that is not; and `prompts`, their number.

    Raises:
        ConfigError: If the model does not generate, or the batch size is below 1.
        DataError: If there are no pairs, or the model cannot take one of them.
    """
    prompts, answers = (tuple(tuple(pair[side]) for pair in pairs) for side in (0, 1))
    written = _write(model, Prompts(prompts=prompts, answers={"answer": answers}), batch_size)
    return _compare(written, answers, decode)


def evaluate_generation(model: Any, prompts: Prompts, *, batch_size: int | None = None) -> dict[str, float]:
    """Return what `generation_accuracy` says of every kind of answer, under names of their own.

    Args:
        model: A causal model of transformers; left as it was found.
        prompts: The prompts with their answers.
        batch_size: As for `generation_accuracy`.

    Returns:
        For each kind of answer, such as `continuation`: `continuation_exact` with its `_low` and
        `_high`, `continuation_prefix` and `continuation_prompts`.

    Raises:
        ConfigError: If the model does not generate, or the batch size is below 1.
        DataError: If there are no prompts, or the model cannot take one of them.
    """
    written = _write(model, prompts, batch_size)
    figures: dict[str, float] = {}
    for kind, answers in prompts.answers.items():
        for name, value in _compare(written, answers, prompts.decode).items():
            figures[f"{kind}_{name}"] = value
    return figures


def with_reference(prompts: Prompts, model: Any, *, batch_size: int | None = None) -> Prompts:
    """Return the prompts with one answer more, `agreement`: what a reference model writes.

    Where the text itself is hard to foretell, agreement with the original shows best what pruning
    has done. An answer ends with the reference's first end-of-text token.

    Args:
        prompts: The prompts; as many tokens are written as the answers have.
        model: The reference; it has the same tokens.
        batch_size: As for `generation_accuracy`.

    Raises:
        ConfigError: If the model does not generate, or the batch size is below 1.
        DataError: If there are no prompts, or the model cannot take one of them.
    """
    written = _write(model, prompts, batch_size)
    ends = _end_tokens(model)
    agreement = tuple(_until(ids, ends) for ids in written)
    return replace(prompts, answers={**prompts.answers, "agreement": agreement})


def cannot_generate(model: Any) -> str:
    """Return why a network does not write on where a text ends; empty where it does."""
    kind, config = type(model).__name__, getattr(model, "config", None)
    can_generate = getattr(model, "can_generate", None)
    if not callable(can_generate) or not can_generate() or getattr(model, "generation_config", None) is None:
        return f"{kind} does not generate"
    if getattr(config, "is_encoder_decoder", False):
        return f"{kind} is an encoder with a decoder"
    # Before transformers 5 every config says so; parts that are told tell those where it matters.
    told = any(vars(module).get("is_decoder") is False for module in model.modules())
    if told and vars(config).get("is_decoder") is False:
        return f"{kind} is not used as a decoder (is_decoder=False)"
    return ""


def check_generation(model: Any, prompts: Prompts | None = None) -> None:
    """Check, before long work is begun, that a model can be judged by these prompts.

    Args:
        model: The model.
        prompts: The prompts; only whether it generates at all is checked where they are None.

    Raises:
        ConfigError: If the model does not generate, or is an encoder.
        DataError: If there are no prompts, one or its answer is empty, they are longer than the model
            takes, or hold tokens that it does not know.
    """
    why = cannot_generate(model)
    if why:
        raise ConfigError(f"asked to generate: {why}. Causal language models of transformers work.")
    if prompts is not None:
        _check_fit(model, prompts)


def _check_fit(model: Any, prompts: Prompts) -> None:
    if not prompts.prompts:
        raise DataError("asked to generate, and found no prompts: give at least one.")
    lengths = _answer_lengths(prompts)
    for number, (prompt, length) in enumerate(zip(prompts.prompts, lengths, strict=True)):
        if not prompt or not length:
            raise DataError(
                f"asked to generate from prompt {number} (from 0) of {len(prompt)} tokens with an answer of "
                f"{length}: both need at least one."
            )
    config = model.config.get_text_config()
    longest = max(len(p) + n for p, n in zip(prompts.prompts, lengths, strict=True))
    most = getattr(config, "max_position_embeddings", None)
    if most is not None and longest > most:
        raise DataError(
            f"asked to generate up to token {longest} of a prompt with its answer: {type(model).__name__} "
            f"takes {most}. Use shorter ones."
        )
    largest = max(max(ids) for each in (prompts.prompts, *prompts.answers.values()) for ids in each)
    if largest >= config.vocab_size:
        raise DataError(
            f"asked to generate from the token {largest}: the tokens of {type(model).__name__} are 0 to "
            f"{config.vocab_size - 1}. Use prompts made with its own tokenizer."
        )


def _answer_lengths(prompts: Prompts) -> list[int]:
    """How many tokens are written after each prompt: as many as its longest answer has."""
    return [max(map(len, answers)) for answers in zip(*prompts.answers.values(), strict=True)]


def _write(model: Any, prompts: Prompts, batch_size: int | None) -> list[Ids]:
    """Return what the model writes after every prompt, as long as its longest answer at least."""
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"asked to generate with batch_size={batch_size}: at least 1 is needed.")
    check_generation(model, prompts)
    lengths = _answer_lengths(prompts)
    written: list[Ids] = [()] * len(prompts)
    with evaluating(model), torch.no_grad(), task("generating", len(prompts)) as done:
        for rows in _batches(prompts.prompts, lengths, batch_size or _BATCH):
            ids = torch.tensor([prompts.prompts[row] for row in rows], device=device_of(model))
            new = _continue(model, ids, max(lengths[row] for row in rows))
            for row, tokens in zip(rows, new.tolist(), strict=True):
                written[row] = tuple(tokens)
            done(len(rows))
    return written


def _batches(prompts: Sequence[Ids], lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Yield the numbers of prompts of one length, so that none is padded, with like answers together."""
    groups = defaultdict(list)
    for row in sorted(range(len(prompts)), key=lambda row: lengths[row]):
        groups[len(prompts[row])].append(row)
    for _, rows in sorted(groups.items()):
        for start in range(0, len(rows), size):
            yield rows[start : start + size]


def _continue(model: Any, ids: Tensor, tokens: int) -> Tensor:
    """Return so many new tokens `(B, tokens)` after prompts `(B, P)`, greedily, with the cache.

    What the model's own settings add (penalties, sampling, ends of text) is left out.
    """
    own = model.generation_config
    plain = type(own)(do_sample=False, num_beams=1, use_cache=True, max_new_tokens=tokens)
    model.generation_config = plain
    try:
        # What plain settings leave open, transformers takes from the model's.
        out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=plain)
    finally:
        model.generation_config = own
    return out[:, ids.shape[1] :]


def _end_tokens(model: Any) -> Collection[int]:
    ends = model.generation_config.eos_token_id
    return ends if isinstance(ends, (list, tuple)) else [ends]


def _until(ids: Ids, ends: Collection[int]) -> Ids:
    """Return the ids up to the first that is an end, which is kept."""
    stop = next((place for place, token in enumerate(ids) if token in ends), len(ids))
    return ids[: stop + 1]


def _compare(written: Sequence[Ids], answers: Sequence[Ids], decode: Decode | None) -> dict[str, float]:
    exact, prefix = 0, 0.0
    for ids, answer in zip(written, answers, strict=True):
        met = _leading(ids, answer)
        if decode is not None and _writes(ids[: len(answer)], decode(answer), decode):
            met = len(answer)
        exact += met == len(answer)
        prefix += met / len(answer)
    low, high = wilson_interval(exact, len(answers))
    return {
        "exact": exact / len(answers),
        "exact_low": low,
        "exact_high": high,
        "prefix": prefix / len(answers),
        "prompts": len(answers),
    }


def _leading(ids: Ids, answer: Ids) -> int:
    """Return how many tokens of the answer are met before the first that is not."""
    same = (ours == theirs for ours, theirs in zip(ids, answer, strict=False))
    return sum(1 for _ in takewhile(bool, same))


def _writes(ids: Ids, text: str, decode: Decode) -> bool:
    """Return whether the first of these tokens are the text; the same text may be cut into other tokens."""
    return any(decode(ids[:stop]).split() == text.split() for stop in range(1, len(ids) + 1))
