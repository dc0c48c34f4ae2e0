import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import DataError
from shoal.similarity import angular, angular_distance, cosine_sums, row_cosines


def gaussians(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("degrees", [0, 30, 90, 135, 180])
def test_the_distance_is_the_angle_over_pi(degrees):
    angle = math.radians(degrees)
    x = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    y = torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)
    assert angular_distance(x, y).item() == pytest.approx(degrees / 180, abs=1e-7)


def test_the_distance_is_the_mean_over_rows():
    x, y = gaussians(20, 5), gaussians(20, 5, seed=1)
    cosines = torch.nn.functional.cosine_similarity(x.double(), y.double())
    assert angular_distance(x, y).item() == pytest.approx(
        (cosines.arccos() / math.pi).mean().item(), abs=1e-6
    )


@pytest.mark.parametrize(("x", "y"), [((3, 2), (3, 4)), ((3, 2), (2, 2)), ((0, 2), (0, 2))])
def test_shapes_that_cannot_be_compared_are_refused(x, y):
    with pytest.raises(DataError, match="must be equal, with one row or more"):
        angular_distance(torch.zeros(x), torch.zeros(y))


@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 4), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_cosines_are_symmetric_and_bounded(rows, width, count, seed):
    cosines = row_cosines([gaussians(rows, width, seed=seed + each) for each in range(count)])
    assert cosines.shape == (rows, count, count)
    assert cosines.abs().max() <= 1
    assert torch.allclose(cosines, cosines.transpose(1, 2), atol=1e-6)
    assert torch.allclose(cosines.diagonal(dim1=1, dim2=2), torch.ones(1, dtype=torch.float64))


def test_the_cosine_with_a_row_of_zeros_is_zero():
    cosines = row_cosines([torch.zeros(1, 3), torch.ones(1, 3)])
    assert cosines[0, 0, 1] == 0


@pytest.mark.parametrize("piece", [1, 60, 2**22])
@pytest.mark.parametrize("angled", [None, torch.tensor([0, 3, 16])])
def test_sums_in_pieces_equal_sums_of_the_whole(monkeypatch, piece, angled):
    monkeypatch.setattr(angular, "_PIECE", piece)
    layers = [gaussians(17, 5, seed=each) for each in range(3)]
    cosines, angles = cosine_sums(layers, angled)
    whole = row_cosines(layers)
    chosen = whole if angled is None else whole[angled]
    torch.testing.assert_close(cosines, whole.sum(dim=0))
    torch.testing.assert_close(angles, chosen.arccos().sum(dim=0) / math.pi)
