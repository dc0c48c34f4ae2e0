import pytest
import torch
from torch import nn

from shoal.measurement.memory import peak_memory

KB = 4 * 256


def test_what_is_held_together_counts_together():
    assert peak_memory(lambda: torch.zeros(256) + torch.ones(256)) == 3 * KB


def test_what_is_freed_in_between_does_not_add_up():
    def steps() -> None:
        for _ in range(5):
            torch.zeros(256)

    assert peak_memory(steps) == KB


def test_views_and_in_place_work_hold_nothing():
    x = torch.zeros(16, 16)
    assert peak_memory(lambda: x.add_(1).t().reshape(16, 4, 4)[0]) <= KB
    assert peak_memory(lambda: x.add_(1).t()[0]) == 0


def test_doing_nothing_holds_nothing():
    assert peak_memory(lambda: None) == 0


@pytest.mark.parametrize("depth", [1, 4])
def test_a_forward_without_gradients_holds_two_neighbours_and_with_them_all(depth):
    net = nn.Sequential(*[nn.Linear(256, 256) for _ in range(depth)])
    x = torch.zeros(1, 256)
    with torch.no_grad():
        assert peak_memory(lambda: net(x)) == min(depth, 2) * KB
    assert peak_memory(lambda: net(x)) == depth * KB


def test_memory_that_outlives_the_function_is_no_error():
    kept = []
    assert peak_memory(lambda: kept.append(torch.zeros(256))) == KB
    kept.clear()


def test_other_devices_are_not_counted():
    assert peak_memory(lambda: None, "meta") is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_counts_what_its_allocator_holds():
    held = torch.zeros(1 << 20, device="cuda")
    assert peak_memory(lambda: held + 1, "cuda") >= 4 << 20
