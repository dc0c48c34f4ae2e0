import json
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shoal.data.settings import DataSettings
from shoal.data.text import data_from_jsonl, data_from_text, tokenise, windows
from shoal.errors import ConfigError, DataError


class Letters:
    """A tokenizer whose tokens are the letters' code points."""

    def __init__(self, eos_token_id=None):
        self.eos_token_id = eos_token_id

    def __call__(self, text, *, add_special_tokens, verbose):
        assert not add_special_tokens
        return {"input_ids": [ord(letter) for letter in text]}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "story.txt"


@given(total=st.integers(1, 60), length=st.integers(1, 12), data=st.data())
def test_windows_are_consecutive_and_never_overlap(total, length, data):
    available = total // length
    if available == 0:
        return
    count = data.draw(st.integers(1, available))
    rows = windows(range(total), DataSettings(seq_len=length, num_samples=count), "").tolist()
    assert len(rows) == count
    assert all(row == list(range(row[0], row[0] + length)) for row in rows)
    assert all(row[0] % length == 0 for row in rows)
    assert all(before[-1] < after[0] for before, after in pairwise(rows))


def test_all_windows_are_used_where_no_number_is_asked_for():
    assert windows(range(7), DataSettings(seq_len=2), "").tolist() == [[0, 1], [2, 3], [4, 5]]


def test_a_text_shorter_than_a_window_is_refused(path):
    path.write_text("Once")
    with pytest.raises(
        DataError, match=r"windows of 512 tokens .* it has 4 tokens. Use a seq_len of 4 or less"
    ):
        data_from_text(path, DataSettings(), Letters())


def test_an_empty_text_is_refused(path):
    path.write_text("")
    with pytest.raises(DataError, match="has 0 tokens. Give a text that is not empty"):
        data_from_text(path, DataSettings(), Letters())


def test_more_windows_than_there_are_are_refused(path):
    path.write_text("Once upon a time")
    with pytest.raises(DataError, match="in windows of 8 tokens: it has 2. Ask for 2 or fewer"):
        data_from_text(path, DataSettings(seq_len=8, num_samples=3), Letters())


def test_text_without_a_tokenizer_is_refused(path):
    path.write_text("Once upon a time")
    with pytest.raises(ConfigError, match="text needs the model's tokenizer"):
        data_from_text(path, DataSettings(), None)


def test_a_file_that_is_no_text_is_refused(path):
    path.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(DataError, match="it is not UTF-8"):
        data_from_text(path, DataSettings(), Letters())


def test_image_settings_are_refused(path):
    path.write_text("Once upon a time")
    with pytest.raises(ConfigError, match="size=32 with the text"):
        data_from_text(path, DataSettings(size=32, seq_len=4), Letters())


def test_batches_hold_token_ids_and_a_mask_without_padding(path):
    path.write_text("abcdefghij<|endoftext|>")
    data = data_from_text(path, DataSettings(seq_len=5, batch_size=3), Letters())
    first = data.batches[0]
    assert first["input_ids"].tolist() == [[*map(ord, "abcde")], [*map(ord, "fghij")], [*map(ord, "<|end")]]
    assert torch.equal(first["attention_mask"], torch.ones(3, 5, dtype=torch.int64))
    assert (data.kind, data.samples, data.labels, len(data.batches)) == ("text", 4, False, 2)


def test_the_example_is_short(path):
    path.write_text("a" * 2000)
    data = data_from_text(path, DataSettings(seq_len=1000), Letters())
    assert data.example["input_ids"].shape == data.example["attention_mask"].shape == (1, 128)


def test_the_hash_follows_the_text(path):
    path.write_text("abcd")
    first = data_from_text(path, DataSettings(seq_len=4), Letters()).sha256
    path.write_text("abce")
    assert first != data_from_text(path, DataSettings(seq_len=4), Letters()).sha256


@pytest.mark.parametrize(("eos", "tokens"), [(None, [97, 98]), (0, [97, 0, 98])])
def test_the_end_of_a_text_is_marked_where_the_tokenizer_can(eos, tokens):
    assert tokenise(["a", "b"], Letters(eos), "") == tokens


def test_lines_of_json_with_text_are_joined(path):
    path.write_text("\n".join(json.dumps({"text": text}) for text in ("ab\u2028", "cd")) + "\n\n")
    data = data_from_jsonl(path, DataSettings(seq_len=3), Letters(eos_token_id=0))
    assert data.batches[0]["input_ids"].tolist() == [[97, 98, 0x2028], [0, 99, 100]]


def test_lines_of_json_with_token_ids_need_no_tokenizer(path):
    path.write_text('{"input_ids": [1, 2, 3]}\n{"input_ids": [4]}\n')
    data = data_from_jsonl(path, DataSettings(seq_len=2), None)
    assert data.batches[0]["input_ids"].tolist() == [[1, 2], [3, 4]]


def test_an_empty_file_of_json_lines_is_refused(path):
    path.write_text("")
    with pytest.raises(DataError, match="it has 0 tokens"):
        data_from_jsonl(path, DataSettings(), None)


def test_a_line_that_is_no_json_is_refused(path):
    path.write_text('{"text": "a"}\n{"text": \n')
    with pytest.raises(DataError, match="line 2 is not JSON"):
        data_from_jsonl(path, DataSettings(), Letters())


@pytest.mark.parametrize(
    "line", ['{"story": "a"}', "[1, 2]", '{"input_ids": [1, -1]}', '{"input_ids": [true]}']
)
def test_a_line_without_text_or_tokens_is_refused(path, line):
    path.write_text(line)
    with pytest.raises(DataError, match="line 1 has neither a text nor a list of token ids"):
        data_from_jsonl(path, DataSettings(), Letters())


def test_lines_of_both_forms_are_refused(path):
    path.write_text('{"text": "a"}\n{"input_ids": [4]}\n')
    with pytest.raises(DataError, match="some of its lines have text and some input_ids"):
        data_from_jsonl(path, DataSettings(), Letters())
