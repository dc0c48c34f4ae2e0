import numpy as np
import pytest
import torch

from shoal.data.arrays import data_from_arrays
from shoal.data.reshuffled import reshuffled
from shoal.data.settings import DataSettings
from shoal.errors import ConfigError, DataError
from shoal.measurement import evaluate_quality

BYTES = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
TOKENS = np.arange(12).reshape(4, 3)


@pytest.fixture
def write(tmp_path):
    def write(**arrays):
        np.savez(tmp_path / "data.npz", **arrays)
        return tmp_path / "data.npz"

    return write


def test_bytes_become_channels_first_between_zero_and_one(write):
    images, labels = data_from_arrays(write(images=BYTES, labels=np.array([5, 6])), DataSettings()).batches[0]
    order = labels.numpy() - 5
    expected = torch.from_numpy(BYTES[order]).permute(0, 3, 1, 2) / 255
    assert torch.equal(images, expected)


def test_grey_bytes_get_a_channel(write):
    assert data_from_arrays(write(images=BYTES[..., 0]), DataSettings()).example.shape == (1, 1, 3, 4)


def test_floats_are_used_as_they_are(write):
    array = np.full((1, 2, 3, 3), -7.5)
    example = data_from_arrays(write(images=array), DataSettings()).example
    assert example.dtype == torch.float32
    assert torch.equal(example, torch.full((1, 2, 3, 3), -7.5))


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 3, 8, 8), dtype=np.uint8),
        np.zeros((2, 8), dtype=np.uint8),
        np.zeros((2, 8, 8, 3), dtype=np.int64),
        np.zeros((2, 8, 8)),
    ],
    ids=["channels first", "flat", "integers", "no channels"],
)
def test_other_images_are_refused_with_what_works(write, images):
    with pytest.raises(DataError, match=r"its images are .*\. Arrays that work: images \(N, H, W, C\) uint8"):
        data_from_arrays(write(images=images), DataSettings())


def test_images_that_are_not_finite_are_refused(write):
    array = np.zeros((1, 1, 2, 2))
    array[0, 0, 0, 0] = np.nan
    with pytest.raises(DataError, match="with numbers that are not finite: 1 of 4. Repair them"):
        data_from_arrays(write(images=array), DataSettings())


def test_no_images_are_refused(write):
    with pytest.raises(DataError, match="it holds no samples"):
        data_from_arrays(write(images=BYTES[:0], labels=np.zeros(0, dtype=int)), DataSettings())


@pytest.mark.parametrize("labels", [np.zeros(3, dtype=int), np.zeros((2, 2), dtype=int), np.zeros(2)])
def test_labels_of_another_shape_or_type_are_refused(write, labels):
    with pytest.raises(DataError, match="its labels are .* for 2 images"):
        data_from_arrays(write(images=BYTES, labels=labels), DataSettings())


def test_negative_labels_are_refused(write):
    with pytest.raises(DataError, match="the smallest is -1. Number the classes from 0"):
        data_from_arrays(write(images=BYTES, labels=np.array([0, -1])), DataSettings())


def test_other_arrays_are_refused_by_name(write):
    with pytest.raises(DataError, match="it holds x, y. Arrays that work"):
        data_from_arrays(write(x=BYTES, y=BYTES), DataSettings())


def test_a_file_that_is_no_archive_is_refused(tmp_path):
    path = tmp_path / "data.npz"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match="cannot be read as .npz"):
        data_from_arrays(path, DataSettings())


def test_a_truncated_archive_is_refused(write):
    path = write(images=BYTES)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match="cannot be read as .npz"):
        data_from_arrays(path, DataSettings())


def test_a_bare_array_is_refused(tmp_path):
    with (tmp_path / "data.npz").open("wb") as file:
        np.save(file, BYTES)
    with pytest.raises(DataError, match="cannot be read as .npz"):
        data_from_arrays(tmp_path / "data.npz", DataSettings())


def test_pickled_objects_are_never_loaded(write):
    with pytest.raises(DataError, match="cannot be read as .npz"):
        data_from_arrays(write(images=np.array([{}], dtype=object)), DataSettings())


