"""Pruning as a Lightning callback: the budget is met, and a resumed run is the run itself."""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from shoal.errors import ConfigError
from shoal.training.concurrent.lightning_callback import LightningPruning, lightning_pruning_callback
from shoal.training.concurrent.settings import ConcurrentSettings

BLOCKS, EPOCHS, BATCHES = 5, 3, 10
# Units leave one by one in so few steps.
SETTINGS = ConcurrentSettings(
    start=0.2,
    tolerance=0.18,
    floor=0.3,
    confidence=0,
    warmup=0.1,
    window=0.8,
    haste=1.0,
    memory=0.98,
    probes=5,
)
EXAMPLE = torch.zeros(1, 8)


@pytest.fixture(params=["lightning.pytorch", "pytorch_lightning"])
def library(request: pytest.FixtureRequest) -> Any:
    """Lightning under either of its names."""
    name: str = request.param
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, reason=f"{name} is not installed")


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.down(torch.relu(self.up(hidden)))


def tiny_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), *(Block() for _ in range(BLOCKS)), nn.Linear(8, 3))


def module_of(library: Any, network: nn.Module, *, optimizers: int = 1) -> Any:
    class Classifier(library.LightningModule):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def training_step(self, batch: Any, index: int) -> Tensor:
            inputs, labels = batch
            return nn.functional.cross_entropy(self.network(inputs), labels)

        def configure_optimizers(self) -> Any:
            made = [torch.optim.Adam(self.parameters(), lr=1e-2) for _ in range(optimizers)]
            return made if optimizers > 1 else made[0]

    return Classifier()


def loader() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(BATCHES * 8, 8, generator=generator)
    return DataLoader(TensorDataset(inputs, inputs[:, :3].argmax(1)), batch_size=8)


def made(**changes: Any) -> LightningPruning:
    choices = {"network": "network", "budget": "units=2", "settings": SETTINGS} | changes
    return lightning_pruning_callback(EXAMPLE, **choices)


def trainer(library: Any, folder: Path, *callbacks: Any, **changes: Any) -> Any:
    arguments: dict[str, Any] = {
        "max_epochs": EPOCHS,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": folder,
    }
    return library.Trainer(callbacks=list(callbacks), **(arguments | changes))


def fit(run: Any, module: Any, **changes: Any) -> None:
    with warnings.catch_warnings():
        # Lightning's own advice, on workers, logging and torch's versions.
        warnings.simplefilter("ignore")
        run.fit(module, loader(), **changes)


def saving(library: Any, folder: Path) -> Any:
    checkpoint = import_module(f"{library.__name__}.callbacks").ModelCheckpoint
    return checkpoint(dirpath=folder, filename="{epoch}", save_top_k=-1)


