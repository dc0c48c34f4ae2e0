"""Similarity and angles between all hidden states of a chain, summed batch by batch.

Shapes: L = units, K = distinct hidden states, B = batch, N = rows (samples or tokens).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from shoal.activations import Rows, flattened, lies_channels_last
from shoal.activations.rows import draw_of
from shoal.errors import DataError
from shoal.similarity import SimilaritySettings, SimilaritySums, cosine_sums
from shoal.similarity.cka import FEWEST

__all__ = ["RepresentationSums"]

Matrix = NDArray[np.float64]


class RepresentationSums:
    """Running sums over the hidden states of a chain.

    Text is compared token by token (see `Rows`); images and feature maps sample by sample, their
    angles too, but for those of token networks (`B T D`), where an angle is a token's.
    """

    def __init__(self, settings: SimilaritySettings) -> None:
        self.settings = settings
        self._similarity = SimilaritySums(settings)
        # Of cosines, of rows, of angles, and of rows with an angle, (4, K, K).
        self._totals = np.zeros((4, 0, 0))
        self._places: tuple[list[int], list[int]] = ([], [])
        self._samples = self._compared = 0
        self._unit = "samples"

    def add(
        self, tensors: list[Tensor], starts: list[int], stops: list[int], rows: Rows | None, number: int
    ) -> None:
        """Add one batch.

        Args:
            tensors: The K distinct hidden states, on one device or several.
            starts, stops: Which of them each unit takes and returns, `(L,)`.
            rows: Which tokens count, for text.
            number: The batch's number in the whole; with the seed, it decides which tokens are drawn.

        Raises:
            DataError: If there are too few samples, or activations that are not finite.
        """
        if not self._samples:
            self._totals = np.zeros((4, len(tensors), len(tensors)))
            self._places = (starts, stops)
        device = tensors[0].device if rows is None else rows.real.device
        tensors = [tensor.detach().to(device) for tensor in tensors]
        self._samples += len(tensors[0])
        textual = rows is not None and all(tensor.shape[:2] == rows.real.shape for tensor in tensors)
        self._add_similarity(tensors, rows if textual else None, number)
        self._add_angles(tensors, rows if textual else None)

    def _add_similarity(self, tensors: list[Tensor], rows: Rows | None, number: int) -> None:
        boundaries = [tensors[self._places[0][0]], *(tensors[place] for place in self._places[1])]
        if rows is not None:
            self._unit = "tokens"
            drawn = rows.drawn(self.settings.tokens, draw_of(self.settings.seed, number))
            if len(drawn) < FEWEST[self.settings.estimator]:
                return
            drawn = rows.real.flatten().nonzero().squeeze(1)[drawn]
            states = [tensor.flatten(0, 1)[drawn].float() for tensor in boundaries]
            # A few massive channels dominate unless every token has one scale.
            states = [
                state / state.square().mean(dim=1, keepdim=True).sqrt().clamp_min(1e-12) for state in states
            ]
            self._similarity.update(states)
            self._compared += len(drawn)
            return
        states = [self._pooled(tensor) for tensor in boundaries]
        step, count = self.settings.minibatch, len(states[0])
        for start in range(0, count, step):
            size = min(step, count - start)
            if size < FEWEST[self.settings.estimator]:
                continue
            self._similarity.update([state[start : start + size] for state in states])
            self._compared += size

    def _pooled(self, tensor: Tensor) -> Tensor:
        if self.settings.pool == "gap" and tensor.dim() > 2:
            return tensor.mean(dim=1) if tensor.dim() == 3 else tensor.flatten(2).mean(dim=2)
        return flattened(tensor, channels_last=lies_channels_last(tensor))

    def _add_angles(self, tensors: list[Tensor], rows: Rows | None) -> None:
        groups: dict[tuple[int, ...], list[int]] = {}
        for number, tensor in enumerate(tensors):
            groups.setdefault(tuple(tensor.shape), []).append(number)
        for members in groups.values():
            last = lies_channels_last(tensors[members[-1]])
            states = [self._states(tensors[number], rows, last) for number in members]
            angled = None if rows is None else rows.last
            cosines, angles = cosine_sums(states, angled)
            count = len(states[0])
            grid = np.ix_(range(4), members, members)
            self._totals[grid] += np.stack(
                [
                    cosines.cpu().numpy(),
                    np.full(cosines.shape, count),
                    angles.cpu().numpy(),
                    np.full(angles.shape, count if angled is None else len(angled)),
                ]
            )

    @staticmethod
    def _states(tensor: Tensor, rows: Rows | None, channels_last: bool) -> Tensor:
        if rows is not None:
            return tensor.flatten(0, 1) if bool(rows.real.all()) else rows.tokens(tensor)
        return tensor.flatten(0, 1) if tensor.dim() == 3 else flattened(tensor, channels_last=channels_last)

    def merge(self, other: RepresentationSums) -> None:
        """Add all batches that another one of the same settings has summed.

        Raises:
            DataError: If its batches took another way through the network.
        """
        if not other._samples:
            return
        if not self._samples:
            self._totals, self._places = np.zeros_like(other._totals), other._places
        if self._places != other._places:
            raise DataError(
                f"asked to add up what batches say of {len(self._places[0])} units: hidden states go other "
                "ways from unit to unit in some of them. Use batches that take one way through the network."
            )
        self._totals = self._totals + other._totals
        self._similarity.merge(other._similarity)
        self._samples += other._samples
        self._compared += other._compared
        self._unit = other._unit

    def matrices(self) -> tuple[Matrix, Matrix, Matrix]:
        """Return boundary similarity `(L + 1, L + 1)`, and by run `[start, stop]` the mean angle over π
        and the mean 1 - cosine, `(L, L + 1)`, NaN where a run is empty or changes the shape.

        Raises:
            DataError: If nothing was added.
        """
        if not self._samples:
            raise DataError("asked for evidence: no batch was added.")
        if not self._compared:
            estimator = self.settings.estimator
            raise DataError(
                f"asked for {estimator} CKA: it needs {FEWEST[estimator]} or more {self._unit} in a batch, "
                f"and no batch of the {self._samples} samples has so many. Use larger batches."
            )
        starts, stops = self._places
        length = len(starts)
        cosines, rows, angles, angled = self._totals
        with np.errstate(invalid="ignore", divide="ignore"):
            influence, angles = 1 - cosines / rows, angles / angled
        by_run = np.full((2, length, length + 1), np.nan)
        for start in range(length):
            for stop in range(start + 1, length + 1):
                by_run[0, start, stop] = angles[starts[start], stops[stop - 1]]
                by_run[1, start, stop] = influence[starts[start], stops[stop - 1]]
        return self._similarity.matrix(), by_run[0], by_run[1]

    def counts(self) -> dict[str, int | str]:
        """Return how many samples were seen, and how many rows of which kind were compared."""
        return {"samples": self._samples, "compared": self._compared, "rows": self._unit}
