import pytest
from torch import nn

from networks import llama
from shoal.architectures.families import FAMILIES, layers_of, submodule


def test_the_layers_of_a_known_family_are_found_in_the_model_and_in_its_base():
    model, _ = llama()
    for each in (model, model.model):
        family, layers = layers_of(each)
        assert family is FAMILIES["llama"]
        assert layers is model.model.layers


@pytest.mark.parametrize("kind", ["unheard", ""])
def test_an_unknown_family_has_none(kind):
    model, _ = llama()
    model.config.model_type = kind
    assert layers_of(model) is None


def test_a_model_without_its_list_has_none():
    model, _ = llama()
    model.model.layers = nn.Sequential(*model.model.layers)
    assert layers_of(model) is None


def test_a_submodule_may_not_be_there():
    net = nn.Sequential(nn.Linear(2, 2))
    assert submodule(net, "0") is net[0]
    assert submodule(net, "1") is None
