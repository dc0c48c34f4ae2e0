"""How much each unit matters: one pass for all scores, and what is measured of a network
without some units: its loss, and how far its final representation changes.
"""

from shoal.importance.evidence import EvidenceSettings, collect_evidence
from shoal.importance.graft import GraftSettings, graft_scores
from shoal.importance.merge_settings import MergeLoss, MergeLossSettings
from shoal.importance.merges import MergeLosses
from shoal.importance.representation_change import ChangeSettings, RepresentationChange
from shoal.importance.skipping import SkipLosses
from shoal.importance.streamed import StreamSettings, stream_evidence
from shoal.importance.weights import magnitudes

__all__ = [
    "ChangeSettings",
    "EvidenceSettings",
    "GraftSettings",
    "MergeLoss",
    "MergeLossSettings",
    "MergeLosses",
    "RepresentationChange",
    "SkipLosses",
    "StreamSettings",
    "collect_evidence",
    "graft_scores",
    "magnitudes",
    "stream_evidence",
]
