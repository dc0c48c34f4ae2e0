"""Requests that share what was dear to measure, and know what each of them asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import MutableMapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from shoal.budget import Budget
from shoal.importance import EvidenceSettings
from shoal.journal import Journal
from shoal.methods import Request
from shoal.result import Evidence

__all__ = ["Passes", "SharingRequest", "WatchedJournal"]

Passes = MutableMapping[EvidenceSettings, Evidence]


class WatchedJournal(Journal):
    """Another journal's values, with a memory of which were asked for, known before or not.

    Args:
        journal: The other one, which everything is read from and written to.
    """

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self.path = journal.path
        self._journal = journal
        self.asked: set[str] = set()

    def __contains__(self, key: str) -> bool:
        self.asked.add(key)
        return key in self._journal

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return self._journal[key]

    def __len__(self) -> int:
        return len(self._journal)

    def __setitem__(self, key: str, value: Any) -> None:
        self.asked.add(key)
        self._journal[key] = value


@dataclass(kw_only=True)
class SharingRequest(Request):
    """A request whose passes over the data and measured numbers serve other requests too.

    Attributes:
        passes: The evidence of every pass so far, by its settings; shared.
        looked: The settings of the passes that this request made use of.
    """

    passes: Passes = field(default_factory=dict)
    looked: set[EvidenceSettings] = field(default_factory=set)

    @classmethod
    def of(cls, request: Request, budget: Budget, passes: Passes) -> SharingRequest:
        """Return a request for another budget that shares all that is known."""
        given = {each.name: getattr(request, each.name) for each in fields(request) if each.init}
        made = cls(
            **(given | {"budget": budget, "passes": passes, "journal": WatchedJournal(request.journal)})
        )
        # To hash a network with its data takes time, and to measure its units.
        made.key = request.key
        if budget.quantity == "latency":
            made.latency = request.latency
        return made

    @property
    def asked(self) -> dict[str, int]:
        """How many numbers of each kind were asked for: `pass` over the data, `loss` without units…"""
        journal = self.journal
        names = journal.asked if isinstance(journal, WatchedJournal) else ()
        kinds = Counter(map(_kind, names))
        return ({"pass": len(self.looked)} if self.looked else {}) | dict(sorted(kinds.items()))

    def collect(self, settings: EvidenceSettings | None = None) -> Evidence:
        """Return the evidence, from a pass that was made before where one serves."""
        wanted = settings or EvidenceSettings()
        known = next(
            (each for each in (wanted, replace(wanted, gradients=True)) if each in self.passes), None
        )
        if known is not None:
            self.evidence, self._collected = self.passes[known], known
        found = super().collect(wanted)
        self.passes[self._collected] = found
        self.looked.add(self._collected)
        return found


def _kind(key: str) -> str:
    """What a key of the journal is of: in `hash/loss/3,4`, the last part that is a word."""
    return next((part for part in reversed(key.split("/")) if part.isalpha()), "number")
