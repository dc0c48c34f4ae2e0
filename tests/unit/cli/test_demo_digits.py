import torch

from shoal.cli.demo_digits import SOURCE, train_digits
from shoal.cli.demo_network import DigitsResNet


def test_training_is_seeded_and_leaves_the_random_state():
    state = torch.get_rng_state()
    first, second = (train_digits(epochs=0, seed=1).state_dict() for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_source_builds_the_network_again():
    from shoal.architectures.references import rebuild

    assert isinstance(rebuild(SOURCE), DigitsResNet)
