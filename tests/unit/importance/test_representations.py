"""What is summed batch by batch equals the formulas on all samples at once."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from shoal import find_units
from shoal.errors import DataError
from shoal.importance import EvidenceSettings, collect_evidence
from shoal.importance.representations import RepresentationSums
from shoal.similarity import SimilaritySettings, linear_cka, unbiased_linear_cka

PADDING = torch.tensor([[1, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1, 1, 1]])


def evidence(model, chain, batches, **settings):
    return collect_evidence(
        model,
        chain,
        batches,
        settings=EvidenceSettings(similarity=SimilaritySettings(**settings), gradients=False),
    )


def states(model, chain, inputs):
    """The L + 1 hidden states at the boundaries of the units."""
    seen = []
    first = model.get_submodule(chain[0].modules[0])
    handles = [first.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().clone()))]
    for unit in chain:
        module = model.get_submodule(unit.modules[-1])
        handles.append(
            module.register_forward_hook(
                lambda module, args, out: seen.append(
                    (out if isinstance(out, torch.Tensor) else out[0]).detach().clone()
                )
            )
        )
    with torch.no_grad():
        model(**inputs) if isinstance(inputs, dict) else model(inputs)
    for handle in handles:
        handle.remove()
    return seen


def angle(x, y):
    return torch.nn.functional.cosine_similarity(x.double(), y.double()).clamp(-1, 1).arccos() / math.pi


def closeness(x, y):
    return 1 - torch.nn.functional.cosine_similarity(x.double(), y.double())


@pytest.fixture
def images():
    return torch.randn(40, 3, 8, 8)


@pytest.fixture
def resnet_chain(small_resnet, images):
    return find_units(small_resnet, images[:1])


@pytest.fixture
def text():
    return {"input_ids": torch.randint(0, 64, (3, 8)), "attention_mask": PADDING}


@pytest.mark.parametrize(("estimator", "cka"), [("unbiased", unbiased_linear_cka), ("biased", linear_cka)])
@pytest.mark.parametrize("pool", ["flatten", "gap"])
def test_similarity_in_one_minibatch_is_that_of_all_samples(
    small_resnet, resnet_chain, images, estimator, cka, pool
):
    found = evidence(small_resnet, resnet_chain, [images], minibatch=40, estimator=estimator, pool=pool)
    hidden = states(small_resnet, resnet_chain, images)
    flat = [state.flatten(1) if pool == "flatten" else state.mean(dim=(2, 3)) for state in hidden]
    expected = [[cka(x, y).item() for y in flat] for x in flat]
    np.testing.assert_allclose(found.boundary_similarity, expected, rtol=0, atol=1e-4)
    assert found.similarity.shape == (len(resnet_chain), len(resnet_chain))
    assert found.data["compared"] == found.data["samples"] == 40


def test_angles_and_influence_of_images_are_those_of_whole_samples(small_resnet, resnet_chain, images):
    found = evidence(small_resnet, resnet_chain, [images[:25], images[25:]])
    hidden = [state.flatten(1) for state in states(small_resnet, resnet_chain, images)]
    length = len(resnet_chain)
    for start in range(length):
        for stop in range(length + 1):
            got = found.angular_distance[start, stop], found.block_influence[start, stop]
            x, y = hidden[start], hidden[stop]
            if stop <= start or x.shape != y.shape:
                assert np.isnan(got).all()
            else:
                expected = angle(x, y).mean().item(), closeness(x, y).mean().item()
                assert got == pytest.approx(expected, abs=2e-4)
    alone = [found.block_influence[index, index + 1] for index in range(length)]
    np.testing.assert_array_equal(found.importance["block_influence"], alone)


def test_channels_last_images_give_the_same(small_resnet, resnet_chain, images):
    plain = evidence(small_resnet, resnet_chain, [images], minibatch=40)
    other = small_resnet.to(memory_format=torch.channels_last)
    found = evidence(other, resnet_chain, [images.to(memory_format=torch.channels_last)], minibatch=40)
    np.testing.assert_allclose(found.boundary_similarity, plain.boundary_similarity, atol=1e-4)
    np.testing.assert_allclose(found.block_influence, plain.block_influence, atol=1e-4)


@pytest.mark.parametrize("padded", [False, True])
def test_text_is_compared_by_real_tokens_and_angles_by_the_last_of_each(small_llama, text, padded):
    chain = find_units(small_llama)
    if not padded:
        text["attention_mask"] = torch.ones_like(PADDING)
    real = text["attention_mask"].bool()
    last = torch.tensor([max(row.nonzero().flatten().tolist()) for row in real])
    found = evidence(small_llama, chain, [text])
    hidden = states(small_llama, chain, text)
    for start in range(5):
        for stop in range(start + 1, 6):
            x, y = hidden[start], hidden[stop]
            assert found.block_influence[start, stop] == pytest.approx(
                closeness(x[real], y[real]).mean().item(), abs=2e-4
            )
            at = torch.arange(3)
            assert found.angular_distance[start, stop] == pytest.approx(
                angle(x[at, last], y[at, last]).mean().item(), abs=2e-4
            )


def test_the_similarity_of_text_takes_real_tokens_of_one_scale_and_no_samples_first(small_llama, text):
    chain = find_units(small_llama)
    found = evidence(small_llama, chain, [text])
    counted = text["attention_mask"].bool()
    counted[torch.arange(len(counted)), counted.int().argmax(dim=1)] = False
    tokens = [state[counted] for state in states(small_llama, chain, text)]
    scaled = [token / token.square().mean(dim=1, keepdim=True).sqrt() for token in tokens]
    expected = [[unbiased_linear_cka(x, y).item() for y in scaled] for x in scaled]
    np.testing.assert_allclose(found.boundary_similarity, expected, rtol=0, atol=1e-4)
    assert found.data["rows"] == "tokens"
    assert found.data["compared"] == int(counted.sum())


def test_a_few_tokens_are_drawn_by_the_seed(small_llama, text):
    chain = find_units(small_llama)
    first, again, other = (
        evidence(small_llama, chain, [text], tokens=6, seed=seed).boundary_similarity for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_what_padding_holds_does_not_matter(small_llama, text):
    chain = find_units(small_llama)
    found = evidence(small_llama, chain, [text])
    changed = text | {"input_ids": torch.where(text["attention_mask"].bool(), text["input_ids"], 7)}
    same = evidence(small_llama, chain, [changed])
    np.testing.assert_allclose(same.boundary_similarity, found.boundary_similarity, atol=1e-5)
    np.testing.assert_allclose(same.angular_distance, found.angular_distance, atol=1e-5)


def test_token_networks_without_ids_are_compared_by_sample_and_their_angles_by_token():
    model = nn.Sequential(*(nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(3)))
    x = torch.randn(8, 5, 6)
    chain = find_units(model, x[:1])
    found = evidence(model, chain, [x], minibatch=8)
    hidden = states(model, chain, x)
    expected = [[unbiased_linear_cka(a.flatten(1), b.flatten(1)).item() for b in hidden] for a in hidden]
    np.testing.assert_allclose(found.boundary_similarity, expected, atol=1e-5)
    for index, (a, b) in enumerate(pairwise(hidden)):
        expected_angle = angle(a.flatten(0, 1), b.flatten(0, 1)).mean().item()
        assert found.angular_distance[index, index + 1] == pytest.approx(expected_angle, abs=2e-4)


@pytest.mark.parametrize("rest", [0, 1, 3])
def test_a_rest_too_small_for_a_minibatch_is_left_out_and_said(small_resnet, resnet_chain, images, rest):
    found = evidence(small_resnet, resnet_chain, [images[: 16 + rest]], minibatch=8)
    assert (found.data["samples"], found.data["compared"]) == (16 + rest, 16)
    again = evidence(small_resnet, resnet_chain, [images[:16], images[: rest or 1]], minibatch=8)
    assert again.data["compared"] == 16


def test_a_text_too_short_to_compare_is_left_out(small_llama, text):
    chain = find_units(small_llama)
    short = {"input_ids": torch.tensor([[1, 2, 3]])}
    assert evidence(small_llama, chain, [text, short]).data["compared"] == 16
    assert evidence(small_llama, chain, [short, text]).data["compared"] == 16
    with pytest.raises(DataError, match="needs 4 or more tokens in a batch, and no batch of the 1 samples"):
        evidence(small_llama, chain, [short])


def test_without_a_batch_there_are_no_matrices():
    with pytest.raises(DataError, match="no batch was added"):
        RepresentationSums(SimilaritySettings()).matrices()


def test_the_tokens_of_a_batch_are_drawn_by_its_number(small_llama, text):
    chain = find_units(small_llama)
    other = {"input_ids": text["input_ids"].flip(1), "attention_mask": text["attention_mask"].flip(1)}
    twice = evidence(small_llama, chain, [text, text], tokens=6).boundary_similarity
    once, second = (
        evidence(small_llama, chain, [*before, text], tokens=6).boundary_similarity
        for before in ([], [{"input_ids": torch.tensor([[1, 2]])}])
    )
    # A batch too short to be compared still has its number.
    assert not np.allclose(once, second)
    assert not np.allclose(twice, once)
    first, again = (evidence(small_llama, chain, [text, other], tokens=6) for _ in range(2))
    np.testing.assert_array_equal(first.boundary_similarity, again.boundary_similarity)


def added(batches, places=((0, 1), (1, 2))):
    """Sums over batches of three hidden states between two units."""
    sums = RepresentationSums(SimilaritySettings())
    for number, states in batches:
        sums.add(list(states), list(places[0]), list(places[1]), None, number)
    return sums


@pytest.mark.parametrize("split", [0, 1, 3])
def test_sums_that_are_merged_are_the_sums_of_all(split):
    batches = list(enumerate(torch.randn(3, 3, 8, 5)))
    merged = added(batches[:split])
    merged.merge(added(batches[split:]))
    whole = added(batches)
    assert merged.counts() == whole.counts() == {"samples": 24, "compared": 24, "rows": "samples"}
    for one, other in zip(merged.matrices(), whole.matrices(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-14)


def test_sums_of_other_ways_through_the_network_are_not_merged():
    batches = list(enumerate(torch.randn(1, 3, 8, 5)))
    with pytest.raises(DataError, match="hidden states go other ways from unit to unit"):
        added(batches).merge(added(batches, places=((0, 1), (2, 2))))
