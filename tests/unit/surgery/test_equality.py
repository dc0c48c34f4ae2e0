from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from networks import llama
from shoal import Plan, apply, find_units
from shoal.errors import VerificationError
from shoal.surgery import check_equal


class Counting(nn.Module):
    """Adds the number of its layers to what they make."""

    def __init__(self) -> None:
        super().__init__()
        layers = (nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(4))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x) + len(self.layers)


@pytest.mark.parametrize("removed", [[], [1], [0, 2]])
@pytest.mark.parametrize("granularity", ["block", "sublayer"])
def test_a_cut_is_the_original_with_bypassed_units(removed, granularity):
    model, example = llama()
    plan = Plan.removing(find_units(model, example, granularity=granularity), removed)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    check_equal(model, plan, apply(model, plan), example)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_network_that_goes_by_the_number_of_its_layers_is_found_out():
    model, example = Counting().eval(), torch.ones(1, 4)
    found = Plan.removing(find_units(model, example), [1])
    # Units of such a network are bypassed, where it is known.
    assert found.steps[0].removal == "bypass"
    plan = replace(found, steps=(replace(found.steps[0], removal="delete"),))
    small: Any = apply(model, plan)
    with pytest.raises(VerificationError, match="goes by the number of a layer, or by how many there are"):
        check_equal(model, plan, small, example)


def test_other_weights_are_found_out():
    model, example = llama()
    plan = Plan.removing(find_units(model, example), [1])
    small: Any = apply(model, plan)
    small.model.layers[0].mlp.down_proj.weight.data[0, 0] += 1
    with pytest.raises(
        VerificationError, match="remove 1 of 4 units of LlamaForCausalLM: what is left answers"
    ):
        check_equal(model, plan, small, example)
