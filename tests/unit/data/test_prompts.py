import json
import re

import numpy as np
import pytest

from shoal.data.prompts import read_prompts
from shoal.errors import ConfigError, DataError


class Words:
    """A tokenizer that cuts before every space, as those of language models do; ids are as words come."""

    bos_token_id: int | None = 0
    eos_token_id: int | None = 1

    def __init__(self):
        self.words = ["<s>", "</s>"]

    def __call__(self, text, *, add_special_tokens, verbose):
        ids = []
        for word in re.findall(r"\s?[^\s]+|\s", text):
            if word not in self.words:
                self.words.append(word)
            ids.append(self.words.index(word))
        return {"input_ids": [0, *ids] if add_special_tokens and self.bos_token_id == 0 else ids}

    def decode(self, token_ids, *, skip_special_tokens):
        return "".join(self.words[token] for token in token_ids if token > 1)


def spoken(tokenizer, ids):
    return [tokenizer.words[token] for token in ids]


def written(path, *records):
    path.write_text("\n".join(map(json.dumps, records)))
    return str(path)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "asked.jsonl"


@pytest.mark.parametrize(
    ("prompt", "answer", "expected"),
    [
        ("The capital is", "Paris", [" Paris"]),
        ("The capital is ", "Paris", [" Paris"]),
        ("The capital is", " Paris ", [" Paris"]),
        ("The capital is\n", "Paris", ["Paris"]),
        ("The capital is", "New York", [" New", " York"]),
    ],
)
def test_prompt_and_answer_are_joined_by_one_space(path, prompt, answer, expected):
    tokenizer = Words()
    prompts = read_prompts(written(path, {"prompt": prompt, "answer": answer}), tokenizer=tokenizer)
    ids, answers = prompts.prompts[0], prompts.answers["answer"][0]
    assert spoken(tokenizer, ids)[:4] == ["<s>", "The", " capital", " is"]
    assert spoken(tokenizer, answers) == expected
    assert prompts.decode(answers).split() == answer.split()


def test_a_prompt_begins_as_the_tokenizer_begins_texts(path):
    reference = written(path, {"prompt": "A is", "answer": "B"}, {"prompt": "<s> is", "answer": "B"})
    begun = Words()
    assert [ids.count(0) for ids in read_prompts(reference, tokenizer=begun).prompts] == [1, 1]
    plain = Words()
    plain.bos_token_id = None
    assert spoken(plain, read_prompts(reference, tokenizer=plain).prompts[0]) == ["A", " is"]


def test_texts_end_with_the_end_of_text(path):
    tokenizer = Words()
    decode = read_prompts(written(path, {"prompt": "A is", "answer": "B"}), tokenizer=tokenizer).decode
    is_, b = tokenizer.words.index(" is"), tokenizer.words.index(" B")
    assert decode((b, 1, is_)) == " B"
    assert decode((b, is_)) == " B is"


def test_token_ids_need_no_tokenizer(path):
    reference = written(
        path, {"prompt_ids": [1, 2], "answer_ids": [3]}, {"prompt_ids": [4], "answer_ids": [5, 6]}
    )
    prompts = read_prompts(reference)
    assert prompts.prompts == ((1, 2), (4,))
    assert prompts.answers == {"answer": ((3,), (5, 6))}
    assert prompts.decode is None
    assert prompts.description == f"{path}: 2 prompts, sha256 {prompts.sha256}"
    assert read_prompts(reference, num_samples=1).prompts == ((1, 2),)
    assert read_prompts(reference, num_samples=1).sha256 != prompts.sha256


@pytest.mark.parametrize("name", ["story.txt", "story.md", "story"])
def test_any_text_is_cut_into_contexts_and_continuations(tmp_path, name):
    (tmp_path / name).write_text("one two three four five six seven")
    tokenizer = Words()
    prompts = read_prompts(str(tmp_path / name), tokenizer=tokenizer, context=2, continuation=1)
    assert [spoken(tokenizer, ids) for ids in prompts.prompts] == [["one", " two"], [" four", " five"]]
    assert [spoken(tokenizer, ids) for ids in prompts.answers["continuation"]] == [[" three"], [" six"]]
    assert prompts.decode is None
    assert f"{name} (2 + 1 tokens): 2 prompts" in prompts.description


def test_lines_of_text_are_a_text(path):
    tokenizer = Words()
    reference = written(path, {"text": "one two three"}, {"text": "four"})
    prompts = read_prompts(reference, tokenizer=tokenizer, context=3, continuation=1)
    assert spoken(tokenizer, prompts.answers["continuation"][0]) == ["</s>"]


