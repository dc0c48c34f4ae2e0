"""What a network costs and how well it does: parameters, MACs, latency, memory, quality."""

from shoal.measurement.cache import CacheSize
from shoal.measurement.convolutions import ShapeSettings, ShapeTiming, time_shapes
from shoal.measurement.costs import measure, measure_pair
from shoal.measurement.counting import MacCount, count_macs, count_params
from shoal.measurement.footprint import Footprint, footprint
from shoal.measurement.generation import (
    Prompts,
    cannot_generate,
    check_generation,
    evaluate_generation,
    generation_accuracy,
    with_reference,
)
from shoal.measurement.intervals import wilson_interval
from shoal.measurement.latency import (
    LatencySettings,
    Timing,
    describe_device,
    measure_latency,
    time_calls,
    unit_latency,
)
from shoal.measurement.losses import (
    IGNORED,
    Loss,
    batch_loss,
    is_causal,
    logits_of,
    sample_losses,
    sample_weights,
    token_targets,
)
from shoal.measurement.memory import peak_memory
from shoal.measurement.merge_costs import EntryCost, entry_costs, time_entries
from shoal.measurement.quality import (
    SampleLosses,
    evaluate_quality,
    evaluate_samples,
    paired_difference,
)
from shoal.measurement.stand_ins import activation_module, has_activation, stand_in
from shoal.measurement.tasks import check_tasks, evaluate_tasks

__all__ = [
    "IGNORED",
    "CacheSize",
    "EntryCost",
    "Footprint",
    "LatencySettings",
    "Loss",
    "MacCount",
    "Prompts",
    "SampleLosses",
    "ShapeSettings",
    "ShapeTiming",
    "Timing",
    "activation_module",
    "batch_loss",
    "cannot_generate",
    "check_generation",
    "check_tasks",
    "count_macs",
    "count_params",
    "describe_device",
    "entry_costs",
    "evaluate_generation",
    "evaluate_quality",
    "evaluate_samples",
    "evaluate_tasks",
    "footprint",
    "generation_accuracy",
    "has_activation",
    "is_causal",
    "logits_of",
    "measure",
    "measure_latency",
    "measure_pair",
    "paired_difference",
    "peak_memory",
    "sample_losses",
    "sample_weights",
    "stand_in",
    "time_calls",
    "time_entries",
    "time_shapes",
    "token_targets",
    "unit_latency",
    "wilson_interval",
    "with_reference",
]
