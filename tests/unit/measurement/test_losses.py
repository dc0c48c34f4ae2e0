from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM

from shoal.errors import DataError
from shoal.measurement.losses import IGNORED, is_causal, logits_of, sample_losses

SMALL = {
    "num_hidden_layers": 1,
    "hidden_size": 8,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "vocab_size": 11,
    "max_position_embeddings": 16,
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def llama():
    return LlamaForCausalLM(LlamaConfig(**SMALL, bos_token_id=1, eos_token_id=2)).eval()


@pytest.fixture
def bert():
    return BertForMaskedLM(BertConfig(**SMALL)).eval()


@pytest.mark.parametrize("samples", [1, 5])
def test_class_labels_give_the_cross_entropy_of_every_sample(samples):
    logits, labels = torch.randn(samples, 3, requires_grad=True), torch.randint(3, (samples,))
    losses = sample_losses(logits, torch.zeros(samples, 2), labels)
    torch.testing.assert_close(losses, F.cross_entropy(logits, labels, reduction="none"))
    losses.sum().backward()
    assert logits.grad is not None


def test_half_precision_is_added_up_in_float32():
    losses = sample_losses(torch.randn(4, 3).bfloat16(), torch.zeros(4), torch.zeros(4, dtype=torch.long))
    assert losses.dtype == torch.float32


@pytest.mark.parametrize("channels_first", [True, False])
def test_dense_labels_give_the_mean_over_the_positions_that_count(channels_first):
    logits, labels = torch.randn(2, 4, 5, 6), torch.randint(4, (2, 5, 6))
    labels[0, :2] = IGNORED
    expected = torch.stack(
        [F.cross_entropy(logits[i : i + 1], labels[i : i + 1], ignore_index=IGNORED) for i in range(2)]
    )
    outputs = logits if channels_first else logits.movedim(1, -1)
    torch.testing.assert_close(sample_losses(outputs, torch.zeros(2, 3, 5, 6), labels), expected)


def test_floating_labels_give_the_mean_squared_error():
    outputs, labels = torch.randn(3, 2, 2), torch.randn(3, 2, 2)
    expected = (outputs - labels).square().mean(dim=(1, 2))
    torch.testing.assert_close(sample_losses(outputs, outputs, labels), expected)


def test_a_language_model_is_scored_as_transformers_scores_it(llama):
    ids = torch.randint(11, (1, 9))
    inputs = {"input_ids": ids}
    outputs = llama(**inputs, labels=ids)
    torch.testing.assert_close(sample_losses(outputs, inputs, None).mean(), outputs.loss)
    torch.testing.assert_close(sample_losses(outputs, inputs, ids).mean(), outputs.loss)


@pytest.mark.parametrize("pads", [0, 1, 6])
def test_padding_does_not_count(llama, pads):
    ids, mask = torch.randint(11, (1, 9)), torch.ones(1, 9, dtype=torch.long)
    labels = ids.clone()
    mask[0, 9 - pads :] = 0
    labels[mask == 0] = IGNORED
    inputs = {"input_ids": ids, "attention_mask": mask}
    outputs = llama(**inputs, labels=labels)
    torch.testing.assert_close(sample_losses(outputs, inputs, None).mean(), outputs.loss)
    torch.testing.assert_close(sample_losses(outputs, inputs, labels).mean(), outputs.loss)


def test_a_padded_sample_has_the_loss_of_the_sample_alone_on_either_side(llama):
    ids = torch.randint(11, (1, 6))
    alone = sample_losses(llama(input_ids=ids), {"input_ids": ids}, None)
    for left in (False, True):
        pad = (3, 0) if left else (0, 3)
        mask = F.pad(torch.ones_like(ids), pad)
        inputs = {"input_ids": F.pad(ids, pad), "attention_mask": mask}
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        outputs = llama(**inputs, position_ids=positions)
        torch.testing.assert_close(sample_losses(outputs, inputs, None), alone)


def test_a_masked_language_model_predicts_in_place(bert):
    ids = torch.randint(5, 11, (2, 9))
    labels = torch.full_like(ids, IGNORED)
    labels[:, 3:5] = ids[:, 3:5]
    inputs = {"input_ids": ids.masked_fill(labels != IGNORED, 4)}
    outputs = bert(**inputs, labels=labels)
    for causal in (is_causal(bert), None):
        losses = sample_losses(outputs, inputs, labels, causal=causal)
        torch.testing.assert_close(losses.mean(), outputs.loss)


def test_bare_token_ids_may_be_the_input():
    logits, ids = torch.randn(2, 5, 7), torch.randint(7, (2, 5))
    named = sample_losses(logits, {"input_ids": ids}, None)
    torch.testing.assert_close(sample_losses(logits, ids, None), named)
    torch.testing.assert_close(sample_losses(logits, (ids,), ids), named)


@pytest.mark.parametrize(
    ("outputs", "causal"), [("text", None), (torch.randn(3, 2), None), (torch.randn(2, 5, 7), False)]
)
def test_without_labels_there_may_be_nothing_to_compute(outputs, causal):
    assert sample_losses(outputs, {"input_ids": torch.zeros(2, 5).long()}, None, causal=causal) is None


def test_a_loss_of_the_users_may_return_the_mean_or_one_value_a_sample():
    outputs, labels = torch.randn(4, 3, requires_grad=True), torch.randint(3, (4,))
    mean = sample_losses(outputs, outputs, labels, loss=F.cross_entropy)
    assert mean.shape == (4,)
    torch.testing.assert_close(mean.mean(), F.cross_entropy(outputs, labels))
    single = sample_losses(
        outputs, outputs, labels, loss=lambda o, y: F.cross_entropy(o, y, reduction="none")
    )
    assert single.std() > 0


@pytest.mark.parametrize(
    ("loss", "found"), [(lambda o, y: torch.zeros(3), r"shape \(3,\)"), (lambda o, y: 0.5, "float")]
)
def test_a_loss_of_the_users_that_returns_something_else_is_refused(loss, found):
    with pytest.raises(DataError, match=f"it returned {found}"):
        sample_losses(torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(4).long(), loss=loss)


@pytest.mark.parametrize("label", [-1, 3, 400, IGNORED])
def test_a_class_label_out_of_range_is_named(label):
    with pytest.raises(DataError, match=f"label {label}: labels are classes, 0 to 2"):
        sample_losses(torch.zeros(2, 3), torch.zeros(2), torch.tensor([0, label]))


def test_a_token_out_of_the_vocabulary_is_named():
    ids = torch.tensor([[1, 2, 7]])
    with pytest.raises(DataError, match="label 7: labels are tokens of the vocabulary, 0 to 6"):
        sample_losses(torch.zeros(1, 3, 7), {"input_ids": ids}, None)


@pytest.mark.parametrize("shape", [(3,), (2, 2), (2, 1)])
def test_integer_labels_of_another_shape_are_refused(shape):
    with pytest.raises(DataError, match="integer labels"):
        sample_losses(torch.zeros(2, 5), torch.zeros(2, 5), torch.zeros(shape).long())


def test_floating_labels_of_another_shape_are_refused():
    with pytest.raises(DataError, match=r"floating labels \(2,\) and outputs \(2, 1\)"):
        sample_losses(torch.zeros(2, 1), torch.zeros(2), torch.zeros(2))


def test_labels_that_are_no_tensor_are_refused():
    with pytest.raises(DataError, match="labels of type list"):
        sample_losses(torch.zeros(2, 3), torch.zeros(2), [0, 1])


def test_a_single_token_has_nothing_to_predict():
    with pytest.raises(DataError, match="no position counts"):
        sample_losses(torch.zeros(2, 1, 7), {"input_ids": torch.zeros(2, 1).long()}, None)


@pytest.mark.parametrize(
    "outputs",
    [torch.ones(2), (torch.ones(2), 3), {"logits": torch.ones(2)}, SimpleNamespace(logits=torch.ones(2)),
     {"loss": None, "sample": torch.ones(2)}],
)  # fmt: skip
def test_logits_are_found_wherever_they_are(outputs):
    assert torch.equal(logits_of(outputs), torch.ones(2))


@pytest.mark.parametrize("outputs", [None, 3.0, (), {}, SimpleNamespace()])
def test_no_logits_are_none(outputs):
    assert logits_of(outputs) is None


def test_networks_say_whether_they_are_causal(llama, bert):
    assert is_causal(llama) is True
    assert is_causal(bert) is False
    assert is_causal(nn.Linear(1, 1)) is None
