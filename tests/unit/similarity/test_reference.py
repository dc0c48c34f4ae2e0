import pytest
import torch

from shoal.errors import DataError
from shoal.similarity import ReferenceSums, linear_cka, unbiased_linear_cka

BOTH = pytest.mark.parametrize(
    ("estimator", "cka"), [("biased", linear_cka), ("unbiased", unbiased_linear_cka)]
)


def gaussians(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def streamed(reference, others, size, **settings):
    sums = ReferenceSums(**settings)
    for start in range(0, len(reference), size):
        piece = slice(start, start + size)
        sums.update(reference[piece], [other[piece] for other in others])
    return sums.similarities()


@pytest.fixture
def layers():
    x = gaussians(150, 12)
    return x, [x[:, :5].square(), x @ gaussians(12, 30, seed=1).tanh(), gaussians(150, 7, seed=2)]


@BOTH
@pytest.mark.parametrize("size", [1, 7, 50, 150])
@pytest.mark.parametrize("offset", [0, 1000])
def test_streamed_sums_over_features_equal_gram_matrices_of_all_samples(layers, estimator, cka, size, offset):
    x, others = layers
    expected = [cka(x, other).item() for other in others]
    found = streamed(x + offset, [other - offset for other in others], size, estimator=estimator)
    assert found == pytest.approx(expected, abs=1e-10)


@BOTH
def test_one_minibatch_of_gram_matrices_equals_the_sums_over_features(layers, estimator, cka):
    x, others = layers
    found = streamed(x, others, 150, estimator=estimator, exact=0, minibatch=150)
    assert found == pytest.approx(streamed(x, others, 150, estimator=estimator), abs=1e-10)


@pytest.mark.parametrize("count", [4, 5, 60])
def test_the_unbiased_estimator_is_the_ratio_with_the_diagonals_taken_off(count):
    """Squared norms, less what the diagonals of the Gram matrices bring in (Kornblith's debiased form)."""
    x, y = gaussians(count, 6), gaussians(count, 9, seed=1) + 3
    x, y = x - x.mean(0), y - y.mean(0)

    def debiased(a, b):
        first, second = a.square().sum(1), b.square().sum(1)
        totals = first.sum() * second.sum() / ((count - 1) * (count - 2))
        return (a.T @ b).square().sum() - count / (count - 2) * first @ second + totals

    expected = (debiased(x, y) / (debiased(x, x) * debiased(y, y)).sqrt()).item()
    assert streamed(x, [y], 3) == pytest.approx([expected], abs=1e-10)


@BOTH
def test_what_is_rotated_scaled_and_shifted_is_the_same(estimator, cka):
    x = gaussians(80, 8)
    rotation, _ = torch.linalg.qr(gaussians(8, 8, seed=2))
    others = [x, x @ rotation, 3 * x, x + 5]
    assert streamed(x, others, 20, estimator=estimator) == pytest.approx([1] * 4, abs=1e-10)


def test_independent_gaussians_look_alike_to_the_biased_estimator_only():
    x, y = gaussians(100, 400), gaussians(100, 400, seed=1)
    assert streamed(x, [y], 25, estimator="biased")[0] > 0.7
    assert abs(streamed(x, [y], 25)[0]) < 0.05


def test_sums_over_minibatches_are_near_the_whole():
    x = gaussians(2000, 20)
    y = x + 2 * gaussians(2000, 20, seed=1)
    assert streamed(x, [y], 300, exact=19, minibatch=50) == pytest.approx(streamed(x, [y], 300), abs=0.03)


def test_the_widest_representation_decides_how_sums_are_taken(layers):
    x, others = layers
    wide, narrow = (streamed(x, others, 50, exact=exact, minibatch=10) for exact in (29, 30))
    assert wide != narrow
    assert narrow == streamed(x, others, 50)


@BOTH
@pytest.mark.parametrize("sizes", [(256, 256, 4), (4, 256, 256), (100, 400, 16), (515, 1), (129,) * 4])
def test_minibatches_do_not_depend_on_the_sizes_of_the_batches(estimator, cka, sizes):
    x = gaussians(516, 300)
    others = [x + gaussians(516, 300, seed=1), gaussians(516, 5, seed=2)]
    expected = streamed(x, others, 516, estimator=estimator, exact=0)
    sums = ReferenceSums(estimator, exact=0)
    for rows in torch.arange(516).split(sizes):
        sums.update(x[rows], [other[rows] for other in others])
    assert sums.similarities() == pytest.approx(expected, abs=1e-12)
    assert sums.rows == 516


@BOTH
def test_a_small_last_minibatch_counts_for_its_samples(estimator, cka):
    x, y = gaussians(68, 40), gaussians(68, 40, seed=1)
    # Alike in the last four samples only.
    y[64:] = x[64:]

    def hsic(a, b, rows):
        sums = ReferenceSums(estimator)
        sums.update(a[rows], [b[rows]])
        (own, other), (_, shared) = sums._sums.hsic()
        return torch.tensor([own, other, shared], dtype=torch.float64)

    parts = [hsic(x, y, slice(64)), hsic(x, y, slice(64, 68))]
    own, other, shared = (64 * parts[0] + 4 * parts[1]).tolist()
    found = streamed(x, [y], 68, estimator=estimator, exact=0, minibatch=64)
    assert found == pytest.approx([shared / (own * other) ** 0.5], abs=1e-10)


@pytest.mark.parametrize("exact", [0, 64])
def test_no_samples_and_too_small_a_rest_are_left_out(exact):
    sums, x = ReferenceSums(exact=exact, minibatch=8), gaussians(19, 3)
    sums.update(x, [x.square()])
    sums.update(x[:0], [x[:0]])
    assert sums.rows == (19 if exact else 16)
    assert len(sums.similarities()) == 1


@pytest.mark.parametrize("exact", [0, 64])
def test_a_representation_without_signal_is_like_no_other(exact):
    x = gaussians(20, 3)
    assert streamed(x, [torch.ones(20, 3), x], 20, exact=exact)[0] == 0


@pytest.mark.parametrize("exact", [0, 64])
@pytest.mark.parametrize("others", [0, 1])
def test_a_reference_without_signal_is_refused(exact, others):
    with pytest.raises(DataError, match="on 20 samples the reference puts out no more than noise"):
        streamed(torch.zeros(20, 3), [gaussians(20, 3)] * others, 20, exact=exact)


@pytest.mark.parametrize(("estimator", "fewest"), [("unbiased", 4), ("biased", 2)])
@pytest.mark.parametrize("exact", [0, 64])
def test_too_few_samples_are_refused(estimator, fewest, exact):
    x = gaussians(fewest, 3)
    assert streamed(x, [x], fewest, estimator=estimator, exact=exact) == pytest.approx([1])
    with pytest.raises(DataError, match=f"needs {fewest} or more samples, and"):
        streamed(x[1:], [x[1:]], fewest, estimator=estimator, exact=exact)
    with pytest.raises(DataError, match="and 0 could be compared"):
        ReferenceSums(estimator).similarities()


def test_different_samples_are_refused(layers):
    x, _ = layers
    with pytest.raises(
        DataError, match=r"compare 2 representations with a reference: .* of \[150, 150, 149\]"
    ):
        ReferenceSums().update(x, [x, x[1:]])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(layers, value):
    x, _ = layers
    broken = x.clone()
    broken[3, 1] = value
    with pytest.raises(DataError, match=r"compare 2 representations .* \[2\], of which 0 is the reference"):
        ReferenceSums().update(x, [x, broken])
