"""What a network costs and how well it does: parameters, MACs, latency, memory, quality."""

from shoal.measurement.costs import measure, measure_pair
from shoal.measurement.counting import MacCount, count_macs, count_params
from shoal.measurement.latency import (
    LatencySettings,
    Timing,
    describe_device,
    measure_latency,
    time_calls,
    unit_latency,
)
from shoal.measurement.losses import IGNORED, Loss, is_causal, logits_of, sample_losses, token_targets
from shoal.measurement.memory import peak_memory
from shoal.measurement.quality import evaluate_quality, wilson_interval

__all__ = [
    "IGNORED",
    "LatencySettings",
    "Loss",
    "MacCount",
    "Timing",
    "count_macs",
    "count_params",
    "describe_device",
    "evaluate_quality",
    "is_causal",
    "logits_of",
    "measure",
    "measure_latency",
    "measure_pair",
    "peak_memory",
    "sample_losses",
    "time_calls",
    "token_targets",
    "unit_latency",
    "wilson_interval",
]
