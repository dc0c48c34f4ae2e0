"""From DATA as a user writes it to batches: which loader reads which form.

digits[:train|validation|test]       scikit-learn's handwritten digits
topics[:calibration|test]            the help text of the Python installation
hf:NAME[,CONFIG][:SPLIT[:COLUMN]]    a data set of the Hugging Face hub
FILE.py:FUNCTION                     batches that a function of the user's returns
FILE.txt, FILE.jsonl                 text, in windows of tokens
FILE.npz                             images or token ids, with labels or without
FOLDER                               image files, in a subfolder a class
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

from shoal.data import digits, topics
from shoal.data.arrays import data_from_arrays
from shoal.data.batches import Data
from shoal.data.custom import data_from_function
from shoal.data.hub import data_from_hub
from shoal.data.images import data_from_folder, data_from_pixels
from shoal.data.settings import DataSettings
from shoal.data.text import Tokenizer, data_from_jsonl, data_from_text, text_data, tokenise
from shoal.errors import ConfigError

__all__ = ["FORMS", "load_data"]

FORMS = (
    "digits, digits:train, digits:validation, digits:test, topics:calibration, topics:test, FILE.txt, "
    "FILE.jsonl, FILE.npz, an image folder with a subfolder a class, hf:NAME:SPLIT, FILE.py:FUNCTION"
)


def load_data(reference: str, *, tokenizer: Tokenizer | None = None, **settings: Any) -> Data:
    """Return the data that `reference` names, in batches that can be gone through again and again.

    `digits` alone means its validation part and `topics` alone its calibration part: what a network
    trained on `digits:train` has not memorised, and what leaves `topics:test` for judging.

    Args:
        reference: One of the forms in the module's docstring.
        tokenizer: The model's tokenizer, as transformers has them; only text needs it.
        settings: The fields of `DataSettings`, by name.

    Raises:
        ConfigError: If the reference has no known form or there is no such file, if a setting is
            unknown, impossible or means nothing for this data, or if text comes without a tokenizer.
        DataError: If the data is empty, too little, malformed or one-way.
        MissingExtraError: If the form needs a package that is not installed.

    Example:
        >>> data = load_data("digits", num_samples=100, batch_size=50)
        >>> len(data.batches), tuple(data.example.shape)
        (2, (1, 1, 8, 8))
    """
    chosen = DataSettings.of(settings)
    name, _, part = reference.partition(":")
    if name == "digits":
        part = _part(reference, part or "validation", tuple(digits.PARTS))
        return data_from_pixels(*digits.read_digits(cast(digits.Part, part)), f"digits:{part}", chosen)
    if name == "topics":
        part = _part(reference, part or "calibration", topics.PARTS)
        text = topics.read_topics(cast(topics.Part, part))
        return text_data(tokenise([text], tokenizer, f"topics:{part}"), f"topics:{part}", chosen)
    if name == "hf" and part:
        return data_from_hub(reference, chosen, tokenizer)
    if ".py:" in reference:
        return data_from_function(reference, chosen)
    return _from_path(Path(reference).expanduser(), reference, chosen, tokenizer)


def _part(reference: str, part: str, parts: Sequence[str]) -> str:
    if part not in parts:
        near = get_close_matches(part, parts, n=1, cutoff=0.0)[0]
        raise ConfigError(
            f"asked for the data {reference!r}: its parts are {', '.join(parts)}; the nearest is {near!r}."
        )
    return part


def _from_path(path: Path, reference: str, settings: DataSettings, tokenizer: Tokenizer | None) -> Data:
    if path.is_dir():
        return data_from_folder(path, settings)
    suffix = path.suffix.lower()
    if suffix not in (".txt", ".jsonl", ".npz"):
        raise ConfigError(f"asked for the data {reference!r}: {_found(path)}. Forms that work: {FORMS}.")
    if not path.is_file():
        raise ConfigError(f"asked for the data {reference!r}: there is no file {path.resolve()}.")
    if suffix == ".npz":
        return data_from_arrays(path, settings)
    read = data_from_text if suffix == ".txt" else data_from_jsonl
    return read(path, settings, tokenizer)


def _found(path: Path) -> str:
    if path.is_file():
        return f"files of the kind {path.suffix!r} cannot be read"
    return "there is no such file, folder or data set"
