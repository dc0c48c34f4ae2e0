"""What every way to rewrite a segment of convolutions costs in quality: the importance table of LayerMerge.

Each entry is carried out by itself on a copy of the network, which is then led back towards the original:
in closed form, from a few hundred samples (`reconstruction`), or by brief training (`tuned`, as published).
What counts is its loss on other samples, less that of the original treated alike.

Reference: Kim et al., 2024, "LayerMerge: Neural Network Depth Compression through Layer Pruning and
Merging", https://arxiv.org/abs/2406.12837.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from shoal.architectures.convolutions import Convolutions
from shoal.architectures.initialisation import seeded
from shoal.calling import Batch, call, device_of, evaluating, to_device
from shoal.errors import DataError
from shoal.importance.merge_settings import MergeLoss, MergeLossSettings
from shoal.importance.prefixes import Batches, Cut, CutBatches, cut_of, parted, whole_network
from shoal.importance.reconstruction import expanded, reconstructed
from shoal.importance.tuning import tune_
from shoal.journal import Journal, fingerprint
from shoal.layers import MergeEntry
from shoal.measurement import Loss, evaluate_quality
from shoal.processes import together
from shoal.progress import task
from shoal.steps import Merge
from shoal.surgery.expanding import expand_
from shoal.training import recalibrate_
from shoal.training.distillation import output_gap
from shoal.training.optimisation import make_optimizer

__all__ = ["MergeLosses", "dealt"]

# What is tried in one place of the network; None stands for the network as it is.
Group = tuple[str, list[MergeEntry | None]]


class MergeLosses:
    """What entries cost in quality; each is measured once, in the same way and on the same samples.

    Networks without labels (and without `loss`) are judged by how far their outputs are from the original's:
    the Kullback-Leibler divergence of class predictions, the mean squared difference of others.

    Started by `accelerate launch` or torchrun, processes deal the entries out among them, and each returns
    what all have measured.

    Args:
        convolutions: The network's; they are left as they were found.
        batches: Batches to judge on, with labels where there are some.
        loss: Called as `loss(outputs, labels)` in place of the usual losses.
        tuning: Batches to lead networks back on; where it is None, every other one of `batches`.
        journal: Where what was measured is kept; in memory where it is None.
        key: Prefix of the journal's keys: a hash of weights, of `batches` and of `tuning`.
        settings: How costs are measured.

    Raises:
        ConfigError: If networks are to be trained, and no weights may be.
        DataError: If there are no batches, or one sample to judge and to tune on.
    """

    def __init__(
        self,
        convolutions: Convolutions,
        batches: Iterable[Batch],
        *,
        loss: Loss | None = None,
        tuning: Iterable[Batch] | None = None,
        journal: Journal | None = None,
        key: str = "",
        settings: MergeLossSettings | None = None,
    ) -> None:
        self.convolutions, self.settings = convolutions, settings or MergeLossSettings()
        self.journal = journal if journal is not None else Journal()
        self.network = whole_network(convolutions)
        if self.settings.form == "tuned":
            make_optimizer(self.network, self.settings.fit_settings())
        judged, tuned = parted(batches, tuning, self.settings.samples)
        labelled = loss is not None or all(labels is not None for _, labels in [*judged, *tuned])
        self._judged, self._tuned = judged, tuned
        self._loss = loss if labelled else _gap
        if not labelled:
            self._judged, self._tuned = self._taught(judged), self._taught(tuned)
        matters = {name: value for name, value in asdict(self.settings).items() if name != "cache_gib"}
        self._key = f"{key}/merge/{fingerprint(sorted(matters.items()), labelled)}"
        self.source = f"{'loss' if labelled else 'gap to the outputs of the original'}, {self.settings.form}"
        """What the numbers are."""

    def of(self, entries: Sequence[MergeEntry], title: str = "measuring merges") -> list[float]:
        """Return what each entry adds to the mean loss of the same network, treated alike with nothing
        rewritten; infinite where it overflows. Layers that stay as they are cost 0, unless they begin anew.

        Raises:
            DataError: If there is nothing to compute a loss from, or that of the network is not finite.
        """
        return [found.loss for found in self.measure(entries, title)]

    def measure(self, entries: Sequence[MergeEntry], title: str = "measuring merges") -> list[MergeLoss]:
        """Return what each entry does to loss and accuracy.

        Raises:
            DataError: As `of`.
        """
        missing = [entry for entry in dict.fromkeys(entries) if self.measured(entry) is None]
        with together() as processes:
            lacking = dict.fromkeys(entry for each in processes.exchange(missing) for entry in each)
            if lacking:
                processes.check_same(self.network, [layer.name for layer in self.convolutions.layers])
                self._measure(list(lacking), title)
        return [found for entry in entries if (found := self.measured(entry)) is not None]

    def measured(self, entry: MergeEntry) -> MergeLoss | None:
        """Return what an entry does, if that is known without measuring."""
        if self._is_free(entry):
            return MergeLoss(loss=0.0, accuracy_change=0.0)
        name, beside = self._name(entry), self._beside(entry)
        if name not in self.journal or beside not in self.journal:
            return None
        (loss, accuracy), (base, before) = self.journal[name], self.journal[beside]
        changes = accuracy is not None and before is not None
        return MergeLoss(loss=loss - base, accuracy_change=accuracy - before if changes else None)

    @cached_property
    def _before(self) -> tuple[float, float | None]:
        """Loss and accuracy of the network as it came."""
        name = f"{self._key}/before"
        if name not in self.journal:
            found = evaluate_quality(self.network, self._judged, loss=self._loss)
            self.journal[name] = [found["loss"], found.get("accuracy")]
        loss, accuracy = self.journal[name]
        return loss, accuracy

    def of_plans(self, plans: Sequence[Sequence[Merge]], steps: int) -> list[float]:
        """Return the mean loss of the network that each plan's steps together leave, after so many steps of
        training on the original's outputs; infinite where that overflows.

        Raises:
            DataError: If there is nothing to compute a loss from.
        """
        names = [f"{self._key}/whole/{steps}/{fingerprint(*plan)}" for plan in plans]
        _ = self._before
        with together() as processes, task("measuring whole plans", len(plans)) as advance:
            for plan, name in zip(plans, names, strict=True):
                if name not in self.journal:
                    # Every process does the same, so that none has to wait.
                    self.journal[name] = processes.exchange(self._whole(plan, steps))[0]
                advance(1)
        return [self.journal[name] for name in names]

    def _whole(self, plan: Sequence[Merge], steps: int) -> float:
        cut = Cut(self.network, "")
        tuned, judged = (CutBatches(cut, each, self.network, 0) for each in (self._tuned, self._judged))
        network = expand_(self.convolutions.copy(), plan)
        recalibrate_(network, tuned)
        how = replace(self.settings.fit_settings(), max_steps=steps)
        try:
            with evaluating(self.network):
                tune_(network, tuned, how, loss=self._loss, teacher=self.network, distil=1.0)
            return float(self._judge(network, judged)[0])
        except DataError:
            return math.inf

    @property
    def loss_before(self) -> float:
        """Mean loss of the network as it came, on the samples that are judged on."""
        return self._before[0]

    def _is_free(self, entry: MergeEntry) -> bool:
        return entry.unchanged and not self.settings.fresh_single

    def _name(self, entry: MergeEntry) -> str:
        kept = ",".join(map(str, entry.kept))
        return f"{self._key}/{entry.segment.start}:{entry.segment.stop}/{kept}/{entry.added}"

    def _beside(self, entry: MergeEntry) -> str:
        """Name of what an entry is compared with."""
        return f"{self._key}/as it is/{self._cut(entry)}"

    def _cut(self, entry: MergeEntry) -> str:
        return "" if self.settings.from_start else cut_of(self.convolutions, entry.segment.start)

    def _measure(self, entries: list[MergeEntry], title: str) -> None:
        """Measure entries, each process those that it is dealt, and what they are compared with."""
        _ = self._before
        groups: dict[str, list[MergeEntry | None]] = {}
        for entry in entries:
            group = groups.setdefault(self._cut(entry), [])
            if not group and self._beside(entry) not in self.journal:
                group.append(None)
            group.append(entry)
        total = sum(map(len, groups.values()))
        with together() as processes, task(title, total) as advance, evaluating(self.network):
            for dealing in dealt(list(groups.items()), processes.count):
                own = {}
                for cut, group in dealing[processes.number : processes.number + 1]:
                    for name, value in self._values(cut, group):
                        self.journal[name] = own[name] = value
                        advance(1)
                for found in processes.exchange(own):
                    for name in found.keys() - own.keys():
                        self.journal[name] = found[name]
                        advance(1)

    def _values(self, entry_point: str, group: list[MergeEntry | None]) -> Iterator[tuple[str, list[Any]]]:
        """Yield the name and the loss and accuracy of all that is tried behind one cut."""
        cut = Cut(self.network, entry_point)
        room = self.settings.cache_gib * 2**30 / 2
        tuned = CutBatches(cut, self._tuned, self.network, room)
        judged = CutBatches(cut, self._judged, self.network, room)
        for entry in group:
            if entry is None:
                network = cut.behind(self.convolutions.copy().pieces.assemble())
                self._lead_back_(network, cut, tuned)
                yield f"{self._key}/as it is/{entry_point}", self._judge(network, judged)
                continue
            try:
                value = self._judge(self._rewritten(entry, cut, tuned), judged)
            except DataError:
                # The network as it came went through all of this: what was rewritten overflows.
                value = [math.inf, None if self._before[1] is None else 0.0]
            yield self._name(entry), value

    def _rewritten(self, entry: MergeEntry, cut: Cut, tuned: CutBatches) -> nn.Module:
        """The part behind a cut of the network that is rewritten by an entry and led back."""
        settings = self.settings
        if settings.form == "reconstruction":
            return reconstructed(
                self.convolutions, entry, cut, tuned, ridge=settings.ridge, recalibrate=settings.recalibrate
            )
        whole = self._anew(entry) if entry.unchanged else expanded(self.convolutions, entry)
        network = cut.behind(whole)
        self._tune_(network, cut, tuned)
        return network

    def _anew(self, entry: MergeEntry) -> nn.Module:
        """A copy of the network in which a layer and its norm have random weights."""
        copied = self.convolutions.copy()
        place = copied.places[entry.segment.start]
        network = copied.pieces.assemble()
        with seeded(network, self.settings.seed):
            for node in filter(None, (place.node, place.norm)):
                module: Any = place.piece.traced.get_submodule(str(node.target))
                module.reset_parameters()
        return network

    def _judge(self, network: nn.Module, judged: CutBatches) -> list[Any]:
        found = evaluate_quality(network, judged, loss=self._loss)
        return [found["loss"], found.get("accuracy")]

    def _lead_back_(self, network: nn.Module, cut: Cut, tuned: CutBatches) -> None:
        """Treat the network as it is like those that are rewritten."""
        if self.settings.form == "tuned":
            self._tune_(network, cut, tuned)
        elif self.settings.recalibrate:
            recalibrate_(network, tuned)

    def _tune_(self, network: nn.Module, cut: Cut, tuned: CutBatches) -> None:
        """Train a part behind a cut; what is drawn is the same for all."""
        settings = self.settings
        if settings.recalibrate:
            recalibrate_(network, tuned)
        teacher = cut.behind(self.network) if settings.distil else None
        tune_(
            network,
            tuned,
            settings.fit_settings(),
            loss=self._loss,
            teacher=teacher,
            distil=settings.distil,
        )

    def _taught(self, batches: Batches) -> Batches:
        """The same batches with what the network puts out in place of labels."""
        with evaluating(self.network):
            return [
                (inputs, _outputs(self.network, to_device(inputs, device_of(self.network))))
                for inputs, _ in batches
            ]


def dealt(groups: Sequence[Group], count: int) -> list[list[Group]]:
    """Return rounds in each of which every process gets one group at most, the largest groups first.

    What stands behind no cut shares nothing, and is dealt one by one.

    Example:
        >>> [[len(group) for _, group in hands] for hands in dealt([("a", [None]), ("b", [None] * 3)], 2)]
        [[3, 1]]
    """
    hands: list[Group] = []
    for cut, group in groups:
        hands += [(cut, group)] if cut else [(cut, [entry]) for entry in group]
    ordered = sorted(hands, key=lambda hand: -len(hand[1]))
    return [ordered[start : start + count] for start in range(0, len(ordered), count)]


def _outputs(network: nn.Module, values: Any) -> Any:
    with torch.no_grad():
        return call(network, values)


def _gap(outputs: Any, taught: Any) -> Tensor:
    return output_gap(outputs, taught, None, temperature=1.0)
