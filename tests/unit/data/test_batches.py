import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shoal.data.batches import Data, TensorBatches, check_enough, choose, digest
from shoal.errors import DataError


@given(samples=st.integers(1, 20), size=st.integers(1, 25))
def test_batches_hold_every_sample_once_and_in_order(samples, size):
    batches = TensorBatches(torch.arange(samples), None, batch_size=size)
    assert torch.equal(torch.cat(list(batches)), torch.arange(samples))
    assert len(batches) == len(list(batches))
    assert all(len(batch) == size for batch in batches[:-1])


def test_batches_can_be_gone_through_again():
    batches = TensorBatches(torch.arange(5), torch.arange(5), batch_size=2)
    first, second = list(batches), list(batches)
    assert all(
        torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(first, second, strict=True)
    )


def test_dicts_are_cut_entry_by_entry():
    batches = TensorBatches({"a": torch.arange(3), "b": torch.arange(3) * 2}, None, batch_size=2)
    assert batches[1]["b"].tolist() == [4]


def test_batches_are_indexed_like_a_list():
    batches = TensorBatches(torch.arange(5), None, batch_size=2)
    assert batches[-1].tolist() == [4]
    assert [batch.tolist() for batch in batches[:2]] == [[0, 1], [2, 3]]
    with pytest.raises(IndexError):
        batches[3]


@given(total=st.integers(1, 50), data=st.data())
def test_chosen_samples_are_distinct_and_of_the_number_asked_for(total, data):
    count = data.draw(st.integers(1, total))
    chosen = choose(total, count, 0, "numbers").tolist()
    assert len(set(chosen)) == len(chosen) == count
    assert set(chosen) <= set(range(total))


def test_the_choice_depends_on_the_seed_alone():
    assert choose(50, 9, 1, "").tolist() == choose(50, 9, 1, "").tolist() != choose(50, 9, 2, "").tolist()


def test_fewer_samples_are_the_first_of_more():
    assert choose(50, 9, 1, "").tolist() == choose(50, None, 1, "")[:9].tolist()


def test_no_samples_are_refused():
    with pytest.raises(DataError, match="asked to use nothing.npz: it holds no samples"):
        check_enough(0, None, "nothing.npz")


def test_more_samples_than_there_are_are_refused():
    with pytest.raises(
        DataError, match=r"asked for 1,001 samples of few: it has 1,000. Ask for 1,000 or fewer"
    ):
        choose(1000, 1001, 0, "few")


def test_a_digest_tells_parts_apart():
    assert digest("ab", "c") != digest("a", "bc")
    assert digest("ab") == digest(b"ab")
    assert len(digest()) == 16


def test_the_description_says_what_was_used():
    data = Data(
        batches=[1, 2], kind="custom", source="mine", samples=1500, sha256="00ff", labels=False, example=None
    )
    assert data.description == "mine: 1,500 samples, 2 batches, sha256 00ff"


def test_the_description_leaves_out_an_unknown_number_of_samples():
    data = Data(
        batches=[1], kind="custom", source="mine", samples=None, sha256="00ff", labels=False, example=None
    )
    assert data.description == "mine: 1 batches, sha256 00ff"


def test_labels_of_dicts_are_an_entry_of_theirs():
    batches = TensorBatches({"a": torch.arange(3)}, torch.arange(3) * 2, batch_size=2)
    assert {name: tensor.tolist() for name, tensor in batches[1].items()} == {"a": [2], "labels": [4]}
