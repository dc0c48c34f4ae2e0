import pytest
import torch
from torch import nn

import shoal
from shoal.errors import ConfigError, DataError, UnitError, UnknownArchitectureError
from shoal.stages import make_request
from shoal.stages.asking import example_of, units_of


def test_evidence_of_another_network_is_refused(small_resnet, images, cifar_resnet):
    evidence = shoal.analyze(cifar_resnet.CifarResNet((2, 2, 2)).eval(), images)
    with pytest.raises(DataError, match="evidence of 6 units of CifarResNet on CifarResNet with 9"):
        shoal.make_plan(small_resnet, images, budget="units=6", evidence=evidence)


@pytest.mark.parametrize("batches", [[], torch.zeros(4, 3, 8, 8)])
def test_batches_that_cannot_be_used_are_refused(small_resnet, batches):
    with pytest.raises(DataError, match="batches"):
        shoal.make_plan(small_resnet, batches, budget="units=6")


def test_a_network_without_units_is_refused(images):
    with pytest.raises((UnitError, UnknownArchitectureError)):
        shoal.make_plan(nn.Sequential(nn.Flatten(), nn.Linear(192, 10)), images, budget="units=1")


def test_a_network_none_of_whose_units_may_go_is_refused_with_the_reasons(monkeypatch, make_chain, images):
    chain = make_chain((10,) * 3, fixed=range(3))
    monkeypatch.setattr("shoal.stages.asking.find_units", lambda *_, **__: chain)
    with pytest.raises(UnitError, match=f"it has 3 units and none may be removed: {chain[0].why}"):
        make_request(nn.Identity(), images, budget="units=1")
    assert make_request(nn.Identity(), images, budget="units=1", granularity="layer").chain is chain


def test_what_is_asked_is_what_was_given(small_resnet, images):
    request = make_request(small_resnet, images, budget="units=6")
    assert (request.model, request.batches, str(request.budget)) == (small_resnet, images, "units=6")
    assert torch.equal(request.example, images[0][0][:1])
    assert [unit.name for unit in request.chain] == [
        unit.name for unit in shoal.find_units(small_resnet, images[0][0][:1])
    ]


def test_an_example_comes_before_the_first_sample(images):
    example = torch.zeros(4, 3, 8, 8)
    assert example_of(images, example) is example
    assert example_of(None, example) is example
    with pytest.raises(DataError, match="asked to use NoneType as batches"):
        example_of(None, None)


@pytest.mark.parametrize(
    ("method", "granularity", "units"),
    [
        ("sglp", "block", "block"),
        ("sglp", "sublayer", "sublayer"),
        ("layermerge", "block", "layer"),
        ("layermerge", "layer", "layer"),
    ],
)
def test_a_method_with_units_of_its_own_works_on_them(method, granularity, units):
    assert units_of(method, granularity) == units


def test_a_method_with_units_of_its_own_works_on_no_others():
    with pytest.raises(ConfigError, match="asked for layermerge with units of the granularity sublayer"):
        units_of("layermerge", "sublayer")
