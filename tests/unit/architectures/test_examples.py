from types import SimpleNamespace

import pytest
import torch
from torch import nn

from shoal.architectures import example_for
from shoal.errors import ConfigError


def model_of(name, **config):
    model = nn.Linear(2, 2)
    model.main_input_name = name
    model.config = SimpleNamespace(**config)
    return model


def test_a_text_model_gets_tokens_of_its_vocabulary():
    example = example_for(model_of("input_ids", vocab_size=5))
    assert example["input_ids"].shape == example["attention_mask"].shape == (1, 16)
    assert example["input_ids"].max() == 4
    assert "decoder_input_ids" not in example


def test_a_model_with_a_decoder_of_its_own_gets_tokens_for_it_too():
    model = model_of("input_ids", vocab_size=5)
    model.forward = lambda input_ids, decoder_input_ids: None
    assert torch.equal(example_for(model)["decoder_input_ids"], example_for(model)["input_ids"])


@pytest.mark.parametrize(
    ("size", "shape"), [(8, (1, 3, 8, 8)), ((4, 6), (1, 3, 4, 6)), ([4, 6], (1, 3, 4, 6))]
)
def test_an_image_model_gets_an_image_of_its_size_and_dtype(size, shape):
    model = model_of("pixel_values", image_size=size, num_channels=3).bfloat16()
    (image,) = example_for(model).values()
    assert image.shape == shape
    assert image.dtype == torch.bfloat16


def test_a_model_of_several_kinds_of_input_gets_tokens_of_its_text_s_vocabulary():
    text = SimpleNamespace(vocab_size=5)
    example = example_for(model_of("input_ids", get_text_config=lambda: text))
    assert example["input_ids"].max() == 4


def test_a_model_of_spectrograms_gets_as_many_frames_as_it_takes_and_tokens_for_its_decoder():
    model = model_of("input_features", num_mel_bins=3, max_source_positions=4, vocab_size=5).bfloat16()
    assert example_for(model).keys() == {"input_features"}
    model.forward = lambda input_features, decoder_input_ids: None
    example = example_for(model)
    assert (example["input_features"].shape, example["input_features"].dtype) == ((1, 3, 8), torch.bfloat16)
    assert example["decoder_input_ids"].shape == (1, 16)


@pytest.mark.parametrize(
    "model",
    [nn.Linear(2, 2), model_of("input_features", vocab_size=4), model_of("pixel_values", num_channels=3)],
    ids=["no config", "sound", "no size"],
)
def test_other_models_need_an_example(model):
    with pytest.raises(ConfigError, match="Linear without an example.*Pass example="):
        example_for(model)
