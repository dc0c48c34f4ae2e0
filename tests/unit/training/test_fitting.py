import math
import re
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from gated import Toy
from shoal.cli import console
from shoal.errors import ConfigError, DataError
from shoal.progress import reporting
from shoal.training.checkpoint import VERSION
from shoal.training.concurrent import ConcurrentPruner, ConcurrentSettings
from shoal.training.fitting import fit
from shoal.training.optimisation import FitSettings


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3, bias=False)
    )


def data(count: int = 5, size: int = 6) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    batches = []
    for _ in range(count):
        x = torch.randn(size, 4, generator=generator)
        batches.append((x, x[:, :3].argmax(dim=1)))
    return batches


def cross_entropy(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(model(inputs), labels)


class Interrupted(Exception):
    pass


class Stopping:
    """An objective that is interrupted after some steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        if self.left == 0:
            raise Interrupted
        self.left -= 1
        return cross_entropy(model, inputs, labels)


def same(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(mine, theirs) for mine, theirs in pairs)


def test_training_lowers_the_loss_and_reports_every_epoch():
    report = fit(network(), data(), FitSettings(epochs=10, lr=0.05), objective=cross_entropy)
    assert report.steps == 50
    assert [(epoch.epoch, epoch.steps) for epoch in report.epochs] == [(i, 5) for i in range(10)]
    assert report.epochs[-1].loss < 0.7 * report.epochs[0].loss
    assert report.seconds > 0
    assert report.resumed_at == 0


@pytest.mark.parametrize(
    ("epochs", "max_steps", "steps"), [(2, None, 10), (3, 7, 7), (1, 7, 7), (3, 0, 0), (0, None, 0)]
)
def test_it_does_the_steps_asked_for(epochs, max_steps, steps):
    settings = FitSettings(epochs=epochs, max_steps=max_steps)
    assert fit(network(), data(), settings, objective=cross_entropy).steps == steps


def test_nothing_to_do_changes_nothing():
    net = network()
    fit(net, data(), FitSettings(epochs=0), objective=cross_entropy)
    assert same(net, network())


def test_one_seed_gives_one_result_whatever_the_state_outside():
    nets = [network(), network(), network()]
    for net, outside, seed in zip(nets, (5, 6, 6), (0, 0, 1), strict=True):
        torch.manual_seed(outside)
        state = torch.get_rng_state()
        fit(net, data(), FitSettings(epochs=1, seed=seed), objective=cross_entropy)
        assert torch.equal(torch.get_rng_state(), state)
    assert same(nets[0], nets[1])
    assert not same(nets[0], nets[2])


def shuffled() -> DataLoader:
    x, y = (torch.cat(parts) for parts in zip(*data(), strict=True))
    return DataLoader(TensorDataset(x, y), batch_size=6, shuffle=True)


@pytest.mark.parametrize(
    ("optimizer", "batches", "stop", "every"),
    [
        ("adamw", data, 1, 1),
        ("adamw", data, 3, 4),
        ("sgd", data, 8, 2),
        ("sgd", shuffled, 5, 5),
        ("adamw", shuffled, 13, 4),
    ],
)
def test_a_resumed_run_equals_an_unbroken_one(tmp_path, optimizer, batches, stop, every):
    settings = FitSettings(epochs=3, optimizer=optimizer, lr=0.01, checkpoint_every=every)
    whole, broken, resumed = network(), network(), network()
    expected = fit(whole, batches(), settings, objective=cross_entropy)
    path = tmp_path / "run" / "state.safetensors"
    with pytest.raises(Interrupted):
        fit(broken, batches(), settings, objective=Stopping(stop), checkpoint=path)
    with torch.no_grad():
        # What the checkpoint holds must win over what the network comes with.
        resumed[0].weight.zero_()
    if not path.exists():
        resumed = network()
    report = fit(resumed, batches(), settings, objective=cross_entropy, checkpoint=path, resume=True)
    assert same(whole, resumed)
    assert report.resumed_at == stop // every * every
    assert [epoch.loss for epoch in report.epochs] == [epoch.loss for epoch in expected.epochs]
    assert [file.name for file in path.parent.iterdir()] == ["state.safetensors"]


def test_resuming_a_finished_run_brings_its_weights_back(tmp_path):
    path, settings = tmp_path / "state.safetensors", FitSettings(epochs=1)
    done, again = network(), network()
    first = fit(done, data(), settings, objective=cross_entropy, checkpoint=path)
    second = fit(again, data(), settings, objective=Stopping(0), checkpoint=path, resume=True)
    assert same(done, again)
    assert first.epochs == second.epochs


def test_without_resume_a_checkpoint_is_written_over(tmp_path):
    path = tmp_path / "state.safetensors"
    path.write_bytes(b"of something else")
    net = network()
    fit(net, data(), FitSettings(epochs=1), objective=cross_entropy, checkpoint=path)
    expected = network()
    fit(expected, data(), FitSettings(epochs=1), objective=cross_entropy)
    assert same(net, expected)


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    path = tmp_path / "state.safetensors"
    fit(network(), data(), FitSettings(epochs=1), objective=cross_entropy, checkpoint=path)
    with pytest.raises(ConfigError, match=r"other settings: lr 0\.001 -> 0\.01"):
        fit(
            network(),
            data(),
            FitSettings(epochs=1, lr=0.01),
            objective=cross_entropy,
            checkpoint=path,
            resume=True,
        )


def test_a_checkpoint_of_another_number_of_batches_is_told_as_such(tmp_path):
    path, settings = tmp_path / "state.safetensors", FitSettings(epochs=2)
    fit(network(), data(), settings, objective=cross_entropy, checkpoint=path)
    told = (
        r"steps in all 10 -> 6\. As many epochs have other steps with another batch size or number of samples"
    )
    with pytest.raises(ConfigError, match=told):
        fit(network(), data(3), settings, objective=cross_entropy, checkpoint=path, resume=True)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    path = tmp_path / "state.safetensors"
    fit(network(), data(), FitSettings(epochs=1), objective=cross_entropy, checkpoint=path)
    with pytest.raises(ConfigError, match=r"'1\.weight' is \(8,\) there and \(3, 4\) in the model"):
        fit(nn.Sequential(nn.ReLU(), nn.Linear(4, 3)), data(), FitSettings(epochs=1), objective=cross_entropy,
            checkpoint=path, resume=True)  # fmt: skip


@pytest.mark.parametrize("kept", [0, 20, 400])
def test_a_truncated_checkpoint_is_refused(tmp_path, kept):
    path = tmp_path / "state.safetensors"
    fit(network(), data(), FitSettings(epochs=1), objective=cross_entropy, checkpoint=path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ConfigError, match="damaged or no checkpoint"):
        fit(network(), data(), FitSettings(epochs=1), objective=cross_entropy, checkpoint=path, resume=True)


def test_a_safetensors_file_of_something_else_is_refused(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "state.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ConfigError, match=f"it is no checkpoint of version {VERSION}"):
        fit(network(), data(), FitSettings(), objective=cross_entropy, checkpoint=path, resume=True)


def test_tied_weights_survive_a_checkpoint(tmp_path):
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
            self.second.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x))

    path, settings = tmp_path / "state.safetensors", FitSettings(epochs=2, checkpoint_every=3)
    whole, broken, resumed = Tied(), Tied(), Tied()
    fit(whole, data(), settings, objective=cross_entropy)
    with pytest.raises(Interrupted):
        fit(broken, data(), settings, objective=Stopping(4), checkpoint=path)
    fit(resumed, data(), settings, objective=cross_entropy, checkpoint=path, resume=True)
    assert same(whole, resumed)
    assert resumed.first.weight is resumed.second.weight


def test_a_loss_that_is_not_finite_names_its_step_and_a_lower_rate():
    batches = data(3)
    batches[2][0][0, 0] = math.nan
    with pytest.raises(
        DataError, match=r"step 2 \(from 0; batch 2 of epoch 0\) the loss is nan.*lower lr, such as 0.0001"
    ):
        fit(network(), batches, FitSettings(epochs=1), objective=cross_entropy)


def test_a_gradient_that_is_not_finite_is_told_before_it_spoils_the_weights():
    net = nn.Linear(4, 1)
    before = net.weight.clone()
    with pytest.raises(DataError, match="step 0 .* the norm of the gradient is"):
        fit(net, [torch.zeros(2, 4)], FitSettings(epochs=1),
            objective=lambda model, inputs, labels: (model(inputs) * 0).abs().sqrt().sum() * 0)  # fmt: skip
    assert torch.equal(net.weight, before)


def test_no_batches_are_refused():
    with pytest.raises(DataError, match="the data is empty"):
        fit(network(), [], FitSettings(), objective=cross_entropy)


class Vanishing:
    """Batches that are there for one look only."""

    def __init__(self) -> None:
        self.looks = 0

    def __iter__(self):
        self.looks += 1
        return iter(data(1) if self.looks == 1 else [])


def test_batches_that_vanish_are_refused():
    with pytest.raises(DataError, match="empty now"):
        fit(network(), Vanishing(), FitSettings(max_steps=3), objective=cross_entropy)


@pytest.mark.parametrize("training", [True, False])
def test_modes_and_gradients_are_as_before(training):
    net = network().train(training)
    net[3].train(not training)
    fit(net, data(), FitSettings(epochs=1), objective=cross_entropy)
    assert [module.training for module in net] == [training] * 3 + [not training, training]
    assert all(parameter.grad is None for parameter in net.parameters())


def test_mixed_precision_trains():
    settings = FitSettings(epochs=1, mixed_precision="bf16")
    report = fit(network(), data(), settings, objective=cross_entropy)
    assert math.isfinite(report.epochs[0].loss)


def test_a_precision_that_the_device_does_not_have_is_refused():
    with pytest.raises(ConfigError, match="fp16' on a CPU: no and bf16 work"):
        fit(network(), data(), FitSettings(mixed_precision="fp16"), objective=cross_entropy)


def gated() -> tuple[nn.Module, ConcurrentPruner]:
    """A network of five units, of which two leave in twenty steps."""
    torch.manual_seed(0)
    net, settings = Toy(5, width=8, inputs=4, classes=3), ConcurrentSettings(probes=1, every=2)
    return net, ConcurrentPruner(net, data()[0][0], steps=20, budget="units=3", settings=settings)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_optimiser_holds_what_is_left_of_the_network_and_nothing_else(optimizer):
    net, pruner = gated()
    net.head.bias.requires_grad_(False)
    settings = FitSettings(epochs=4, optimizer=optimizer)
    fit(net, data(), settings, objective=cross_entropy, pruner=pruner)
    assert len(pruner.removed) == 2
    left = {id(parameter) for parameter in net.parameters() if parameter.requires_grad}
    held = [id(parameter) for group in pruner.optimizer.param_groups for parameter in group["params"]]
    assert sorted(held) == sorted(left)
    assert {id(parameter) for parameter in pruner.optimizer.state} == left


def test_what_is_shown_while_units_leave_is_what_the_pruner_knows(monkeypatch, capsys):
    net, pruner = gated()
    losses, known, step = [], [], pruner.step

    def objective(model, inputs, labels):
        loss = cross_entropy(model, inputs, labels)
        losses.append(loss.item())
        return loss

    monkeypatch.setattr(pruner, "step", lambda batch: known.append(step(batch)))
    # By this clock a step takes a second, and every second there is a line.
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: float(len(losses))))
    monkeypatch.setattr(console, "_PATIENCE", 1.0)
    monkeypatch.setattr(console, "_EVERY", 1.0)
    with console.TerminalReporter() as reporter, reporting(reporter):
        fit(net, data(), FitSettings(epochs=4), objective=objective, pruner=pruner)
    told = (
        r"training, loss (\S+), (\d) of 5 units, (\d+)% of MACs, (\d+)% of the training (saved|on top): "
        r"\d+ % \((\d+) of 20\), (\d+) s left"
    )
    for line, loss, now in zip(capsys.readouterr().err.splitlines(), losses, known, strict=True):
        shown, units, macs, share, sign, done, left = re.fullmatch(told, line).groups()
        assert float(shown) == pytest.approx(loss, rel=5e-3)
        assert int(units) == now.units
        gone = (5 - now.units) * pruner.chain[0].macs
        assert float(macs) == pytest.approx(100 * (1 - gone / pruner.chain.macs), abs=0.51)
        assert float(share) == pytest.approx(100 * abs(now.saved), abs=0.51)
        assert sign == ("saved" if now.saved >= 0 else "on top")
        assert (int(done), int(left)) == (now.step, 20 - now.step)
    assert (known[0].units, known[-1].units) == (5, 3)
    assert known[0].saved < 0 < known[-1].saved
