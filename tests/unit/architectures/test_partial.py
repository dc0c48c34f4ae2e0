"""Parts of a checkpoint go to the places that transformers has for them."""

import pytest
import torch

from networks import gpt2, llama
from shoal.architectures.partial import PartialLoader

CPU = torch.device("cpu")


@pytest.fixture
def model():
    return llama()[0]


def test_a_part_is_loaded_and_the_rest_stays(model):
    keys = list(model.state_dict())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    loader = PartialLoader(model, keys, torch.float32)
    faults = loader.load({"model.norm.weight": torch.full((32,), 7.0)}, CPU)
    assert faults.missing == set(keys) - {"model.norm.weight"}
    after = model.state_dict()
    assert after.pop("model.norm.weight").eq(7).all()
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())


def test_the_prefix_of_the_base_model_is_added():
    network, _ = gpt2()
    keys = [name.removeprefix("transformer.") for name in network.state_dict() if name != "lm_head.weight"]
    names = PartialLoader(network, keys, torch.float32).names
    assert names == {key: f"transformer.{key}" for key in keys}


def test_the_prefix_of_the_base_model_is_taken_away():
    network, _ = gpt2()
    keys = [name for name in network.state_dict() if name != "lm_head.weight"]
    names = PartialLoader(network.transformer, keys, torch.float32).names
    assert names == {key: key.removeprefix("transformer.") for key in keys}


def test_tensors_without_a_place_are_left(model):
    loader = PartialLoader(model, ["more.weight"], torch.float32)
    assert loader.load({"more.weight": torch.ones(2)}, CPU).missing == model.state_dict().keys()


def test_tensors_of_another_shape_are_told_and_not_loaded(model):
    loader = PartialLoader(model, ["model.norm.weight"], torch.float32)
    assert loader.load({"model.norm.weight": torch.ones(5)}, CPU).resized == {"model.norm.weight"}
    assert model.model.norm.weight.shape == (32,)


def test_floating_point_weights_come_in_the_dtype_asked_for(model):
    model = model.bfloat16()
    loader = PartialLoader(model, ["model.norm.weight"], torch.bfloat16)
    loader.load({"model.norm.weight": torch.full((32,), 3.0)}, CPU)
    assert model.model.norm.weight.dtype == torch.bfloat16
