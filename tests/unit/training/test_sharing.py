import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from in_processes import in_processes
from shoal.errors import DataError
from shoal.processes import Processes, together
from shoal.training.optimisation import FitSettings
from shoal.training.sharing import own_batches, share_gradients_, share_statistics_, total_steps

BATCHES = [torch.full((1,), float(number)) for number in range(5)]


class Unsized(IterableDataset):
    def __iter__(self):
        return iter(BATCHES[:4])


@pytest.mark.parametrize(
    ("epochs", "max_steps", "processes", "steps"),
    [
        (2, None, 1, 10),
        (3, 7, 1, 7),
        (1, 7, 1, 7),
        (3, 0, 1, 0),
        (0, None, 9, 0),
        (3, None, 2, 6),
        (1, None, 5, 1),
    ],
)
def test_steps_are_those_asked_for_or_those_of_all_epochs(epochs, max_steps, processes, steps):
    assert total_steps(BATCHES, FitSettings(epochs=epochs, max_steps=max_steps), processes) == steps


@pytest.mark.parametrize("batches", [Unsized(), DataLoader(Unsized(), batch_size=None)])
def test_batches_without_a_length_are_counted(batches):
    assert total_steps(batches, FitSettings(epochs=2)) == 8


def test_fewer_batches_than_processes_are_refused():
    with pytest.raises(DataError, match="in 6 processes on 5 batches"):
        total_steps(BATCHES, FitSettings(), 6)


@pytest.mark.parametrize(("count", "taken"), [(1, [[0, 1, 2, 3, 4]]), (2, [[0, 2], [1, 3]]), (6, [[]] * 6)])
def test_every_process_takes_one_batch_of_each_step(count, taken):
    shares = [own_batches(iter(BATCHES), Processes(number, count)) for number in range(count)]
    assert [[int(batch) for batch in share] for share in shares] == taken


def shared(number):
    """Gradients and statistics that differ between processes, after they were shared."""
    net = nn.BatchNorm1d(2)
    net.running_mean.fill_(number)
    net.bias.grad = torch.full((2,), 4.0 * number)
    with together() as processes:
        share_gradients_(list(net.parameters()), processes)
        share_statistics_(net, processes)
    return net.running_mean.tolist(), net.bias.grad.tolist(), net.weight.grad


def test_processes_share_the_means_of_gradients_and_statistics():
    assert in_processes(shared) == [([0.5, 0.5], [2.0, 2.0], None)] * 2


def test_one_process_alone_changes_nothing():
    assert shared(3) == ([3.0, 3.0], [12.0, 12.0], None)
