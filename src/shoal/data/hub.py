"""Data sets in the format of the Hugging Face hub: `hf:NAME[,CONFIG][:SPLIT[:COLUMN]]`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from shoal.data.batches import Data, choose, digest
from shoal.data.images import PictureBatches, picture_data
from shoal.data.settings import DataSettings
from shoal.data.text import Tokenizer, text_data, tokenise
from shoal.errors import ConfigError, DataError, MissingExtraError

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL.Image import Image

__all__ = ["data_from_hub"]

_HELD_OUT_FIRST = ("validation", "valid", "dev", "test", "train")


def data_from_hub(reference: str, settings: DataSettings, tokenizer: Tokenizer | None) -> Data:
    """Return data of a data set of the hub, or of a local folder in its format.

    Without a split, held-out ones are preferred: validation, then test, then train. Without a
    column, the first image, text or list of token ids is taken. The class numbers of images come
    from the column of class labels, where there is one.

    Raises:
        MissingExtraError: If the `datasets` package is not installed.
        ConfigError: If there is no such data set, configuration, split or column.
        DataError: If the data set has nothing that can be used, or too little.
    """
    name, _, rest = reference.removeprefix("hf:").partition(":")
    split, _, column = rest.partition(":")
    dataset, split = _load(reference, *name.partition(",")[::2], split)
    column, kind = _column(reference, dataset, column)
    source = f"hf:{name}:{split}:{column}"
    if kind == "image":
        return _pictures(dataset, column, source, settings)
    records = dataset[column]
    if kind == "text":
        return text_data(tokenise(records, tokenizer, source), source, settings)
    return text_data([token for record in records for token in record], source, settings)


def _load(reference: str, name: str, config: str, split: str) -> tuple[Dataset, str]:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("datasets", extra="hf", purpose="to read hf:… data") from error
    try:
        known = datasets.get_dataset_split_names(name, config or None)
        if not split:
            split = next((each for each in _HELD_OUT_FIRST if each in known), known[0])
        return datasets.load_dataset(name, config or None, split=split), split
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        raise ConfigError(
            f"asked for {reference}: it cannot be loaded ({error}). "
            "Forms that work: hf:NAME, hf:NAME:SPLIT, hf:NAME:SPLIT:COLUMN, hf:NAME,CONFIG:SPLIT."
        ) from error


def _kinds(dataset: Dataset) -> dict[str, str]:
    """Return the columns that can be used, each with what it holds: image, text or tokens."""
    kinds = {}
    for column, feature in dataset.features.items():
        inner = getattr(getattr(feature, "feature", None), "dtype", "")
        if type(feature).__name__ == "Image":
            kinds[column] = "image"
        elif getattr(feature, "dtype", "") in ("string", "large_string"):
            kinds[column] = "text"
        elif column == "input_ids" and "int" in str(inner):
            kinds[column] = "tokens"
    return kinds


def _column(reference: str, dataset: Dataset, column: str) -> tuple[str, str]:
    kinds = _kinds(dataset)
    found = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
    if not kinds:
        raise DataError(
            f"asked for {reference}: none of its columns {', '.join(dataset.features)} is an image, "
            "a text or input_ids."
        )
    if column and column not in kinds:
        raise ConfigError(f"asked for {reference}: columns that can be used are {found}.")
    column = column or next(
        name for kind in ("image", "tokens", "text") for name in kinds if kinds[name] == kind
    )
    return column, kinds[column]


def _pictures(dataset: Dataset, column: str, source: str, settings: DataSettings) -> Data:
    settings.refuse_text_settings(f"the images of {source}")
    rows = [int(row) for row in choose(len(dataset), settings.num_samples, settings.seed, source)]
    names = [name for name, feature in dataset.features.items() if type(feature).__name__ == "ClassLabel"]
    labels = _labels(dataset, names[0], rows, source) if names else None
    pictures = PictureBatches([_Row(dataset, row, column) for row in rows], labels, settings, source)
    return picture_data(
        pictures, labels is not None, len(rows), source, digest(dataset._fingerprint, str(rows))
    )


def _labels(dataset: Dataset, name: str, rows: list[int], source: str) -> Sequence[int]:
    column = dataset[name]
    labels = [column[row] for row in rows]
    if min(labels) < 0:
        raise DataError(
            f"asked for {source}: some labels in its column {name} are {min(labels)}, "
            "which means that they are hidden. Use another split."
        )
    return labels


class _Row:
    """Reads the picture of one row; an object rather than a closure, so that workers can receive it."""

    def __init__(self, dataset: Dataset, row: int, column: str) -> None:
        self._dataset = dataset
        self._row = row
        self._column = column

    def __call__(self) -> Image:
        return self._dataset[self._row][self._column]