@pytest.mark.parametrize("form", ["jsonl", "npz"])
def test_windows_of_token_ids_need_no_tokenizer(tmp_path, form):
    path = tmp_path / f"ids.{form}"
    rows = np.arange(20).reshape(2, 10)
    if form == "npz":
        np.savez(path, input_ids=rows)
    else:
        written(path, {"input_ids": rows.flatten().tolist()})
    prompts = read_prompts(str(path), context=7, continuation=3)
    assert prompts.prompts == (tuple(range(7)), tuple(range(10, 17)))
    assert prompts.answers["continuation"] == ((7, 8, 9), (17, 18, 19))


@pytest.mark.parametrize(("asked", "starts"), [(None, 256), (1, 1), (3, 3), (500, 500)])
def test_windows_lie_evenly_over_the_text(path, asked, starts):
    prompts = read_prompts(
        written(path, {"input_ids": list(range(1000))}), context=1, continuation=1, num_samples=asked
    )
    firsts = [ids[0] for ids in prompts.prompts]
    assert len(firsts) == starts
    assert firsts == [2 * (number * 500 // starts) for number in range(starts)]


def test_a_window_is_72_tokens_where_nothing_else_is_asked_for(path):
    prompts = read_prompts(written(path, {"input_ids": list(range(150))}))
    assert [len(ids) for ids in prompts.prompts] == [64, 64]
    assert [len(ids) for ids in prompts.answers["continuation"]] == [8, 8]


@pytest.mark.parametrize("name", ["context", "continuation", "num_samples"])
def test_a_number_below_1_is_refused(path, name):
    with pytest.raises(ConfigError, match=f"{name}=0 of .*at least 1"):
        read_prompts(written(path, {"prompt_ids": [1], "answer_ids": [2]}), **{name: 0})


@pytest.mark.parametrize("name", ["context", "continuation"])
def test_answers_are_not_cut_into_windows(path, name):
    with pytest.raises(ConfigError, match="its lines are prompts with answers"):
        read_prompts(written(path, {"prompt_ids": [1], "answer_ids": [2]}), **{name: 4})


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "A"},
        {"prompt": "A", "answer": " "},
        {"prompt": " ", "answer": "B"},
        {"prompt": "A", "answer": 3},
        {"prompt_ids": [1], "answer_ids": []},
        {"prompt_ids": [1], "answer_ids": [-2]},
        {"prompt_ids": [1], "answer": "B"},
        [1, 2],
    ],
)
def test_a_line_without_prompt_and_answer_is_named(path, record):
    with pytest.raises(DataError, match="line 2 holds no prompt with an answer. Lines that work"):
        read_prompts(written(path, {"prompt_ids": [1], "answer_ids": [2]}, record))


def test_lines_of_two_kinds_are_refused(path):
    reference = written(path, {"prompt": "A", "answer": "B"}, {"prompt_ids": [1], "answer_ids": [2]})
    with pytest.raises(DataError, match="some of its lines have text and some token ids"):
        read_prompts(reference, tokenizer=Words())


def test_text_needs_a_tokenizer(path):
    with pytest.raises(ConfigError, match="the model came without one"):
        read_prompts(written(path, {"prompt": "A", "answer": "B"}))


def test_more_prompts_than_there_are_are_refused(path):
    with pytest.raises(DataError, match="asked for 2 samples .* it has 1"):
        read_prompts(written(path, {"prompt_ids": [1], "answer_ids": [2]}), num_samples=2)


def test_a_text_shorter_than_a_window_is_refused(path):
    with pytest.raises(DataError, match="windows of 72 tokens"):
        read_prompts(written(path, {"input_ids": [1, 2]}))


@pytest.mark.parametrize(("width", "padding"), [(9, 0), (12, 3)])
def test_rows_shorter_than_a_window_are_refused(tmp_path, width, padding):
    mask = np.ones((2, width), dtype=int)
    mask[1, width - padding :] = 0
    np.savez(tmp_path / "ids.npz", input_ids=np.ones_like(mask), attention_mask=mask)
    with pytest.raises(DataError, match=rf"windows of 10 .*rows hold {width}, the shortest 9"):
        read_prompts(str(tmp_path / "ids.npz"), context=8, continuation=2)


def test_images_are_no_prompts(tmp_path):
    np.savez(tmp_path / "images.npz", images=np.zeros((2, 4, 4, 3), dtype=np.uint8))
    with pytest.raises(ConfigError, match="holds no text"):
        read_prompts(str(tmp_path / "images.npz"))


@pytest.mark.parametrize("reference", ["digits", "nowhere.txt", "net.py:batches"])
def test_what_is_no_file_of_text_is_refused(reference):
    with pytest.raises(ConfigError, match="there is no such file. Forms that work"):
        read_prompts(reference)


def test_pythons_help_is_a_text():
    prompts = read_prompts("topics:test", tokenizer=Words(), num_samples=2)
    assert prompts.source == "topics:test (64 + 8 tokens)"
