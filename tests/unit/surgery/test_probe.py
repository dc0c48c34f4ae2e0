from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from shoal.errors import DataError
from shoal.surgery.probe import answers, difference, read_probe, write_probe


class Sum(nn.Module):
    def forward(self, *args: Tensor, scale: float = 1.0, more: list[Tensor] | None = None) -> Tensor:
        return scale * (sum(args) + sum(more or []))


@pytest.mark.parametrize(
    "example",
    [
        torch.ones(2, 3),
        (torch.ones(2), torch.zeros(2)),
        {"more": [torch.ones(2), torch.ones(2)], "scale": 2.0},
    ],
)
def test_a_probe_is_read_as_it_was_written(tmp_path, example):
    path = tmp_path / "a" / "probe.safetensors"
    write_probe(Sum(), example, path)
    probe = read_probe(path)
    assert probe is not None
    assert type(probe.example) is type(example)
    assert difference(answers(Sum(), probe.example), probe.answers) == 0
    assert probe.device == "cpu"


def test_there_may_be_no_probe(tmp_path):
    assert read_probe(tmp_path / "probe.safetensors") is None


def test_an_example_with_something_else_in_it_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"holds a object \(input\.x\)"):
        write_probe(Sum(), {"x": object()}, tmp_path / "probe.safetensors")


def test_a_network_that_answers_without_numbers_is_refused():
    class Words(nn.Module):
        def forward(self, x: Tensor) -> str:
            return "words"

    with pytest.raises(DataError, match="returned a str without floating-point tensors"):
        answers(Words(), torch.ones(1))


def test_answers_in_an_object_are_found():
    @dataclass
    class Answer:
        ids: Tensor
        logits: Tensor

    class Net(nn.Module):
        def forward(self, x: Tensor) -> Answer:
            return Answer(ids=torch.ones(1, dtype=torch.long), logits=x)

    assert [a.tolist() for a in answers(Net(), torch.ones(2))] == [[1, 1]]


@pytest.mark.parametrize(
    ("found", "expected", "gap"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 2.2], [1.0, 2.0], 0.1),
        ([1.0], [1.0, 2.0], float("inf")),
        ([float("nan")], [1.0], float("inf")),
        ([1.0], [float("inf")], float("inf")),
        ([1.0], [0.0], float("inf")),
        ([0.0], [0.0], 0.0),
        ([], [], 0.0),
    ],
)
def test_differences_are_relative_to_the_largest(found, expected, gap):
    assert difference((torch.tensor(found),), (torch.tensor(expected),)) == pytest.approx(gap)
