import numpy as np
import pytest
import torch

from shoal.data import load_data
from shoal.errors import ConfigError


class Letters:
    def __call__(self, text, *, add_special_tokens, verbose):
        return {"input_ids": [ord(letter) for letter in text]}


def same(first, second):
    return torch.equal(first.batches[0][0], second.batches[0][0])


def test_the_digits_are_held_out_where_no_part_is_named():
    assert same(load_data("digits"), load_data("digits:validation"))
    assert load_data("digits").source == "digits:validation"
    assert not same(load_data("digits"), load_data("digits:test"))


def test_the_topics_are_for_calibration_where_no_part_is_named():
    data = load_data("topics", tokenizer=Letters(), num_samples=3, seq_len=16)
    assert data.source == "topics:calibration"
    assert data.batches[0]["input_ids"].shape == (3, 16)


@pytest.mark.parametrize(("reference", "near"), [("digits:tests", "test"), ("topics:tset", "test")])
def test_an_unknown_part_gets_the_nearest_name(reference, near):
    with pytest.raises(ConfigError, match=f"its parts are .*; the nearest is '{near}'"):
        load_data(reference)


def test_files_are_read_by_their_suffix(tmp_path):
    (tmp_path / "story.txt").write_text("abcd")
    (tmp_path / "story.jsonl").write_text('{"input_ids": [1, 2]}')
    np.savez(tmp_path / "tokens.npz", input_ids=np.ones((2, 2), dtype=int))
    for name in ("story.txt", "story.jsonl"):
        assert load_data(str(tmp_path / name), tokenizer=Letters(), seq_len=2).kind == "text"
    assert load_data(str(tmp_path / "tokens.npz")).samples == 2


def test_a_folder_is_read_as_images(tmp_path):
    image = pytest.importorskip("PIL.Image", reason="image files are read with Pillow")
    (tmp_path / "a").mkdir()
    image.new("RGB", (2, 2)).save(tmp_path / "a" / "a.png")
    assert load_data(str(tmp_path)).kind == "image"


def test_a_function_in_a_file_is_called(tmp_path):
    (tmp_path / "mine.py").write_text("import torch\ndef batches():\n    return [torch.zeros(2, 3)]\n")
    data = load_data(f"{tmp_path}/mine.py:batches")
    assert (data.kind, data.labels) == ("custom", False)


@pytest.mark.parametrize("name", ["story.txt", "story.jsonl", "story.npz"])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(ConfigError, match=f"there is no file .*{name}"):
        load_data(str(tmp_path / name))


@pytest.mark.parametrize("reference", ["", "cifar", "hf:", "digit"])
def test_an_unknown_form_gets_the_list_of_forms(reference):
    reference = reference or "./nothing"
    with pytest.raises(
        ConfigError, match=r"no such file, folder or data set. Forms that work: digits, .*FILE.py"
    ):
        load_data(reference)


def test_a_file_of_an_unknown_kind_gets_the_list_of_forms(tmp_path):
    (tmp_path / "data.csv").write_text("1,2")
    with pytest.raises(ConfigError, match=r"files of the kind '.csv' cannot be read. Forms that work"):
        load_data(str(tmp_path / "data.csv"))


def test_an_unknown_setting_is_refused():
    with pytest.raises(ConfigError, match="the nearest is 'num_samples'"):
        load_data("digits", numsamples=3)


def test_a_setting_for_text_is_refused_for_images():
    with pytest.raises(ConfigError, match="seq_len=64"):
        load_data("digits", seq_len=64)
