"""What the stages hand on: measurements, evidence, and the result of a compression. Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shoal.errors import DataError
from shoal.plan import Plan
from shoal.tables import LatencyTable
from shoal.units import Chain, Segment, Segmentation

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Certificate", "CompressionResult", "Evidence", "Measurement"]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What a network costs and how well it does.

    Attributes:
        params: Parameters (numbers, not bytes).
        macs: Multiply-accumulates of one forward call with the example; FLOPs are twice that.
        latency: Median seconds of one forward call; None where it was not measured.
        latency_spread: Interquartile range of those seconds.
        memory: Peak bytes that one forward call holds at once beyond the weights.
        device: Device and number of threads, in words.
        uncounted: Operations that the MACs leave out, with how often each was met.
        quality: Loss, accuracy, perplexity…, by name; empty where nothing was evaluated.
    """

    params: int
    macs: int
    latency: float | None = None
    latency_spread: float | None = None
    memory: int | None = None
    device: str = ""
    uncounted: Mapping[str, int] = field(default_factory=dict, hash=False)
    quality: Mapping[str, float] = field(default_factory=dict, hash=False)

    def as_json(self) -> dict[str, Any]:
        """Return the measurement as JSON values."""
        return asdict(self) | {"uncounted": dict(self.uncounted), "quality": dict(self.quality)}


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """What one pass over the calibration batches says of a chain of L units.

    Boundary 0 is what goes into the first unit, boundary l + 1 what comes out of unit l.

    Attributes:
        chain: The units.
        boundary_similarity: Unbiased linear CKA between all boundaries, `(L + 1, L + 1)`.
        angular_distance: `[start, stop]` is the mean angle between what goes into unit `start` and
            what comes out of unit `stop - 1`, divided by π, in [0, 1]; `(L, L + 1)`, NaN where
            stop <= start or the shapes differ.
        block_influence: The same with 1 - cosine, in [0, 2].
        importance: Scores of the units by name, each `(L,)`, higher = keep; NaN for what was not
            scored.
        segmentation: The best divisions into contiguous segments by similarity.
        data: Which data was used: samples, batches, mean loss, whether it looks memorised.
        latency: Latency of the units; None where it was not measured.
    """

    chain: Chain
    boundary_similarity: NDArray[np.float64] = field(hash=False)
    angular_distance: NDArray[np.float64] = field(hash=False)
    block_influence: NDArray[np.float64] = field(hash=False)
    importance: Mapping[str, NDArray[np.float64]] = field(hash=False)
    segmentation: Segmentation
    data: Mapping[str, Any] = field(hash=False)
    latency: LatencyTable | None = None

    @property
    def similarity(self) -> NDArray[np.float64]:
        """Unbiased linear CKA between the outputs of all units, `(L, L)`."""
        return self.boundary_similarity[1:, 1:]

    def segments(self, k: int) -> tuple[Segment, ...]:
        """Return the best division of the chain into k contiguous segments.

        Raises:
            ConfigError: If k is not in 1 … L.
        """
        return self.segmentation.segments(k)

    def as_json(self) -> dict[str, Any]:
        """Return the evidence as JSON values; NaN becomes null."""
        return {
            "units": [unit.name for unit in self.chain],
            "similarity": _listed(self.similarity),
            "boundary_similarity": _listed(self.boundary_similarity),
            "angular_distance": _listed(self.angular_distance),
            "block_influence": _listed(self.block_influence),
            "importance": {name: _listed(scores) for name, scores in self.importance.items()},
            "segmentation": asdict(self.segmentation),
            "data": dict(self.data),
            "latency": None if self.latency is None else asdict(self.latency),
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any], chain: Chain) -> Evidence:
        """Return the evidence that `as_json` wrote, for the same chain.

        Raises:
            DataError: If it belongs to other units.
        """
        names = [unit.name for unit in chain]
        if fields.get("units") != names:
            raise DataError(
                f"asked to use evidence of {len(fields.get('units', []))} units on {chain.model} "
                f"with {len(names)}: it was collected from another model. Run analyze on this one."
            )
        parts, latency = fields["segmentation"], fields["latency"]
        return cls(
            chain=chain,
            boundary_similarity=np.array(fields["boundary_similarity"], dtype=np.float64),
            angular_distance=np.array(fields["angular_distance"], dtype=np.float64),
            block_influence=np.array(fields["block_influence"], dtype=np.float64),
            importance={k: np.array(v, dtype=np.float64) for k, v in fields["importance"].items()},
            segmentation=Segmentation(
                losses=tuple(parts["losses"]),
                starts=tuple(map(tuple, parts["starts"])),
                length=parts["length"],
            ),
            data=dict(fields["data"]),
            latency=None
            if latency is None
            else LatencyTable(
                units=tuple(latency["units"]), whole=latency["whole"], device=latency["device"]
            ),
        )


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """Proof that a network with merged convolutions computes what the expanded one does.

    Differences are the largest between two outputs, divided by the largest output, in float64.

    Attributes:
        whole: Of the whole network, for the sizes that were tried.
        segments: Of each merged segment by itself, on random maps with their borders, by `[start, stop)`.
        sizes: Shapes of the inputs that the whole network was tried with.
        drift: How far the expanded network lies from one whose convolutions pad where they did, before
            any training: what moving the zeros to the beginning of segments changed.
        limit: The largest difference that is rounding.
    """

    whole: float
    segments: Mapping[str, float] = field(hash=False)
    sizes: tuple[tuple[int, ...], ...] = ()
    drift: float | None = None
    limit: float = 1e-9

    def as_json(self) -> dict[str, Any]:
        """Return the certificate as JSON values."""
        return asdict(self) | {"segments": dict(self.segments)}


@dataclass(frozen=True, kw_only=True, eq=False)
class CompressionResult:
    """What `shoal.compress` hands back.

    Attributes:
        model: The shallower network, an ordinary module of the class that came in.
        plan: What was removed.
        evidence: What the choice rests on; None where the method needed none.
        before: What the original costs and how well it does.
        after: The same of the shallower network.
        certificate: For plans of merges, proof that the merged network is the one that was trained; None
            for others.
    """

    model: nn.Module = field(hash=False)
    plan: Plan
    evidence: Evidence | None
    before: Measurement
    after: Measurement
    certificate: Certificate | None = None


def _listed(values: NDArray[np.float64]) -> list[Any]:
    listed = values.astype(object)
    listed[np.isnan(values)] = None
    return list(listed.tolist())
