import pytest
import torch

from shoal.data import ReshuffledBatches, load_data, reshuffled
from shoal.data.batches import Data
from shoal.errors import ConfigError, DataError


def pairs(count=10, size=4):
    images = torch.arange(count, dtype=torch.float32)[:, None, None, None].expand(count, 1, 8, 8)
    labels = torch.arange(count)
    return [(images[i : i + size], labels[i : i + size]) for i in range(0, count, size)]


def test_every_sample_comes_once_with_its_own_label():
    rows = ReshuffledBatches(pairs())
    found = [
        (float(image.mean()), int(label))
        for images, labels in rows
        for image, label in zip(images, labels, strict=True)
    ]
    assert sorted(found) == [(float(n), n) for n in range(10)]
    assert [len(labels) for _, labels in rows] == [4, 4, 2]
    assert len(rows) == 3


def test_the_order_is_another_each_time_and_follows_the_random_state():
    rows = ReshuffledBatches(pairs())
    torch.manual_seed(0)
    first, second = ([labels.tolist() for _, labels in rows] for _ in range(2))
    torch.manual_seed(0)
    assert [labels.tolist() for _, labels in rows] == first != second


def test_dicts_of_tensors_and_bare_tensors_work():
    tokens = [{"input_ids": torch.arange(6).reshape(3, 2), "attention_mask": torch.ones(3, 2)}]
    (batch,) = ReshuffledBatches(tokens)
    assert sorted(batch["input_ids"][:, 0].tolist()) == [0, 2, 4]
    (images,) = ReshuffledBatches([torch.arange(3.0)])
    assert sorted(images.tolist()) == [0, 1, 2]


def test_augmented_images_are_shifted_and_mirrored_pieces_of_themselves():
    torch.manual_seed(0)
    image = torch.arange(1.0, 65).reshape(1, 1, 8, 8)
    rows = ReshuffledBatches([(image.repeat(64, 1, 1, 1), torch.arange(64))], augment=True)
    ((images, labels),) = rows
    assert images.shape == (64, 1, 8, 8)
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1))[0, 0]
    possible = [padded[r : r + 8, c : c + 8] for r in range(3) for c in range(3)]
    possible += [each.flip(1) for each in possible]
    hits = [sum(torch.equal(each[0], way) for way in possible) for each in images]
    assert hits == [1] * 64
    assert len({each.sum().item() for each in images}) > 3
    assert any(each[0, 4, 2] > each[0, 4, 5] for each in images), "some are mirrored"
    assert sorted(labels.tolist()) == list(range(64))


def test_data_of_a_function_is_left_as_it_is():
    batches = pairs()
    data = Data(
        batches=batches,
        kind="custom",
        source="f",
        samples=10,
        sha256="",
        labels=True,
        example=batches[0][0][:1],
    )
    assert reshuffled(data) is batches


def test_only_images_are_augmented():
    data = load_data("digits:train", num_samples=64)
    assert len(reshuffled(data, augment=True)) == len(data.batches)
    batches = pairs()
    custom = Data(
        batches=batches,
        kind="custom",
        source="f",
        samples=10,
        sha256="",
        labels=True,
        example=batches[0][0][:1],
    )
    with pytest.raises(ConfigError, match="asked to augment f: only images"):
        reshuffled(custom, augment=True)


def test_what_cannot_be_put_together_is_refused():
    with pytest.raises(DataError, match="found none: the data is empty"):
        ReshuffledBatches([])
    with pytest.raises(DataError, match=r"batch 0 .* shapes \[\(3,\)\], those of batch 1 \[\(4,\)\]"):
        ReshuffledBatches([torch.zeros(2, 3), torch.zeros(2, 4)])
