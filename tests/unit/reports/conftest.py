"""Evidence made by hand, of as many units and scores as a test wants."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest

from shoal.result import Evidence
from shoal.segmentation import segment_similarity

MakeEvidence = Callable[..., Evidence]


@pytest.fixture
def make_evidence(make_chain) -> MakeEvidence:
    """Return a function that makes evidence of units of which neighbours are alike.

    Scores are random by default, two of them; those given by name are taken as they are.
    """

    def make(
        length: int = 4,
        *,
        scores: int | Mapping[str, Sequence[float]] = 2,
        fixed: Sequence[int] = (),
        model: str = "Net",
    ) -> Evidence:
        generator = np.random.default_rng(length)
        places = np.arange(length + 1)
        similarity = np.exp(-np.abs(places[:, None] - places) / 5)
        if isinstance(scores, int):
            scores = {f"score_{n}": generator.random(length) for n in range(scores)}
        chain = make_chain([10] * length, fixed=fixed)
        return Evidence(
            chain=type(chain)(units=chain.units, model=model, params=chain.params, macs=chain.macs),
            boundary_similarity=similarity,
            angular_distance=np.zeros((length, length + 1)),
            block_influence=np.zeros((length, length + 1)),
            importance={name: np.array(values, dtype=np.float64) for name, values in scores.items()},
            segmentation=segment_similarity(similarity[1:, 1:]),
            data={"samples": 8, "batches": 2, "loss": 0.5, "memorised": False},
        )

    return make
