import pytest
import torch

from shoal.activations import rows_of
from shoal.activations.rows import draw_of

IDS = torch.arange(12).reshape(3, 4)
# Padded behind, padded before, not padded.
MASK = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1], [1, 1, 1, 1]])


def test_padding_is_left_out():
    rows = rows_of({"input_ids": IDS, "attention_mask": MASK})
    hidden = IDS[:, :, None].float()
    assert rows.tokens(hidden).flatten().tolist() == [0, 1, 5, 6, 7, 8, 9, 10, 11]


def test_the_last_real_token_of_each_sample_is_known():
    rows = rows_of({"input_ids": IDS, "attention_mask": MASK})
    assert rows.tokens(IDS[:, :, None].float())[rows.last].flatten().tolist() == [1, 7, 11]


@pytest.mark.parametrize("inputs", [IDS, {"input_ids": IDS}, {"input_ids": IDS, "attention_mask": None}])
def test_without_a_mask_every_token_is_real(inputs):
    rows = rows_of(inputs)
    assert rows.real.all()
    assert rows.last.tolist() == [3, 7, 11]


@pytest.mark.parametrize("dtype", [torch.bool, torch.long, torch.float32])
def test_a_mask_may_be_of_any_dtype(dtype):
    rows = rows_of({"input_ids": IDS, "attention_mask": MASK.to(dtype)})
    assert torch.equal(rows.real, MASK.bool())


def test_a_mask_of_attention_itself_says_nothing_of_padding():
    assert rows_of({"input_ids": IDS, "attention_mask": torch.ones(3, 1, 4, 4)}).real.all()


@pytest.mark.parametrize(
    "inputs",
    [
        torch.zeros(2, 3, 8, 8),
        torch.zeros(2, 3),
        torch.arange(3),
        (IDS,),
        {"pixel_values": torch.zeros(1)},
        {"input_ids": IDS.float()},
        None,
    ],
)
def test_anything_but_text_has_no_rows(inputs):
    assert rows_of(inputs) is None


def test_the_tokens_are_taken_out_of_the_graph():
    hidden = torch.randn(3, 4, 2, requires_grad=True)
    assert not rows_of(IDS).tokens(hidden).requires_grad


@pytest.mark.parametrize("count", [0, 1, 4, 6, 100])
def test_drawn_tokens_are_real_and_no_sample_s_first(count):
    rows = rows_of({"input_ids": IDS, "attention_mask": MASK})
    drawn = rows.drawn(count, torch.Generator().manual_seed(0))
    # Numbers among the real tokens, of which 0, 2 and 5 begin a text.
    assert set(drawn.tolist()) <= {1, 3, 4, 6, 7, 8}
    assert len(drawn) == len(set(drawn.tolist())) == min(count, 6)
    assert drawn.tolist() == sorted(drawn.tolist())


def test_the_same_generator_draws_the_same():
    rows = rows_of(IDS)
    first, second = (rows.drawn(4, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("seed", [0, 1, -1, 2**63, 2**80])
def test_a_batch_s_draw_is_decided_by_seed_and_number_alone(seed):
    drawn = [torch.rand(4, generator=draw_of(seed, number)).tolist() for number in (0, 1, 0, 2**40)]
    assert drawn[0] == drawn[2]
    assert len({tuple(each) for each in drawn}) == 3
    assert drawn[0] != torch.rand(4, generator=draw_of(seed + 1, 0)).tolist()