def same(one: nn.Module, other: nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_training_ends_at_the_budget(library: Any, tmp_path: Path) -> None:
    callback = made()
    module = module_of(library, tiny_network())
    run = trainer(library, tmp_path, callback)
    fit(run, module)
    small = callback.finish()
    assert sum(isinstance(part, Block) for part in small) == 2
    assert small(EXAMPLE).shape == (1, 3)
    assert callback.pruner.done == EPOCHS * BATCHES
    assert run.callback_metrics["pruning/units"] == 2
    assert isinstance(callback, library.Callback)


def test_the_module_may_be_the_network_itself(library: Any, tmp_path: Path) -> None:
    class Itself(module_of(library, tiny_network()).__class__):  # type: ignore[misc]
        def forward(self, inputs: Tensor) -> Tensor:
            return self.network(inputs)

        def training_step(self, batch: Any, index: int) -> Tensor:
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

    callback = made(network="")
    fit(trainer(library, tmp_path, callback), Itself())
    assert sum(isinstance(part, Block) for part in callback.finish().network) == 2


def test_accumulated_batches_are_one_step_of_the_pruner(library: Any, tmp_path: Path) -> None:
    callback = made()
    run = trainer(library, tmp_path, callback, accumulate_grad_batches=2)
    fit(run, module_of(library, tiny_network()))
    assert callback.pruner.done == callback.pruner.steps == EPOCHS * BATCHES // 2
    # Two calls a step, until all gates were settled.
    assert callback.pruner.gates.calls == 2 * max(callback.pruner.removed_at.values())
    assert callback.pruner.progress().units == 2


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_a_resumed_run_is_the_run_that_was_never_interrupted(
    library: Any, tmp_path: Path, epoch: int
) -> None:
    whole = made()
    run = trainer(library, tmp_path, whole, saving(library, tmp_path), enable_checkpointing=True)
    fit(run, module_of(library, tiny_network()))

    resumed, module = made(), module_of(library, tiny_network())
    fit(trainer(library, tmp_path, resumed), module, ckpt_path=tmp_path / f"epoch={epoch}.ckpt")

    assert resumed.pruner.removed == whole.pruner.removed
    assert resumed.pruner.progress() == whole.pruner.progress()
    assert same(resumed.finish(), whole.finish())


def test_a_checkpoint_without_the_callback_is_refused(library: Any, tmp_path: Path) -> None:
    run = trainer(library, tmp_path, saving(library, tmp_path), enable_checkpointing=True, max_epochs=1)
    fit(run, module_of(library, tiny_network()))
    again = trainer(library, tmp_path, made())
    with pytest.raises(ConfigError, match="no state of this callback"):
        fit(again, module_of(library, tiny_network()), ckpt_path=tmp_path / "epoch=0.ckpt")


def test_a_checkpoint_is_resumed_with_its_own_steps_and_settings(library: Any, tmp_path: Path) -> None:
    run = trainer(library, tmp_path, made(), saving(library, tmp_path), enable_checkpointing=True)
    fit(run, module_of(library, tiny_network()))
    path = tmp_path / "epoch=0.ckpt"
    with pytest.raises(ConfigError, match="budget 'units=2' -> 'units=3'"):
        fit(
            trainer(library, tmp_path, made(budget="units=3")),
            module_of(library, tiny_network()),
            ckpt_path=path,
        )
    longer = trainer(library, tmp_path, made(), max_epochs=EPOCHS + 1)
    with pytest.raises(ConfigError, match="training of 40 steps: the checkpoint is of one of 30"):
        fit(longer, module_of(library, tiny_network()), ckpt_path=path)


def test_a_callback_serves_one_run(library: Any, tmp_path: Path) -> None:
    callback, module = made(), module_of(library, tiny_network())
    saves = saving(library, tmp_path)
    fit(trainer(library, tmp_path, callback, saves, enable_checkpointing=True), module)
    with pytest.raises(ConfigError, match="second training run"):
        fit(trainer(library, tmp_path, callback), module)
    with pytest.raises(ConfigError, match="callback that has pruned already"):
        fit(trainer(library, tmp_path, callback), module, ckpt_path=tmp_path / "epoch=0.ckpt")


def test_a_training_without_an_end_or_with_two_optimisers_is_refused(library: Any, tmp_path: Path) -> None:
    endless = trainer(library, tmp_path, made(), max_epochs=-1)
    with pytest.raises(ConfigError, match="training of inf steps"):
        fit(endless, module_of(library, tiny_network()))
    two = module_of(library, tiny_network(), optimizers=2)
    two.automatic_optimization = False
    with pytest.raises(ConfigError, match="2 optimisers: one works"):
        fit(trainer(library, tmp_path, made()), two)


def test_an_unknown_network_is_refused_with_those_that_there_are(library: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'backbone' of Classifier: there is none; it has network"):
        fit(trainer(library, tmp_path, made(network="backbone")), module_of(library, tiny_network()))


class Loop:
    """As much of a Lightning trainer and its module as the callback asks for."""

    world_size, accumulate_grad_batches, precision = 1, 1, "32-true"

    def __init__(self, network: nn.Module, *, shards: bool = False, **ddp: bool) -> None:
        self.strategy = SimpleNamespace(restore_checkpoint_after_setup=shards, _ddp_kwargs=ddp)
        self.optimizers = [torch.optim.SGD(network.parameters(), lr=0.05)]
        self.estimated_stepping_batches = EPOCHS * BATCHES
        self.logged: dict[str, float] = {}
        self.module = nn.Module()
        self.module.network = network
        vars(self.module)["log_dict"] = self.logged.update
        vars(self.module)["on_load_checkpoint"] = lambda checkpoint: None


@pytest.fixture
def _stub(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lightning.pytorch", "pytorch_lightning"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    stub = type("Callback", (), {})
    monkeypatch.setitem(sys.modules, "pytorch_lightning", SimpleNamespace(Callback=stub))  # type: ignore[arg-type]


@pytest.mark.usefixtures("_stub")
def test_events_prune_without_lightning_too() -> None:
    loop, callback = Loop(tiny_network()), made()
    callback.setup(loop, loop.module, "fit")
    callback.on_fit_start(loop, loop.module)
    for _ in range(EPOCHS):
        for index, batch in enumerate(loader()):
            callback.on_train_batch_start(loop, loop.module, batch, index)
            nn.functional.cross_entropy(loop.module.network(batch[0]), batch[1]).backward()
            callback.on_before_optimizer_step(loop, loop.module, loop.optimizers[0])
            loop.optimizers[0].step()
            loop.optimizers[0].zero_grad()
    assert loop.logged["pruning/units"] == 2
    assert callback.finish()(EXAMPLE).shape == (1, 3)


@pytest.mark.usefixtures("_stub")
def test_a_sharded_network_is_refused() -> None:
    loop, callback = Loop(tiny_network(), shards=True), made()
    with pytest.raises(ConfigError, match="SimpleNamespace: it shards the network"):
        callback.setup(loop, loop.module, "fit")


@pytest.mark.usefixtures("_stub")
def test_processes_that_expect_all_gradients_are_refused() -> None:
    loop, callback = Loop(tiny_network()), made()
    loop.world_size = 2
    with pytest.raises(ConfigError, match="strategy='ddp_find_unused_parameters_true' works"):
        callback.setup(loop, loop.module, "fit")
    loop.strategy = Loop(tiny_network(), find_unused_parameters=True).strategy
    callback.setup(loop, loop.module, "fit")


@pytest.mark.usefixtures("_stub")
@pytest.mark.parametrize(
    ("name", "value", "said"),
    [("accumulate_grad_batches", 4, "4 batches a step"), ("precision", "16-mixed", "losses that are scaled")],
)
def test_slopes_are_not_read_off_losses_that_are_scaled(name: str, value: object, said: str) -> None:
    loop = Loop(tiny_network())
    setattr(loop, name, value)
    made().setup(loop, loop.module, "fit")
    callback = made(settings=replace(SETTINGS, estimator="slope"))
    with pytest.raises(ConfigError, match=f"estimator='slope' and {said}"):
        callback.setup(loop, loop.module, "fit")


def test_without_lightning_what_to_install_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lightning.pytorch", "pytorch_lightning"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr("shoal.training.concurrent.lightning_callback.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install lightning"):
        made()
