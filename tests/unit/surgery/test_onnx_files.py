import pytest
import torch

from shoal.surgery.onnx_files import with_samples


@pytest.mark.parametrize(("samples", "expected"), [(1, [4]), (2, [4, 5]), (5, [4, 5, 4, 5, 4])])
def test_samples_are_repeated_and_all_else_stays(samples, expected):
    example = {"t": torch.tensor([4, 5]), "size": torch.tensor([7, 7, 7]), "name": "left"}
    found = with_samples(example, samples)
    assert found["t"].tolist() == expected
    assert found["size"] is example["size"]
    assert found["name"] == "left"


def test_varied_samples_differ_from_each_other():
    found = with_samples(torch.arange(6.0).reshape(1, 2, 3), 2, vary=True)
    assert found[:, 0].tolist() == [[2, 0, 1], [1, 2, 0]]


def test_zeros_are_replaced_when_varied_because_they_would_show_biases_alone():
    images, tokens = torch.zeros(1, 3, 4, 4), torch.zeros(1, 5)
    found = with_samples((images, tokens, images.long()), 2, vary=True)
    assert found[0].abs().min() > 0
    assert not found[1].any()
    assert not found[2].any()
    assert torch.equal(with_samples(images, 2, vary=True), found[0])
