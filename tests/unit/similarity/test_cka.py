import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import DataError
from shoal.similarity import centred_grams, linear_cka, unbiased_linear_cka

BOTH = pytest.mark.parametrize("cka", [linear_cka, unbiased_linear_cka])
CASES = [(500, 16384, 0.970), (500, 8192, 0.943), (500, 4096, 0.891), (128, 4096, 0.969), (64, 65536, 0.999)]


def gaussians(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def hsic_of_song(x, y):
    """The formula of Song et al. (2012), equation 5, term by term."""
    n, one = len(x), torch.ones(len(x), dtype=torch.float64)
    first, second = x @ x.T, y @ y.T
    first = first - first.diag().diag()
    second = second - second.diag().diag()
    products = (first @ second).trace() + (one @ first @ one) * (one @ second @ one) / ((n - 1) * (n - 2))
    return (products - 2 / (n - 2) * (one @ first @ second @ one)) / (n * (n - 3))


def hsic_by_centring(x, y):
    n = len(x)
    centring = torch.eye(n, dtype=torch.float64) - 1 / n
    return (x @ x.T @ centring @ y @ y.T @ centring).trace() / (n - 1) ** 2


@BOTH
def test_of_a_representation_with_itself_is_one(cka):
    x = gaussians(64, 8)
    assert cka(x, x).item() == pytest.approx(1, abs=1e-12)


@BOTH
def test_ignores_rotation_scale_and_shift(cka):
    x, y = gaussians(64, 8), gaussians(64, 8).square() + gaussians(64, 8, seed=1)
    rotation, _ = torch.linalg.qr(gaussians(8, 8, seed=2))
    assert cka(5 * x @ rotation + 3, y).item() == pytest.approx(cka(x, y).item(), abs=1e-9)


@BOTH
def test_is_symmetric_and_takes_different_widths(cka):
    x = gaussians(64, 8)
    y = x[:, :3].square()
    torch.testing.assert_close(cka(x, y), cka(y, x))


@pytest.mark.parametrize("count", [4, 5, 12])
def test_the_product_of_unbiased_centred_grams_is_the_unbiased_hsic(count):
    x, y = gaussians(count, 7), gaussians(count, 5, seed=1) + gaussians(count, 5)
    product = centred_grams([x, y]).prod(dim=0).sum() / (count * (count - 3))
    assert product.item() == pytest.approx(hsic_of_song(x, y).item(), abs=1e-10)


@pytest.mark.parametrize("count", [2, 5, 12])
def test_the_product_of_biased_centred_grams_is_the_biased_hsic(count):
    x, y = gaussians(count, 7), gaussians(count, 5, seed=1)
    product = centred_grams([x, y], "biased").prod(dim=0).sum() / (count - 1) ** 2
    assert product.item() == pytest.approx(hsic_by_centring(x, y).item(), abs=1e-10)


@given(st.integers(4, 9), st.integers(1, 6), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_unbiased_centring_leaves_rows_without_a_sum_and_no_diagonal(count, width, seed):
    (gram,) = centred_grams([gaussians(count, width, seed=seed)])
    assert gram.sum(dim=1).abs().max() < 1e-9
    assert not gram.diagonal().any()
    assert torch.allclose(gram, gram.T)


@pytest.mark.parametrize(("count", "width", "biased"), CASES)
def test_independent_gaussians_look_alike_to_the_biased_estimator_only(count, width, biased):
    x, y = gaussians(count, width).float(), gaussians(count, width, seed=1).float()
    assert linear_cka(x, y).item() == pytest.approx(biased, abs=0.01)
    # Its standard deviation is about 1.4 / count.
    assert abs(unbiased_linear_cka(x, y).item()) < (0.02 if count == 500 else 4 / count)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_is_raised_before_products_are_formed(dtype):
    x = (100 * gaussians(16, 512)).to(dtype)
    grams = centred_grams([x])
    assert grams.dtype == torch.float64
    torch.testing.assert_close(grams, centred_grams([x.double()]), rtol=1e-3, atol=5)


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_samples_for_the_biased_estimator_are_refused(count):
    with pytest.raises(
        DataError, match=f"same samples, 2 or more, in both inputs: got {count} and {count} rows"
    ):
        linear_cka(gaussians(count, 3), gaussians(count, 3))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_samples_for_the_unbiased_estimator_are_refused(count):
    with pytest.raises(
        DataError, match=f"same samples, 4 or more, in both inputs: got {count} and {count} rows"
    ):
        unbiased_linear_cka(gaussians(count, 3), gaussians(count, 3))


@BOTH
def test_different_samples_are_refused(cka):
    with pytest.raises(DataError, match="got 64 and 63 rows"):
        cka(gaussians(64, 2), gaussians(63, 2))
