"""How much each unit matters: one pass for all scores, and the measured loss of leaving units out."""

from shoal.importance.evidence import EvidenceSettings, collect_evidence
from shoal.importance.graft import GraftSettings, graft_scores
from shoal.importance.skipping import SkipLosses

__all__ = ["EvidenceSettings", "GraftSettings", "SkipLosses", "collect_evidence", "graft_scores"]
