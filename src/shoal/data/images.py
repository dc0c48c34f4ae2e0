"""Images: pixels to tensors, and folders of files that are read when a batch is asked for.

Shapes: N = images, B = batch, C H W = channels, height, width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from shoal.data.batches import Data, TensorBatches, choose, digest
from shoal.data.settings import DataSettings
from shoal.errors import ConfigError, DataError, MissingExtraError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["PictureBatches", "data_from_folder", "data_from_pixels", "normalise", "picture_data"]

_BATCH = 64
_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def normalise(images: Tensor, settings: DataSettings, source: str) -> Tensor:
    """Return images `(…, C, H, W)` less the settings' mean, divided by their std.

    Raises:
        ConfigError: If the settings name another number of channels.
    """
    if settings.mean is None or settings.std is None:
        return images
    if len(settings.mean) != images.shape[-3]:
        raise ConfigError(
            f"asked to normalise {source} with a mean of {len(settings.mean)} numbers: its images have "
            f"{images.shape[-3]} channels. Give one number a channel."
        )
    mean, std = torch.tensor(settings.mean), torch.tensor(settings.std)
    return (images - mean[:, None, None]) / std[:, None, None]


def data_from_pixels(images: Tensor, labels: Tensor | None, source: str, settings: DataSettings) -> Data:
    """Return data of images held in memory.

    Args:
        images: `(N, C, H, W)`, float.
        labels: Class numbers `(N,)`; None where there are none.
        source: What the images come from.
        settings: What is used of them, and how they are normalised.

    Raises:
        DataError: If there are none, or fewer than asked for.
        ConfigError: If a setting means nothing here.
    """
    settings.refuse_text_settings(f"the images of {source}")
    settings.refuse(f"{source}, whose images are used as they are", "size", "crop", "channels")
    rows = torch.from_numpy(choose(len(images), settings.num_samples, settings.seed, source))
    images = normalise(images[rows], settings, source)
    labels = None if labels is None else labels[rows]
    return Data(
        batches=TensorBatches(images, labels, batch_size=settings.batch_size or _BATCH),
        kind="image",
        source=source,
        samples=len(images),
        sha256=digest(images.numpy().tobytes(), b"" if labels is None else labels.numpy().tobytes()),
        labels=labels is not None,
        example=images[:1],
    )


class PictureBatches(Sequence[Any]):
    """Batches of pictures that are read, scaled, cropped and normalised when they are asked for.

    Args:
        pictures: For every sample a function that returns its picture.
        labels: Their class numbers; None where there are none.
        settings: Scaling, normalisation and size of the batches.
        source: What the pictures come from, for messages.
    """

    def __init__(
        self,
        pictures: Sequence[Callable[[], Image]],
        labels: Sequence[int] | None,
        settings: DataSettings,
        source: str,
    ) -> None:
        self._pictures = pictures
        self._labels = labels
        self._settings = settings
        self._source = source
        self._size = settings.batch_size or _BATCH

    def __len__(self) -> int:
        return -(-len(self._pictures) // self._size)

    def __getitem__(self, index: Any) -> Any:
        """Return the batch of this index, or a list of batches for a slice.

        Raises:
            DataError: If the images differ in size and no size was asked for.
        """
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        start = range(len(self))[index] * self._size
        rows = range(start, min(start + self._size, len(self._pictures)))
        images = self.inputs(rows)
        return images if self._labels is None else (images, torch.tensor([self._labels[row] for row in rows]))

    def inputs(self, rows: Sequence[int]) -> Tensor:
        """Return the images of these samples, `(B, C, H, W)`."""
        images = [_pixels(self._pictures[row](), self._settings) for row in rows]
        shapes = sorted({tuple(image.shape[1:]) for image in images})
        if len(shapes) > 1:
            raise DataError(
                f"asked to batch the images of {self._source}: they differ in size, "
                f"{shapes[0]} and {shapes[-1]} among them. Give a size, such as 224."
            )
        return normalise(torch.stack(images), self._settings, self._source)


def _pixels(picture: Image, settings: DataSettings) -> Tensor:
    picture = picture.convert("L" if settings.channels == 1 else "RGB")
    if settings.size is not None:
        picture = _centre(picture, settings.size, settings.crop or 1.0)
    pixels = torch.from_numpy(np.array(picture, dtype=np.float32) / 255)
    return pixels.unsqueeze(0) if pixels.dim() == 2 else pixels.permute(2, 0, 1).contiguous()


def _centre(picture: Image, size: int, crop: float) -> Image:
    from PIL.Image import Resampling

    scale = size / crop / min(picture.size)
    width, height = (max(size, round(side * scale)) for side in picture.size)
    scaled = picture.resize((width, height), Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return scaled.crop((left, top, left + size, top + size))


def picture_data(pictures: PictureBatches, labelled: bool, samples: int, source: str, sha256: str) -> Data:
    """Return data of pictures that are read when they are asked for."""
    return Data(
        batches=pictures,
        kind="image",
        source=source,
        samples=samples,
        sha256=sha256,
        labels=labelled,
        example=pictures.inputs([0]),
    )


def data_from_folder(folder: Path, settings: DataSettings) -> Data:
    """Return data of the image files in a folder with a subfolder a class.

    Classes are numbered from 0 in the alphabetical order of the subfolders' names. The hash is of
    names and sizes of the files in use, not of their pixels.

    Raises:
        DataError: If there are no such files, fewer than asked for, or one that is no image.
        MissingExtraError: If Pillow is not installed.
    """
    settings.refuse_text_settings(f"the image folder {folder}")
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("Pillow", extra="vision", purpose="to read image files") from error
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    files = [(path, number) for number, name in enumerate(classes) for path in _image_files(name)]
    if not files:
        raise DataError(
            f"asked to use the folder {folder} as images: its {len(classes)} subfolders hold no image files. "
            f"Make a subfolder a class, with files of {', '.join(_SUFFIXES)}."
        )
    chosen = [files[row] for row in choose(len(files), settings.num_samples, settings.seed, str(folder))]
    pictures = PictureBatches(
        [_Reader(path) for path, _ in chosen], [number for _, number in chosen], settings, str(folder)
    )
    names = (f"{path.relative_to(folder).as_posix()} {path.stat().st_size}" for path, _ in chosen)
    return picture_data(pictures, True, len(chosen), str(folder), digest(*names))


def _image_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())


class _Reader:
    """Reads one image file; an object rather than a closure, so that workers can receive it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self) -> Image:
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(self._path) as picture:
                picture.load()
                return picture
        except (UnidentifiedImageError, OSError) as error:
            raise DataError(
                f"asked to read the image {self._path}: it cannot be read ({error}). Remove or replace it."
            ) from error
