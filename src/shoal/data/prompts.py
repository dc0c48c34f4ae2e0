"""What a language model is asked to write: short answers from a file, or the continuation of a text.

FILE.jsonl of {"prompt": "…", "answer": "…"}             short answers, compared as texts
FILE.jsonl of {"prompt_ids": […], "answer_ids": […]}     the same in token ids
any text                                                 windows of it: the end should follow the beginning

Shapes: N prompts, T tokens of a window.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from shoal.calling import split_batch
from shoal.data.batches import check_enough, digest
from shoal.data.lines import are_tokens, json_lines
from shoal.data.references import load_data
from shoal.data.settings import DataSettings
from shoal.data.text import data_from_text
from shoal.errors import ConfigError, DataError
from shoal.measurement.generation import Ids, Prompts

__all__ = ["TextTokenizer", "read_prompts"]

_CONTEXT, _CONTINUATION, _WINDOWS = 64, 8, 256
_WORKS = 'Lines that work: {"prompt": "The capital of France is", "answer": "Paris"}, '
_WORKS += '{"prompt_ids": [1, 403], "answer_ids": [407]}.'
_FORMS = (
    "Forms that work: a .jsonl of prompts with answers, a text file, a .jsonl or .npz of texts or token ids, "
    "topics, hf:NAME of texts."
)


class TextTokenizer(Protocol):
    """Turns text into token ids and back, as the tokenizers of transformers do."""

    bos_token_id: int | None
    eos_token_id: int | None

    def __call__(self, text: str, *, add_special_tokens: bool, verbose: bool) -> Any: ...

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool) -> str:
        """Return the text of these ids."""
        ...


def read_prompts(
    reference: str,
    *,
    tokenizer: TextTokenizer | None = None,
    context: int | None = None,
    continuation: int | None = None,
    num_samples: int | None = None,
) -> Prompts:
    """Return the prompts in what `reference` names, with what should follow each.

    A text is cut into windows that do not overlap, of which those that are used lie evenly spaced
    over the whole of it.

    Args:
        reference: A `.jsonl` of prompts with answers, or a text: a file of any name, or the forms
            of text that `load_data` takes.
        tokenizer: The model's; only token ids do without.
        context: Tokens of a window that the model is given; 64 where it is None.
        continuation: Tokens of a window that it should write; 8 where it is None.
        num_samples: How many prompts; all answers or up to 256 windows where it is None.

    Raises:
        ConfigError: If this is no text, text comes without a tokenizer, or a number means nothing
            here or is below 1.
        DataError: If a line is malformed, or there is too little.
    """
    given = {"context": context, "continuation": continuation, "num_samples": num_samples}
    for name, value in given.items():
        if value is not None and value < 1:
            raise ConfigError(f"asked for {name}={value} of {reference}: at least 1 is needed.")
    path = Path(reference).expanduser()
    if path.suffix.lower() == ".jsonl" and path.is_file() and _has_prompts(path):
        if context is not None or continuation is not None:
            raise ConfigError(
                f"asked for windows (context={context}, continuation={continuation}) of {reference}: its "
                "lines are prompts with answers, and each is taken whole. Leave these out."
            )
        return _answers(path, tokenizer, num_samples)
    return _continuations(
        reference, tokenizer, context or _CONTEXT, continuation or _CONTINUATION, num_samples
    )


def _has_prompts(path: Path) -> bool:
    first = next((record for _, record in json_lines(path)), None)
    return isinstance(first, dict) and not {"prompt", "prompt_ids"}.isdisjoint(first)


def _answers(path: Path, tokenizer: TextTokenizer | None, num_samples: int | None) -> Prompts:
    records = [_record(path, number, record) for number, record in json_lines(path)]
    kinds = {type(prompt) for prompt, _ in records}
    if len(kinds) > 1:
        raise DataError(
            f"asked to use {path}: some of its lines have text and some token ids. Give all lines one "
            "of the two."
        )
    pairs = _spaced(records, num_samples, str(path))
    if kinds == {list}:
        return _prompts([(tuple(p), tuple(a)) for p, a in pairs], "answer", str(path))
    if tokenizer is None:
        raise ConfigError(
            f"asked to use {path}: text needs the model's tokenizer, and the model came without one. Put the "
            "tokenizer's files into the model's folder, or give prompt_ids with answer_ids."
        )
    encoded = [_encode(prompt, answer, tokenizer) for prompt, answer in pairs]
    return _prompts(encoded, "answer", str(path), decoder=_Decoder(tokenizer))


def _record(path: Path, number: int, record: Any) -> tuple[Any, Any]:
    fields = record if isinstance(record, dict) else {}
    texts = fields.get("prompt"), fields.get("answer")
    if all(isinstance(text, str) and text.strip() for text in texts):
        return texts
    tokens = fields.get("prompt_ids"), fields.get("answer_ids")
    if all(are_tokens(ids) and ids for ids in tokens):
        return tokens
    raise DataError(f"asked to use {path}: line {number} holds no prompt with an answer. {_WORKS}")


def _encode(prompt: str, answer: str, tokenizer: TextTokenizer) -> tuple[Ids, Ids]:
    """Return the ids of a prompt and of its answer, cut where models cut: a word begins with its space."""
    bare = prompt.rstrip(" ")
    spaced = f" {answer.strip()}" if bare != prompt or not bare[-1:].isspace() else answer.strip()

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    before, whole = ids(bare), ids(bare + spaced)
    after = whole[len(before) :] if whole[: len(before)] == before else ids(spaced)
    begin = list(tokenizer("", add_special_tokens=True, verbose=False)["input_ids"])[:1]
    begins = begin == [tokenizer.bos_token_id] and before[:1] != begin
    return (*(begin if begins else []), *before), tuple(after)


class _Decoder:
    """From token ids to text, up to the end-of-text token."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer

    def __call__(self, ids: Ids) -> str:
        end = self._tokenizer.eos_token_id
        kept = ids[: ids.index(end)] if end in ids else ids
        return self._tokenizer.decode(list(kept), skip_special_tokens=True)


