"""Text, tokenised by the model's own tokenizer and cut into windows.

The tokens of the whole text stand in one row, which is cut into consecutive windows that do not
overlap; a last window that is too short is left out. Separators such as `<|endoftext|>` are text
like any other.

Shapes: N = windows, T = tokens in a window.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from shoal.data.batches import Data, TensorBatches, check_enough, digest
from shoal.data.lines import are_tokens, json_lines, read_text
from shoal.data.settings import DataSettings
from shoal.errors import ConfigError, DataError

__all__ = [
    "Tokenizer",
    "data_from_jsonl",
    "data_from_rows",
    "data_from_text",
    "text_data",
    "tokenise",
    "windows",
]

_BATCH = 4
_WINDOW = 512
_EXAMPLE = 128


class Tokenizer(Protocol):
    """Turns text into token ids, as the tokenizers of transformers do."""

    def __call__(self, text: str, *, add_special_tokens: bool, verbose: bool) -> Mapping[str, Any]: ...


def tokenise(texts: Iterable[str], tokenizer: Tokenizer | None, source: str) -> list[int]:
    """Return the token ids of the texts, one after another.

    Between two texts stands the tokenizer's end-of-text token where it has one.

    Raises:
        ConfigError: If there is no tokenizer.
    """
    if tokenizer is None:
        raise ConfigError(
            f"asked to use {source}: text needs the model's tokenizer, and the model came without one. "
            "Put the tokenizer's files into the model's folder, or give token ids in an .npz or .jsonl."
        )
    end = getattr(tokenizer, "eos_token_id", None)
    tokens: list[int] = []
    for text in texts:
        if tokens and end is not None:
            tokens.append(int(end))
        tokens += tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return tokens


def windows(tokens: Sequence[int], settings: DataSettings, source: str) -> Tensor:
    """Return token ids `(N, T)`: N windows that lie evenly spaced over all tokens.

    Args:
        tokens: The token ids of the whole text.
        settings: `seq_len` is T, `num_samples` is N.
        source: What the tokens come from, for messages.

    Raises:
        DataError: If there are fewer tokens than one window holds, or fewer windows than asked for.

    Example:
        >>> windows(range(10), DataSettings(seq_len=2, num_samples=3), "numbers").tolist()
        [[0, 1], [2, 3], [6, 7]]
    """
    length = settings.seq_len or _WINDOW
    total = len(tokens) // length
    if total == 0:
        raise DataError(
            f"asked for windows of {length} tokens of {source}: it has {len(tokens)} tokens. "
            + (f"Use a seq_len of {len(tokens)} or less." if tokens else "Give a text that is not empty.")
        )
    check_enough(total, settings.num_samples, f"{source} in windows of {length} tokens")
    rows = torch.tensor(tokens[: total * length], dtype=torch.int64).view(total, length)
    count = settings.num_samples or total
    return rows[torch.arange(count) * total // count]


def text_data(tokens: Sequence[int], source: str, settings: DataSettings) -> Data:
    """Return data of windows of these token ids."""
    settings.refuse_image_settings(f"the text {source}")
    return data_from_rows(windows(tokens, settings, source), None, source, settings.batch_size)


def data_from_rows(
    rows: Tensor, mask: Tensor | None, source: str, batch_size: int | None, labels: Tensor | None = None
) -> Data:
    """Return data whose samples are these rows of token ids `(N, T)`.

    Args:
        rows: Token ids.
        mask: 1 where a token counts, 0 for padding, `(N, T)`; every token counts where it is None.
        source: What the tokens come from.
        batch_size: Rows in a batch; 4 where it is None.
        labels: Of rows `(N,)` or of their tokens `(N, T)`; None where there are none.
    """
    mask = torch.ones_like(rows) if mask is None else mask
    inputs = {"input_ids": rows, "attention_mask": mask}
    return Data(
        batches=TensorBatches(inputs, labels, batch_size=batch_size or _BATCH),
        kind="text",
        source=source,
        samples=len(rows),
        sha256=digest(*(each.numpy().tobytes() for each in (rows, mask, labels) if each is not None)),
        labels=labels is not None,
        example={name: tensor[:1, :_EXAMPLE] for name, tensor in inputs.items()},
    )


def data_from_text(path: Path, settings: DataSettings, tokenizer: Tokenizer | None) -> Data:
    """Return data of the windows of a text file in UTF-8.

    Raises:
        DataError: If it is no UTF-8, or has too few tokens.
        ConfigError: If there is no tokenizer, or a setting is for images.
    """
    return text_data(tokenise([read_text(path)], tokenizer, str(path)), str(path), settings)


def data_from_jsonl(path: Path, settings: DataSettings, tokenizer: Tokenizer | None) -> Data:
    """Return data of the windows of a file of JSON lines, each with `text` or with `input_ids`.

    Raises:
        DataError: If a line is malformed, or there are too few tokens.
        ConfigError: If there are texts and no tokenizer, or a setting is for images.
    """
    records = list(_records(path))
    if records and all(isinstance(record, str) for record in records):
        return text_data(tokenise(records, tokenizer, str(path)), str(path), settings)
    if any(isinstance(record, str) for record in records):
        raise DataError(
            f"asked to use {path}: some of its lines have text and some input_ids. "
            "Give all lines one of the two."
        )
    return text_data([token for record in records for token in record], str(path), settings)


def _records(path: Path) -> Iterator[Any]:
    for number, record in json_lines(path):
        content = record.get("text", record.get("input_ids")) if isinstance(record, dict) else None
        if not isinstance(content, str) and not are_tokens(content):
            raise DataError(
                f"asked to use {path}: line {number} has neither a text nor a list of token ids. "
                'Lines that work: {"text": "Once upon a time"}, {"input_ids": [1, 403, 407]}.'
            )
        yield content
