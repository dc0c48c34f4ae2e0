import json
import sys

import pytest
import torch

from shoal.data.hub import data_from_hub
from shoal.data.settings import DataSettings
from shoal.errors import ConfigError, DataError, MissingExtraError

WITHOUT = "data sets of the hub are read with the extra `hf`"


class Letters:
    def __call__(self, text, *, add_special_tokens, verbose):
        return {"input_ids": [ord(letter) for letter in text]}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason=WITHOUT)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


@pytest.fixture
def stories(folder):
    for split, text in (("train", "aaaa"), ("validation", "bbbb"), ("test", "cccc")):
        record = {"number": 3, "text": text, "title": text[0].upper() * 2, "input_ids": [7, 8, 9]}
        (folder / f"{split}.jsonl").write_text(json.dumps(record) + "\n")
    return folder


@pytest.fixture
def pictures(folder):
    image = pytest.importorskip("PIL.Image", reason="image files are read with Pillow")
    for name, shade in (("cat", 0), ("dog", 255)):
        for number in range(2):
            path = folder / "validation" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.new("RGB", (4, 4), (shade, shade, shade)).save(path)
    return folder


def load(reference, tokenizer=None, **settings):
    return data_from_hub(f"hf:{reference}", DataSettings(**settings), tokenizer)


def test_token_ids_are_taken_before_text_and_held_out_data_first(stories):
    data = load(stories, seq_len=3)
    assert data.source == f"hf:{stories}:validation:input_ids"
    assert data.batches[0]["input_ids"].tolist() == [[7, 8, 9]]


def test_a_split_and_a_column_can_be_named(stories):
    data = load(f"{stories}:test:text", Letters(), seq_len=2)
    assert data.batches[0]["input_ids"].tolist() == [[99, 99], [99, 99]]
    assert load(f"{stories}:test:title", Letters(), seq_len=2).batches[0]["input_ids"].tolist() == [[67, 67]]


def test_images_come_with_the_numbers_of_their_classes(pictures):
    data = load(pictures, batch_size=4)
    images, labels = data.batches[0]
    assert images.shape == (4, 3, 4, 4)
    assert torch.equal(images[:, 0, 0, 0].long(), labels)
    assert (data.kind, data.samples, data.labels) == ("image", 4, True)


def test_an_unknown_split_is_refused(stories):
    with pytest.raises(ConfigError, match="it cannot be loaded .*Forms that work: hf:NAME"):
        load(f"{stories}:dev")


def test_a_data_set_that_does_not_exist_is_refused(folder):
    with pytest.raises(ConfigError, match="hf:nobody/nothing: it cannot be loaded"):
        load("nobody/nothing")


def test_a_column_that_cannot_be_used_is_refused_with_those_that_can(stories):
    with pytest.raises(
        ConfigError, match=r"columns that can be used are text \(text\), title \(text\), input_ids"
    ):
        load(f"{stories}:test:number")


def test_a_data_set_without_usable_columns_is_refused(folder):
    (folder / "train.jsonl").write_text('{"number": 3}\n')
    with pytest.raises(DataError, match="none of its columns number is an image"):
        load(folder)


def test_settings_of_another_kind_are_refused(pictures):
    with pytest.raises(ConfigError, match="seq_len=3 with the images"):
        load(pictures, seq_len=3)


def test_hidden_labels_are_refused():
    datasets = pytest.importorskip("datasets", reason=WITHOUT)
    from shoal.data.hub import _labels

    dataset = datasets.Dataset.from_dict({"label": [0, -1]})
    with pytest.raises(DataError, match="some labels in its column label are -1"):
        _labels(dataset, "label", [0, 1], "hf:mine")


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"datasets is needed .* 'shoal\[hf\]'"):
        data_from_hub("hf:mine", DataSettings(), None)
