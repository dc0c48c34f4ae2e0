import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from shoal.errors import DataError
from shoal.measurement.quality import evaluate_quality, wilson_interval


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
    assert set(found) == {"loss", "samples"}


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


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_the_interval_holds_the_share_and_lies_between_0_and_1(trials, share):
    successes = round(share * trials)
    low, high = wilson_interval(successes, trials)
    assert 0 <= low <= successes / trials + 1e-12
    assert successes / trials - 1e-12 <= high <= 1


def test_the_interval_solves_its_equation():
    # The bounds are the shares p for which the observed one lies 1.96 standard errors away.
    for bound in wilson_interval(37, 50):
        assert abs(37 / 50 - bound) == pytest.approx(1.959964 * math.sqrt(bound * (1 - bound) / 50))