def _continuations(
    reference: str, tokenizer: Any, context: int, continuation: int, num_samples: int | None
) -> Prompts:
    rows = _windows(reference, tokenizer, context + continuation)
    chosen = _spaced(rows.tolist(), num_samples or min(len(rows), _WINDOWS), reference)
    pairs = [(tuple(row[:context]), tuple(row[context:])) for row in chosen]
    return _prompts(pairs, "continuation", f"{reference} ({context} + {continuation} tokens)")


def _windows(reference: str, tokenizer: Any, length: int) -> Tensor:
    """Return all windows `(N, T)` of a text."""
    path = Path(reference).expanduser()
    suffix = path.suffix.lower()
    if suffix == ".npz":
        data = load_data(reference)
    elif suffix == ".jsonl" or reference.startswith(("topics", "hf:")):
        data = load_data(reference, tokenizer=tokenizer, seq_len=length)
    elif path.is_file():
        data = data_from_text(path, DataSettings(seq_len=length), tokenizer)
    else:
        raise ConfigError(f"asked to generate from {reference!r}: there is no such file. {_FORMS}")
    if data.kind != "text":
        raise ConfigError(f"asked to generate from {reference!r}: it holds no text. {_FORMS}")
    inputs = [split_batch(batch)[0] for batch in data.batches]
    rows, mask = (torch.cat([each[name] for each in inputs]) for name in ("input_ids", "attention_mask"))
    if rows.shape[1] < length or not mask[:, :length].all():
        raise DataError(
            f"asked for windows of {length} tokens of {reference}: its rows hold {rows.shape[1]}, the "
            f"shortest {int(mask.sum(dim=1).min())}. Ask for fewer."
        )
    return rows[:, :length]


def _spaced(items: list[Any], num_samples: int | None, source: str) -> list[Any]:
    check_enough(len(items), num_samples, source)
    count = num_samples or len(items)
    return [items[number * len(items) // count] for number in range(count)]


def _prompts(
    pairs: list[tuple[Ids, Ids]], kind: str, source: str, decoder: _Decoder | None = None
) -> Prompts:
    prompts, answers = zip(*pairs, strict=True)
    return Prompts(
        prompts=prompts, answers={kind: answers}, decode=decoder, source=source, sha256=digest(repr(pairs))
    )
