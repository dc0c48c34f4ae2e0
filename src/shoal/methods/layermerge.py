"""LayerMerge: which convolutions and which activations to drop, so that neighbours merge into one.

Every segment of convolutions that the network's graph allows is listed with the layers that may stay in it;
what merges is timed on the device, what that costs in quality is measured, and the partition of the
network into segments that loses least within the budget is found exactly. Whole segments may go.

Default: the sum of added losses is made small, entries are measured only where the best plan so far needs
them, and a segment runs unmerged where merging is slower. `preset="paper"` searches the published segments,
tunes the whole network for every entry, and rounds latencies to 0.1 ms.

Reference: Kim et al., 2024, "LayerMerge: Neural Network Depth Compression through Layer Pruning and
Merging", https://arxiv.org/abs/2406.12837.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from shoal.errors import ConfigError
from shoal.importance import MergeLossSettings
from shoal.methods import Method
from shoal.methods.merges import choose_merges
from shoal.methods.merging_settings import MergeSettings
from shoal.methods.request import Request
from shoal.plan import Plan
from shoal.surgery import PUBLISHED, EntryRules

__all__ = ["METHOD", "LayerMergeSettings", "choose"]


@dataclass(frozen=True, kw_only=True)
class LayerMergeSettings(MergeSettings):
    """How LayerMerge measures and chooses.

    Attributes:
        rules: Which ways to rewrite segments are looked at.
        whole_steps: Losses of entries do not quite add up. So the best plan by the tables is compared, as a
            whole network after so many steps of training on the original's outputs, with the best that
            only removes layers and the best that only merges; 0 trusts the tables.
    """

    rules: EntryRules = field(default_factory=EntryRules)
    whole_steps: int = 40

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.whole_steps < 0:
            raise ConfigError(f"asked for whole_steps={self.whole_steps}: numbers from 0 upwards work.")


PAPER = LayerMergeSettings(
    rules=PUBLISHED,
    importance=MergeLossSettings.published(),
    measure="all",
    objective="published",
    quantum=1e-4,
    rounding="floor",
    separate=False,
    time_all=True,
    whole_steps=0,
)


def choose(request: Request, settings: LayerMergeSettings) -> Plan:
    """Return the plan that LayerMerge chooses.

    Raises:
        BudgetError: If no plan meets the budget; names the nearest that can be had.
        DataError: If the data does not allow the losses that are asked for.
        UnknownArchitectureError: If no convolution of the network can be followed.
    """
    return choose_merges(
        request, settings, method="layermerge", rules=settings.rules, whole_steps=settings.whole_steps
    )


METHOD = Method(
    name="layermerge",
    help="drop convolutions and activations so that neighbouring convolutions merge into one (CNNs)",
    settings=LayerMergeSettings,
    presets={"default": LayerMergeSettings(), "paper": PAPER},
    choose=choose,
    granularity="layer",
    times_itself=True,
)
