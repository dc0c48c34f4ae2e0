import copy
import json

import pytest
import torch
from torch import nn

from shoal.architectures import example_for
from shoal.architectures.weightless import lent_weights
from shoal.measurement import count_macs, count_params
from shoal.measurement.footprint import Footprint, footprint, weight_bytes


def skeleton_of(model):
    with torch.device("meta"):
        return type(model)(copy.deepcopy(model.config))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_bytes_of_the_weights_are_those_of_the_file(small_llama, tmp_path, dtype):
    safetensors = pytest.importorskip("safetensors")
    small_llama.config.tie_word_embeddings = True
    small_llama.tie_weights()
    small_llama.to(dtype).save_pretrained(tmp_path)
    with safetensors.safe_open(tmp_path / "model.safetensors", "pt") as file:
        stored = sum(file.get_tensor(name).nbytes for name in file.keys())  # noqa: SIM118
    assert weight_bytes(small_llama) == stored


def test_buffers_that_are_not_saved_do_not_count():
    network = nn.BatchNorm1d(4)
    bytes_before = weight_bytes(network)
    network.register_buffer("table", torch.zeros(100), persistent=False)
    assert weight_bytes(network) == bytes_before


def test_a_footprint_needs_no_weights(small_llama):
    example, skeleton = example_for(small_llama), skeleton_of(small_llama)
    found = footprint(small_llama, example)
    with lent_weights(skeleton):
        assert footprint(skeleton, example) == found
    assert (found.params, found.macs) == (count_params(small_llama), count_macs(small_llama, example).total)


def test_a_footprint_is_written_as_json(small_llama):
    found = footprint(small_llama, example_for(small_llama))
    fields = json.loads(json.dumps(found.as_json()))
    assert fields["cache"]["per_token"] == found.cache.per_token == 5 * 2 * 2 * 4 * 4
    assert {"params", "weights", "macs", "uncounted", "cache"} == fields.keys()


def test_a_network_without_a_cache_says_so():
    found = footprint(nn.Linear(3, 2), torch.zeros(5, 3))
    assert found == Footprint(params=8, weights=32, macs=30)
    assert found.as_json()["cache"] is None