def test_rows_of_token_ids_are_samples(write):
    data = data_from_arrays(write(input_ids=TOKENS), DataSettings(num_samples=2, batch_size=2))
    batch = data.batches[0]
    assert batch["input_ids"].tolist() == [[0, 1, 2], [6, 7, 8]]
    assert batch["attention_mask"].min() == 1
    assert (data.kind, data.samples) == ("text", 2)


def test_padding_is_kept(write):
    mask = np.ones_like(TOKENS)
    mask[:, -1] = 0
    batch = data_from_arrays(write(input_ids=TOKENS, attention_mask=mask), DataSettings()).batches[0]
    assert batch["attention_mask"].tolist() == mask.tolist()


@pytest.mark.parametrize(
    "tokens", [TOKENS.astype(float), TOKENS[0], -TOKENS], ids=["float", "flat", "negative"]
)
def test_other_token_ids_are_refused(write, tokens):
    with pytest.raises(DataError, match="its input_ids are"):
        data_from_arrays(write(input_ids=tokens), DataSettings())


@pytest.mark.parametrize("mask", [np.ones((4, 2)), TOKENS], ids=["shape", "values"])
def test_a_mask_that_does_not_fit_is_refused(write, mask):
    with pytest.raises(DataError, match=r"its attention_mask .* does not fit input_ids \(4, 3\)"):
        data_from_arrays(write(input_ids=TOKENS, attention_mask=mask), DataSettings())


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_no_token_ids_are_refused(write, shape):
    with pytest.raises(DataError, match="it holds no samples"):
        data_from_arrays(write(input_ids=np.zeros(shape, dtype=int)), DataSettings())


def test_windows_of_another_length_are_refused(write):
    with pytest.raises(ConfigError, match="windows of 2 tokens .* its rows hold 3"):
        data_from_arrays(write(input_ids=TOKENS), DataSettings(seq_len=2))


@pytest.mark.parametrize(
    "labels", [np.array([3, 0, 1, 2]), np.where(TOKENS % 2, TOKENS, -100)], ids=["rows", "tokens"]
)
def test_labels_stand_beside_the_token_ids_of_their_rows(write, labels):
    data = data_from_arrays(write(input_ids=TOKENS, labels=labels), DataSettings(num_samples=2))
    (batch,) = data.batches
    assert list(batch) == ["input_ids", "attention_mask", "labels"]
    assert batch["input_ids"].tolist() == TOKENS[[0, 2]].tolist()
    assert batch["labels"].tolist() == labels[[0, 2]].tolist()
    assert batch["labels"].dtype == torch.int64
    assert (data.labels, list(data.example)) == (True, ["input_ids", "attention_mask"])


def test_labels_are_part_of_the_hash(write):
    hashes = {
        data_from_arrays(write(input_ids=TOKENS, **labels), DataSettings()).sha256
        for labels in ({}, {"labels": np.zeros(4, dtype=int)}, {"labels": np.ones(4, dtype=int)})
    }
    assert len(hashes) == 3


@pytest.mark.parametrize("labels", [np.zeros(3, dtype=int), np.zeros((4, 2), dtype=int), np.zeros(4)])
def test_labels_of_token_ids_of_another_shape_or_type_are_refused(write, labels):
    with pytest.raises(DataError, match=r"its labels are .* for input_ids \(4, 3\). Arrays that work"):
        data_from_arrays(write(input_ids=TOKENS, labels=labels), DataSettings())


@pytest.mark.parametrize("labels", [np.array([0, 1, -100, 0]), TOKENS - 1], ids=["rows", "tokens"])
def test_negative_labels_of_token_ids_are_refused(write, labels):
    with pytest.raises(
        DataError, match=r"and one is -1(00)?. Number the classes from 0; -100, for what does"
    ):
        data_from_arrays(write(input_ids=TOKENS, labels=labels), DataSettings())


def test_labelled_rows_train_and_measure_a_classifier_of_sequences(write):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=12, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    model = transformers.BertForSequenceClassification(config)
    data = data_from_arrays(write(input_ids=TOKENS, labels=np.array([0, 1, 1, 0])), DataSettings())
    quality = evaluate_quality(model, reshuffled(data))
    assert quality["samples"] == 4
    assert quality["accuracy"] in (0, 0.25, 0.5, 0.75, 1)
