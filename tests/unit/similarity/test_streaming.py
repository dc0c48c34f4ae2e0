import numpy as np
import pytest
import torch

from shoal.errors import DataError, ShoalWarning
from shoal.similarity import SimilaritySettings, SimilaritySums, linear_cka, unbiased_linear_cka

SIZES = [16, 32, 64, 128, 256, 512]


def streamed(layers, size, **settings):
    sums = SimilaritySums(SimilaritySettings(**settings))
    for start in range(0, len(layers[0]), size):
        sums.update([layer[start : start + size] for layer in layers])
    return sums.matrix()


@pytest.fixture(scope="module")
def planted():
    """Two wide views of one signal of 40 dimensions, in noise of 2,048."""
    draw = torch.Generator().manual_seed(0)
    signal = torch.randn(4096, 40, generator=draw)
    return [
        signal @ torch.randn(40, 2048, generator=draw) + 6 * torch.randn(4096, 2048, generator=draw)
        for _ in range(2)
    ]


@pytest.fixture
def layers():
    draw = torch.Generator().manual_seed(1)
    start = torch.randn(48, 6, generator=draw, dtype=torch.float64)
    return [start, start.square(), start @ torch.randn(6, 9, generator=draw, dtype=torch.float64).tanh()]


def test_all_planted_samples_at_once(planted):
    assert unbiased_linear_cka(*planted).item() == pytest.approx(0.9336, abs=0.002)
    assert linear_cka(*planted).item() == pytest.approx(0.9357, abs=0.002)


def test_sums_of_small_minibatches_equal_the_whole(planted):
    found = [streamed(planted, size)[0, 1] for size in SIZES]
    assert max(found) - min(found) < 0.003
    assert found == pytest.approx([0.9337] * len(SIZES), abs=0.002)


def test_the_mean_of_biased_ratios_does_not_converge_to_the_whole(planted):
    found = [streamed(planted, size, estimator="biased", reduce="mean_of_ratios")[0, 1] for size in SIZES]
    assert found == pytest.approx([0.993, 0.987, 0.979, 0.968, 0.957, 0.947], abs=0.002)


@pytest.mark.parametrize(("estimator", "cka"), [("unbiased", unbiased_linear_cka), ("biased", linear_cka)])
@pytest.mark.parametrize("reduce", ["sum_then_ratio", "mean_of_ratios"])
def test_one_minibatch_equals_the_whole(layers, estimator, cka, reduce):
    expected = [[cka(x, y).item() for y in layers] for x in layers]
    np.testing.assert_allclose(
        streamed(layers, 48, estimator=estimator, reduce=reduce), expected, rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("size", [4, 8, 24])
def test_the_ratio_of_sums_is_symmetric_positive_and_one_on_the_diagonal(layers, size):
    found = streamed(layers * 3, size)
    assert np.array_equal(found, found.T)
    assert np.array_equal(np.diag(found), np.ones(9))
    assert np.linalg.eigvalsh(found).min() > -1e-8


@pytest.mark.parametrize("size", [8, 24])
def test_the_mean_of_ratios_is_the_mean_of_the_minibatches(layers, size):
    expected = np.mean(
        [
            [[linear_cka(x[at : at + size], y[at : at + size]).item() for y in layers] for x in layers]
            for at in range(0, 48, size)
        ],
        axis=0,
    )
    found = streamed(layers, size, estimator="biased", reduce="mean_of_ratios")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_a_layer_that_puts_out_nothing_is_like_no_other_and_is_named(layers):
    with pytest.warns(ShoalWarning, match=r"layers \[1\] put out no more than noise"):
        found = streamed([layers[0], torch.ones(48, 3), layers[2]], 24)
    assert found[1].tolist() == [0, 1, 0]


@pytest.mark.parametrize(("estimator", "fewest"), [("unbiased", 4), ("biased", 2)])
def test_a_minibatch_of_too_few_samples_is_refused(layers, estimator, fewest):
    sums = SimilaritySums(SimilaritySettings(estimator=estimator))
    for count in (0, 1, fewest - 1):
        with pytest.raises(DataError, match=f"minibatch of {count} samples: it needs {fewest} or more"):
            sums.update([layer[:count] for layer in layers])
    sums.update([layer[:fewest] for layer in layers])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_activations_that_are_not_finite_are_refused(layers, value):
    layers[2] = layers[2].clone()
    layers[2][3, 0] = value
    with pytest.raises(DataError, match=r"CKA of 3 layers: the activations of \[2\] are not finite"):
        streamed(layers, 24)


def test_layers_of_different_samples_are_refused(layers):
    with pytest.raises(DataError, match=r"CKA of 2 layers on \[47, 48\] samples"):
        SimilaritySums().update([layers[0], layers[1][:-1]])
    with pytest.raises(DataError, match=r"CKA of 0 layers on \[\] samples"):
        SimilaritySums().update([])


def test_a_matrix_of_nothing_is_refused():
    with pytest.raises(DataError, match="no minibatch was added"):
        SimilaritySums().matrix()


@pytest.mark.parametrize("reduce", ["sum_then_ratio", "mean_of_ratios"])
@pytest.mark.parametrize("split", [0, 1, 2])
def test_sums_that_are_merged_are_the_sums_of_all(layers, reduce, split):
    settings = SimilaritySettings(reduce=reduce)
    first, second, whole = (SimilaritySums(settings) for _ in range(3))
    for number, start in enumerate((0, 16)):
        minibatch = [layer[start : start + 16] for layer in layers]
        whole.update(minibatch)
        (first if number < split else second).update(minibatch)
    first.merge(second)
    np.testing.assert_allclose(first.matrix(), whole.matrix(), rtol=1e-14)
