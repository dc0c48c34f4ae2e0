import torch

from shoal import find_units
from shoal.cli.demo_network import digits_resnet


def test_it_has_at_least_twelve_blocks_of_which_all_but_the_first_of_a_stage_are_removable():
    chain = find_units(digits_resnet(), torch.randn(1, 1, 8, 8))
    assert len(chain.removable) >= 12
    assert {unit.kind for unit in chain} == {"Block"}


def test_all_blocks_are_of_use_when_it_trains():
    model = digits_resnet()
    model(torch.randn(8, 1, 8, 8)).logsumexp(dim=1).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
