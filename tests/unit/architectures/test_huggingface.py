import torch
from torch import nn

from networks import llama
from shoal.architectures.huggingface import is_pretrained, owner_of


def test_other_networks_are_not_pretrained():
    assert not is_pretrained(nn.Linear(2, 2))
    assert owner_of(nn.Sequential(nn.Linear(2, 2)), "0") is None


def test_the_owner_is_the_outermost_model():
    model, _ = llama()
    assert is_pretrained(model)
    assert owner_of(model, "model.layers.0") == ("", model)
    inside = nn.Sequential(nn.Identity(), model)
    assert owner_of(inside, "1.model.layers.0.mlp") == ("1", model)
    assert owner_of(inside, "0") is None
    assert torch.is_tensor(model.lm_head.weight)
