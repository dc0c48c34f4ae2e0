import pytest
import torch

from shoal.cli.loading import (
    example_of,
    open_data,
    open_example,
    open_layers,
    open_model,
    open_more_data,
    usable_device,
)
from shoal.cli.options import DataOptions, ExampleOptions, ModelOptions
from shoal.errors import ConfigError


@pytest.fixture
def loaded(place):
    return open_model(ModelOptions(model="net.py:make", device="cpu"))


@pytest.mark.parametrize("name", ["cuda:99", "toaster"])
def test_a_device_that_is_not_there_names_those_that_are(name):
    with pytest.raises(ConfigError, match="Here work: cpu"):
        usable_device(name)


def test_a_model_comes_on_its_device_in_its_dtype(place):
    loaded = open_model(ModelOptions(model="net.py:make", device="cpu", dtype="float64"))
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float64}


def test_images_come_in_the_dtype_of_the_model(place):
    loaded = open_model(ModelOptions(model="net.py:make", device="cpu", dtype="float64"))
    data = open_data(DataOptions(data="digits", num_samples=3, batch_size=2), loaded)
    images = [images for images, _ in data.batches]
    assert [len(batch) for batch in images] == [2, 1]
    assert len(data.batches) == 2
    assert {batch.dtype for batch in [*images, data.example]} == {torch.float64}


def test_batches_of_ones_own_are_taken_as_they_are(loaded):
    assert len(open_data(DataOptions(data="net.py:batches"), loaded).batches) == 3


def test_batches_of_ones_own_refuse_a_batch_size_unless_it_is_meant_for_other_data(loaded):
    options = DataOptions(data="net.py:batches", batch_size=2)
    with pytest.raises(ConfigError, match="batch_size=2"):
        open_data(options, loaded)
    assert len(open_more_data("net.py:batches", options, loaded).batches) == 3


@pytest.mark.parametrize("samples", [1, 5])
def test_the_example_has_as_many_samples_as_asked_for(loaded, samples):
    example = open_example(ExampleOptions(data="digits", example_batch=samples), loaded)
    assert example.shape == (samples, 1, 8, 8)


def test_an_example_has_at_least_one_sample(loaded):
    with pytest.raises(ConfigError, match="--example-batch 0"):
        example_of(None, loaded.model, 0)


def test_without_data_a_network_of_ones_own_has_no_example(loaded):
    with pytest.raises(ConfigError, match="--data"):
        open_example(ExampleOptions(), loaded)


def test_options_for_samples_need_data(loaded):
    with pytest.raises(ConfigError, match="asked for crop, seq_len|asked for seq_len, crop"):
        open_example(ExampleOptions(seq_len=5, crop=0.5), loaded)


@pytest.mark.parametrize("mean", ["a,b", "0.5,", ""])
def test_a_mean_is_numbers(loaded, mean):
    with pytest.raises(ConfigError, match="--mean"):
        open_data(DataOptions(data="digits", mean=mean, std="1"), loaded)


def test_a_folder_that_is_read_layer_by_layer_has_no_other_original(tmp_path):
    options = ModelOptions(model=str(tmp_path), original="net.py:make")
    with pytest.raises(ConfigError, match="layer by layer, made of 'net.py:make': .* Leave --original out"):
        open_layers(options)
