"""scikit-learn's handwritten digits, which come with its package: 1,797 grey images of 8 x 8 pixels.

They are divided once and for all into training, validation and test parts, each with all ten
digits in equal shares, so that numbers from different runs can be compared.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from shoal.errors import MissingExtraError

__all__ = ["PARTS", "Part", "read_digits"]

Part = Literal["train", "validation", "test"]
PARTS: dict[str, tuple[float, float]] = {
    "train": (0.0, 0.6),
    "validation": (0.6, 0.8),
    "test": (0.8, 1.0),
}
_WHITE = 16


def read_digits(part: Part) -> tuple[Tensor, Tensor]:
    """Return the images and the labels of one part of the digits.

    Args:
        part: `train` (60 % of every digit), `validation` (20 %) or `test` (20 %); no image is in two.

    Returns:
        Images `(N, 1, 8, 8)`, float32 in [0, 1], and labels `(N,)`, int64 in 0 … 9.

    Raises:
        MissingExtraError: If scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtraError("scikit-learn", extra="demo", purpose="for the digits data") from error
    digits = load_digits()
    rows = _rows(digits.target, *PARTS[part])
    images = torch.from_numpy(digits.images[rows] / _WHITE).to(torch.float32)
    return images.unsqueeze(1), torch.from_numpy(digits.target[rows]).to(torch.int64)


def _rows(labels: np.ndarray, start: float, stop: float) -> np.ndarray:
    generator = np.random.default_rng(0)
    chosen = []
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        chosen.append(members[round(start * len(members)) : round(stop * len(members))])
    return generator.permutation(np.concatenate(chosen))
