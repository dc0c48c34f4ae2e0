import signal
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from shoal.training import FitSettings, HealSettings, fitting, heal
from shoal.training.fitting import fit
from shoal.training.stopping import stoppable

X = torch.randn(30, 4, generator=torch.Generator().manual_seed(1))
Y = X[:, :3].argmax(dim=1)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))


def data() -> list[tuple[Tensor, Tensor]]:
    return [(X[i : i + 6], Y[i : i + 6]) for i in range(0, 30, 6)]


def shuffled() -> DataLoader:
    return DataLoader(TensorDataset(X, Y), batch_size=6, shuffle=True)


def cross_entropy(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(model(inputs), labels)


def weights(model: nn.Module) -> Tensor:
    return torch.cat([value.flatten().double() for value in model.state_dict().values()])


def press():
    signal.raise_signal(signal.SIGINT)


def test_ctrl_c_is_noted_once_and_raised_then():
    with stoppable() as stopping:
        assert not stopping()
        press()
        assert stopping()
        with pytest.raises(KeyboardInterrupt):
            press()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(KeyboardInterrupt):
        press()


def test_a_request_to_terminate_is_noted_once_too():
    done = signal.getsignal(signal.SIGTERM)
    with stoppable() as stopping:
        signal.raise_signal(signal.SIGTERM)
        assert stopping()
        # The second one would end this process.
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    assert (signal.getsignal(signal.SIGTERM), done) == (signal.SIG_DFL, signal.SIG_DFL)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_is_raised_where_nothing_else_is_wanted():
    with pytest.raises(KeyboardInterrupt), stoppable(wanted=False):
        press()


@pytest.mark.parametrize("theirs", [signal.SIG_IGN, lambda number, frame: None])
def test_a_handler_of_the_callers_own_stays(theirs):
    before = signal.signal(signal.SIGINT, theirs)
    try:
        with stoppable() as stopping:
            assert signal.getsignal(signal.SIGINT) is theirs
            press()
            assert not stopping()
        assert signal.getsignal(signal.SIGINT) is theirs
    finally:
        signal.signal(signal.SIGINT, before)


class Pressing:
    """An objective, or a loss of outputs, in whose n-th call Ctrl-C is pressed so many times."""

    def __init__(self, step: int, times: int = 1) -> None:
        self.left, self.times = step, times

    def __call__(self, *args) -> Tensor:
        self.left -= 1
        for _ in range(self.times if self.left == 0 else 0):
            press()
        return F.cross_entropy(*args) if len(args) == 2 else cross_entropy(*args)


@pytest.mark.parametrize(("batches", "stop"), [(data, 1), (data, 5), (shuffled, 7), (shuffled, 15)])
def test_ctrl_c_keeps_the_step_in_progress(tmp_path, batches, stop):
    settings, path = FitSettings(epochs=3, lr=0.01), tmp_path / "state.safetensors"
    whole, broken, resumed = network(), network(), network()
    expected = fit(whole, batches(), settings, objective=cross_entropy)
    told = rf"^stopped after step {stop} of 15; --resume \(in Python resume=True\) goes on from there$"
    with pytest.raises(KeyboardInterrupt, match=told):
        fit(broken, batches(), settings, objective=Pressing(stop), checkpoint=path)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    report = fit(resumed, batches(), settings, objective=cross_entropy, checkpoint=path, resume=True)
    assert report.resumed_at == stop
    assert torch.equal(weights(whole), weights(resumed))
    assert [epoch.loss for epoch in report.epochs] == [epoch.loss for epoch in expected.epochs]


@pytest.mark.parametrize("step", [10, 15])
def test_ctrl_c_while_a_checkpoint_is_written_stops_too(tmp_path, monkeypatch, step):
    save = fitting.save_state

    def pressed(*args):
        if args[3].step == step:
            press()
        save(*args)

    monkeypatch.setattr(fitting, "save_state", pressed)
    settings, path = FitSettings(epochs=3, checkpoint_every=5), tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt, match=f"stopped after step {step} of 15"):
        fit(network(), data(), settings, objective=cross_entropy, checkpoint=path)
    monkeypatch.undo()
    assert fit(network(), data(), settings, objective=cross_entropy, checkpoint=path, resume=True).steps == 15


def test_ctrl_c_twice_or_without_a_checkpoint_acts_at_once(tmp_path):
    path, settings = tmp_path / "state.safetensors", FitSettings(epochs=3)
    for options in ({"checkpoint": path, "objective": Pressing(3, times=2)}, {"objective": Pressing(3)}):
        with pytest.raises(KeyboardInterrupt, match="^$"):
            fit(network(), data(), settings, **options)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert not path.exists()


def test_healing_is_stopped_and_goes_on_alike(tmp_path):
    options = {"settings": HealSettings(epochs=3), "checkpoint": tmp_path / "state.safetensors"}
    whole = heal(network(), data(), settings=options["settings"], loss=F.cross_entropy)
    with pytest.raises(KeyboardInterrupt, match="stopped after step 4 of 15"):
        heal(network(), data(), loss=Pressing(4), **options)
    resumed = heal(network(), data(), loss=F.cross_entropy, resume=True, **options)
    assert torch.equal(weights(whole), weights(resumed))


@pytest.mark.parametrize(
    ("writing", "saves"), [(0.0, [2, 4, 6, 8, 10, 12, 14, 15]), (5.0, [2, 6, 10, 14, 15])]
)
def test_one_process_saves_by_the_clock_too(tmp_path, monkeypatch, writing, saves):
    now, saved, save = [0.0], [], fitting.save_state

    def slowly(*args):
        saved.append(args[3].step)
        now[0] += writing
        save(*args)

    def half_a_minute(*args) -> Tensor:
        now[0] += 30
        return cross_entropy(*args)

    monkeypatch.setattr(fitting.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(fitting, "save_state", slowly)
    path = tmp_path / "state.safetensors"
    fit(network(), data(), FitSettings(epochs=3), objective=half_a_minute, checkpoint=path)
    assert saved == saves


def test_other_threads_do_without():
    found = []

    def work():
        with stoppable() as stopping:
            found.append(stopping())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]
