"""What a store keeps is what came in, wherever it lies, and nothing is left of it on disk."""

import errno

import pytest
import torch

from shoal.activations import activation_store, store
from shoal.errors import ConfigError


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(store, "_BLOCK", 256)


@pytest.mark.parametrize("memory", [0, 100, 1e9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3), (40, 5)])
def test_numbers_come_back_as_they_were(memory, dtype, shape, small_blocks, tmp_path):
    tensors = [torch.randn(shape).mul(3).to(dtype) for _ in range(4)]
    with activation_store(memory, tmp_path) as kept:
        found = [kept.keep(tensor) for tensor in tensors]
        for tensor, same in zip(tensors, found, strict=True):
            assert same.dtype == dtype
            assert torch.equal(same, tensor)


def test_numbers_keep_the_order_in_which_they_lay():
    tensor = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    with activation_store(1e9) as kept:
        assert kept.keep(tensor).stride() == tensor.stride()


def test_a_part_of_a_tensor_is_kept_without_the_rest_and_without_its_graph():
    tensor = torch.randn(6, 4, requires_grad=True)
    with activation_store(1e9) as kept:
        found = kept.keep(tensor[::2])
    assert not found.requires_grad
    assert torch.equal(found, tensor[::2])
    tensor.data.zero_()
    assert found.any()


@pytest.mark.parametrize(("memory", "files"), [(1000, 0), (600, 1), (0, 3)])
def test_beyond_the_memory_allowed_tensors_lie_in_files(memory, files, small_blocks, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(store, "_reserve", lambda path, size: made.append(size))
    with activation_store(memory, tmp_path) as kept:
        held = [kept.keep(torch.ones(64)) for _ in range(3)]
    assert made == [256] * files
    assert all(tensor.sum() == 64 for tensor in held)


def test_files_have_no_name_and_are_gone_after_an_error(tmp_path):
    def fail(held):
        (folder,) = tmp_path.iterdir()
        assert list(folder.iterdir()) == []
        assert held.sum() == 5
        raise KeyError

    with pytest.raises(KeyError), activation_store(0, tmp_path) as kept:
        fail(kept.keep(torch.ones(5)))
    assert list(tmp_path.iterdir()) == []


def test_what_is_wanted_no_more_makes_room(small_blocks, monkeypatch):
    monkeypatch.setattr(store, "_reserve", lambda path, size: pytest.fail("a file was made"))
    with activation_store(600) as kept:
        for _ in range(5):
            kept.drop(kept.keep(torch.ones(64)))
    assert kept.most == 256


def test_numbers_take_the_place_of_others_where_they_fit_there():
    with activation_store(1e9) as kept:
        old = kept.keep(torch.zeros(3))
        assert kept.replace(old, torch.ones(3)) is old
        assert old.tolist() == [1, 1, 1]
        assert kept.replace(old, torch.ones(4)).tolist() == [1, 1, 1, 1]
        assert kept.replace(old, torch.ones(3, dtype=torch.float64)).dtype == torch.float64


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="there is no such folder"), activation_store(0, tmp_path / "gone"):
        pass


def test_a_full_disk_is_an_error_that_names_the_folder(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store.os, "posix_fallocate", full, raising=False)
    monkeypatch.setattr(store.sys, "platform", "linux")
    with (
        activation_store(0, tmp_path) as kept,
        pytest.raises(ConfigError, match=r"No space left on device for .* Name a folder on a larger disk"),
    ):
        kept.keep(torch.ones(5))
