import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shoal.errors import DataError
from shoal.measurement.quality import evaluate_quality, evaluate_samples, paired_difference


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5))


class Language(nn.Module):
    """Predicts from the current token alone."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 7)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> dict[str, Tensor]:
        return {"logits": self.table(input_ids)}


def labelled(*sizes: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(n, 4, generator=generator), torch.randint(3, (n,), generator=generator)) for n in sizes
    ]


@pytest.mark.parametrize("sizes", [(1,), (8,), (5, 3, 1)])
def test_a_classifier_is_judged_by_all_samples_alike(classifier, sizes):
    batches = labelled(*sizes)
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    logits = classifier[0](x)
    found = evaluate_quality(classifier, batches)
    assert found["loss"] == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-5)
    assert found["accuracy"] == pytest.approx((logits.argmax(1) == y).float().mean().item())
    assert found["accuracy_low"] <= found["accuracy"] <= found["accuracy_high"]
    assert found["samples"] == sum(sizes)
    assert "perplexity" not in found


def test_a_language_model_is_judged_by_all_tokens_alike():
    torch.manual_seed(0)
    model = Language()
    ids = torch.randint(7, (3, 6))
    mask = torch.ones_like(ids)
    mask[1, 3:] = 0
    whole = evaluate_quality(model, [{"input_ids": ids, "attention_mask": mask}])
    parts = [{"input_ids": ids[i : i + 1], "attention_mask": mask[i : i + 1]} for i in range(3)]
    losses = F.cross_entropy(model.table(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    expected = losses[mask[:, 1:].flatten().bool()].mean().item()
    for found in (whole, evaluate_quality(model, parts)):
        assert found["nats_per_token"] == found["loss"] == pytest.approx(expected, rel=1e-5)
        assert found["perplexity"] == pytest.approx(math.exp(expected), rel=1e-5)
        assert (found["tokens"], found["samples"]) == (12, 3)
        assert "accuracy" not in found


def test_a_loss_of_the_users_is_used(classifier):
    found = evaluate_quality(classifier, labelled(4, 2), loss=lambda outputs, labels: outputs.sum() * 0 + 2)
    assert found["loss"] == 2
    assert "accuracy" in found


def test_regression_has_a_loss_and_no_accuracy(classifier):
    found = evaluate_quality(classifier, [(torch.zeros(2, 4), torch.zeros(2, 3))])
    assert set(found) == {"loss", "loss_se", "loss_low", "loss_high", "samples"}


def test_the_loss_of_a_classifier_has_the_error_of_a_mean_over_samples(classifier):
    batches = labelled(5, 3)
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    losses = F.cross_entropy(classifier[0](x), y, reduction="none")
    found = evaluate_quality(classifier, batches)
    assert found["loss_se"] == pytest.approx((losses.std() / math.sqrt(8)).item(), rel=1e-4)
    # Seven degrees of freedom.
    assert found["loss_high"] - found["loss"] == pytest.approx(2.365 * found["loss_se"], rel=1e-3)
    assert found["loss"] - found["loss_low"] == pytest.approx(2.365 * found["loss_se"], rel=1e-3)


def test_the_loss_of_a_language_model_has_the_error_of_a_ratio_over_windows():
    torch.manual_seed(0)
    model = Language()
    ids, mask = torch.randint(7, (4, 6)), torch.ones(4, 6, dtype=torch.long)
    mask[1, 3:] = 0
    losses = F.cross_entropy(model.table(ids[:, :-1]).mT, ids[:, 1:], reduction="none") * mask[:, 1:]
    tokens = mask[:, 1:].sum(dim=1)
    mean = losses.sum() / tokens.sum()
    error = (4 / 3 * (losses.sum(dim=1) - mean * tokens).square().sum()).sqrt() / tokens.sum()
    found = evaluate_quality(model, [{"input_ids": ids, "attention_mask": mask}])
    assert found["loss_se"] == pytest.approx(error.item(), rel=1e-4)
    assert found["perplexity_low"] == pytest.approx(math.exp(found["loss_low"]))
    assert found["perplexity_high"] == pytest.approx(math.exp(found["loss_high"]))
    assert found["perplexity_low"] < found["perplexity"] < found["perplexity_high"]


def test_one_sample_has_no_interval(classifier):
    assert set(evaluate_quality(classifier, labelled(1))) == {
        "loss", "samples", "accuracy", "accuracy_low", "accuracy_high"
    }  # fmt: skip
    found = evaluate_quality(Language(), [{"input_ids": torch.randint(7, (1, 6))}])
    assert set(found) == {"loss", "samples", "tokens", "nats_per_token", "perplexity"}


def test_a_loss_that_returns_a_mean_is_judged_by_batches(classifier):
    batches = labelled(4, 2)
    means = [F.cross_entropy(classifier[0](x), y).item() for x, y in batches]
    found = evaluate_samples(classifier, batches, loss=F.cross_entropy)
    assert found.losses.tolist() == pytest.approx(means)
    assert found.weights.tolist() == [4, 2]
    assert found.quality["samples"] == 6
    assert found.quality["loss"] == pytest.approx((4 * means[0] + 2 * means[1]) / 6)
    assert "loss_se" not in evaluate_quality(classifier, labelled(6), loss=F.cross_entropy)


def test_the_losses_of_samples_are_those_that_quality_sums_up(classifier):
    batches = labelled(5, 3)
    found = evaluate_samples(classifier, batches)
    assert found.quality == evaluate_quality(classifier, batches)
    assert found.losses.mean().item() == pytest.approx(found.quality["loss"])
    assert found.weights.tolist() == [1] * 8
    x, y = batches[1]
    expected = F.cross_entropy(classifier[0](x), y, reduction="none").double()
    torch.testing.assert_close(found.losses[5:], expected)


def test_the_losses_of_windows_weigh_by_their_tokens():
    ids, mask = torch.randint(7, (3, 6)), torch.ones(3, 6, dtype=torch.long)
    mask[2, 2:] = 0
    found = evaluate_samples(Language(), [{"input_ids": ids, "attention_mask": mask}])
    assert found.weights.tolist() == [5, 5, 1]
    mean = (found.weights * found.losses).sum() / 11
    assert found.quality["loss"] == pytest.approx(mean.item())


def test_a_difference_is_known_better_than_the_means(classifier):
    batches = labelled(64)
    other = nn.Sequential(nn.Linear(4, 3))
    other.load_state_dict(classifier.state_dict())
    other[0].bias.data += 0.01
    first, second = (evaluate_samples(each, batches) for each in (classifier, other))
    difference, error = paired_difference(first, second)
    assert difference == pytest.approx(first.quality["loss"] - second.quality["loss"], abs=1e-9)
    assert 0 < error < first.quality["loss_se"] / 10
    assert error == pytest.approx(((first.losses - second.losses).std() / 8).item())
    assert paired_difference(first, first) == (0, 0)


def test_the_difference_of_one_sample_has_no_error(classifier):
    found = evaluate_samples(classifier, labelled(1))
    assert paired_difference(found, found) == (0, None)


def test_a_difference_wants_the_same_samples(classifier):
    first, second = (evaluate_samples(classifier, labelled(size)) for size in (4, 3))
    with pytest.raises(DataError, match="one network has 4 samples of weight 4, the other 3 of 3"):
        paired_difference(first, second)


def test_the_network_is_left_as_it_was(classifier):
    state = torch.get_rng_state()
    evaluate_quality(classifier, labelled(4))
    assert classifier.training
    assert classifier[0].weight.grad is None
    assert torch.equal(torch.get_rng_state(), state)


def test_no_batches_are_refused(classifier):
    with pytest.raises(DataError, match="the data is empty"):
        evaluate_quality(classifier, [])


def test_a_loss_that_is_not_finite_names_its_batch(classifier):
    batches = labelled(2, 2)
    batches[1][0][0, 0] = math.nan
    with pytest.raises(DataError, match=r"batch 1 \(from 0\): its loss is nan"):
        evaluate_quality(classifier, batches)


def test_nothing_to_compute_a_loss_from_is_said(classifier):
    with pytest.raises(DataError, match="Tensor without labels: there is nothing to compute a loss"):
        evaluate_quality(classifier, [torch.zeros(2, 4)])
