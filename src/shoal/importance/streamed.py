"""Evidence of a Hugging Face folder that does not fit in memory: its layers are read one at a time.

All calibration data goes through a layer before the next is read; the hidden states between layers are
kept, in memory or in files mapped into it. Then the layers are read again in reverse, for the gradients.

In memory at a time: what is in no layer (embeddings, head) or in several, one layer and on the way back
its gradients, and the hidden states of the calibration data, of which files make room when others need it.

Shapes: L = units, B = batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from shoal.activations import StreamedBatch, UnitStream, activation_store, lean_heap, trim_heap
from shoal.architectures import find_units
from shoal.architectures.layerwise import LayerwiseModel
from shoal.calling import Batch, Inputs, check_batches, evaluating, split_batch, to_device
from shoal.errors import ConfigError
from shoal.importance.evidence import EvidenceSettings, EvidenceSums
from shoal.importance.weights import magnitude, parameters_of
from shoal.measurement import Loss
from shoal.processes import Processes, together
from shoal.progress import track
from shoal.result import Evidence
from shoal.units import Granularity, Unit

__all__ = ["StreamSettings", "stream_evidence"]


@dataclass(frozen=True, kw_only=True)
class StreamSettings:
    """Where hidden states are kept.

    Attributes:
        memory: Gigabytes (10⁹ bytes) of hidden states that may lie in memory; the rest lie in files.
        folder: Where those files are written, and deleted again; the system's folder for temporary files
            where it is None.
    """

    memory: float = 2.0
    folder: Path | None = None

    def __post_init__(self) -> None:
        if not self.memory >= 0:
            raise ConfigError(f"asked for memory={self.memory}: gigabytes from 0 upwards work.")


def stream_evidence(
    source: LayerwiseModel | Path | str,
    batches: Iterable[Batch],
    *,
    example: Inputs | None = None,
    granularity: Granularity = "block",
    loss: Loss | None = None,
    settings: EvidenceSettings | None = None,
    stream: StreamSettings | None = None,
) -> Evidence:
    """Return what `collect_evidence` returns of the whole model, which is never in memory as a whole.

    Args:
        source: A Hugging Face folder with safetensors, or one that was opened.
        batches: As for `collect_evidence`; all of them are kept in memory.
        example: What the model's forward takes, for its units: better short, as what all modules return
            is held once. May be left out for models that say themselves what they take.
        granularity: What a unit is, as for `find_units`; whole modules are needed here.
        loss: As for `collect_evidence`.
        settings: How the pass is made.
        stream: Where hidden states are kept.

    Raises:
        ConfigError: If the folder cannot be read layer by layer, units depend on each other beyond what
            they return, or several processes are at work.
        DataError: As `collect_evidence`.
        UnknownArchitectureError: If the network has no units.
    """
    settings, stream = settings or EvidenceSettings(), stream or StreamSettings()
    with ExitStack() as stack:
        _check_alone(stack.enter_context(together()))
        stack.enter_context(lean_heap())
        source = source if isinstance(source, LayerwiseModel) else LayerwiseModel(Path(source))
        pairs = [split_batch(batch) for batch in check_batches(batches)]
        # To be run leaves traces on some networks, which those with weights must not bear.
        chain = find_units(deepcopy(source.model), example, granularity=granularity)
        trim_heap()
        store = stack.enter_context(activation_store(stream.memory * 1e9, stream.folder))
        source.hold(chain)
        stack.enter_context(evaluating(source.model))
        units = UnitStream(source.model, chain, store, source.device)
        return _Streamed(source, EvidenceSums(source.model, chain, settings, loss), units).evidence(pairs)


def _check_alone(processes: Processes) -> None:
    if processes.count > 1:
        raise ConfigError(
            f"asked to read a folder layer by layer in {processes.count} processes: each would read all of "
            "it. Start one process, or load the whole model."
        )


class _Streamed:
    def __init__(self, source: LayerwiseModel, sums: EvidenceSums, stream: UnitStream) -> None:
        self.source, self.sums, self.stream = source, sums, stream
        self._magnitudes = np.zeros(len(stream.chain))

    def evidence(self, pairs: list[tuple[Inputs, Any]]) -> Evidence:
        batches = self.stream.forward([inputs for inputs, _ in pairs], self.source.filled, self._measure)
        for number, batch in enumerate(track(batches, "comparing the layers")):
            self.sums.add_states(number, batch.inputs, batch.points())
            if self.sums.wants_loss(batch.inputs, pairs[number][1]):
                self._differentiate(number, batch, pairs[number][1])
            trim_heap()
        importance = {"magnitude": self._magnitudes}
        if self.sums.scores.samples:
            if not self.source.shared:
                # The head has done its part; read anew, it takes no memory before it is used again.
                self.source.hold(self.stream.chain)
            weights = partial(self.source.filled, gradients=True)
            self.stream.backward(batches, weights, self.sums.scores.add, self._weigh)
            for unit in self.stream.chain:
                self._weigh(unit, shared=True)
            importance |= self.sums.scores.summary()
        return self.sums.evidence(importance)

    def _measure(self, unit: Unit) -> None:
        self._magnitudes[unit.index] = magnitude(self.source.model, unit)
        trim_heap()

    def _differentiate(self, number: int, batch: StreamedBatch, labels: Any) -> None:
        inputs, labels = to_device((batch.inputs, labels), self.source.device)
        losses = self.stream.finish(batch, lambda outputs: self.sums.losses(number, outputs, inputs, labels))
        if losses is not None:
            self.sums.scores.count(losses)

    def _weigh(self, unit: Unit, *, shared: bool = False) -> None:
        """Take a unit's gradients; those of shared weights, which come from several units, at the end."""
        several = {id(parameter) for parameter in self.source.shared}
        own = parameters_of(self.source.model, unit)
        self.sums.scores.weigh(unit, [each for each in own if (id(each) in several) == shared])
        trim_heap()
