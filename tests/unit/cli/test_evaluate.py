import json
import sys

import pytest


@pytest.fixture
def language(place, small_llama):
    """A folder `lm` of a language model whose tokens are letters, and a text `story.txt`."""
    transformers, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    letters = " abcdefghijklmnopqrstuvwxyz."
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {each: n for n, each in enumerate(letters, start=3)}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(
            tokenizers.models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>")
        ),
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
    )
    for folder in (place / "lm", place / "original"):
        small_llama.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    (place / "story.txt").write_text("once upon a time there was a network that had too many layers. " * 3)
    return small_llama


def test_the_table_names_the_data_and_its_intervals(shoal):
    outcome = shoal("evaluate net.py:make --data digits:test --num-samples 20")
    assert outcome.code == 0
    assert "net.py:make on digits:test: 20 samples" in outcome.out
    assert "accuracy" in outcome.out
    assert outcome.out.count("(95 %: ") == 2


def test_json_holds_the_figures(shoal):
    found = shoal("evaluate net.py:make --data net.py:batches --json").json
    assert found["quality"]["samples"] == 48
    assert 0 <= found["quality"]["accuracy_low"] <= found["quality"]["accuracy"]
    assert found["quality"]["loss_low"] < found["quality"]["loss"] < found["quality"]["loss_high"]
    assert found["data"] == "net.py:batches"


def test_a_language_model_is_judged_by_text_and_by_what_it_writes(shoal, language):
    typed = "evaluate lm --data story.txt --seq-len 16 --generate story.txt --context 6 --continuation 2"
    outcome = shoal(f"{typed} --generate-samples 5")
    assert outcome.code == 0
    assert "lm on story.txt" in outcome.out
    assert "perplexity" in outcome.out
    assert "lm writes greedily after story.txt (6 + 2 tokens): 5 prompts" in outcome.out
    assert "continuation_exact" in outcome.out
    found = shoal(f"{typed} --json").json
    assert found["quality"]["continuation_prompts"] == 189 // 8
    assert found["quality"]["tokens"] == 15 * (189 // 16)
    assert found["generate"]["source"] == "story.txt (6 + 2 tokens)"


def test_a_model_agrees_with_the_original_it_is_equal_to(shoal, language):
    typed = "evaluate lm --generate story.txt --context 4 --continuation 3 --reference original --json"
    found = shoal(typed).json
    assert found["quality"]["agreement_exact"] == found["quality"]["agreement_prefix"] == 1
    assert found["generate"]["reference"] == "original"
    assert "data" not in found


def test_short_answers_are_read_from_a_file(shoal, language, place):
    records = [{"prompt": "once upon a", "answer": "time"}, {"prompt": "there was", "answer": "a network"}]
    (place / "asked.jsonl").write_text("\n".join(map(json.dumps, records)))
    found = shoal("evaluate lm --generate asked.jsonl --batch-size 1 --json").json
    assert found["quality"]["answer_prompts"] == 2


def test_tasks_are_handed_to_lm_eval(shoal, language, monkeypatch):
    asked = []

    def answer(model, tokenizer, tasks, **more):
        asked.append((tasks, more))
        return {"boolq/acc": 0.5, "boolq/acc_stderr": 0.1}

    monkeypatch.setattr("shoal.measurement.check_tasks", lambda *args, **more: None)
    monkeypatch.setattr("shoal.measurement.evaluate_tasks", answer)
    outcome = shoal("evaluate lm --tasks boolq,arc_easy --task-limit 7 --batch-size 2")
    assert "lm at tasks of lm-eval (7 documents of each)" in outcome.out
    assert "0.5 ± 0.1 (standard error)" in outcome.out
    assert asked == [(["boolq", "arc_easy"], {"limit": 7, "num_fewshot": None, "batch_size": 2})]
    found = shoal("evaluate lm --tasks boolq --json").json
    assert found["quality"]["boolq/acc"] == 0.5
    assert found["tasks"]["names"] == ["boolq"]


def test_tasks_without_lm_eval_name_the_extra(shoal, language, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    outcome = shoal("evaluate lm --tasks boolq")
    assert outcome.code == 2
    assert "shoal[eval]" in outcome.err


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("", "without --data, --generate or --tasks"),
        ("--data digits:tset", "the nearest is 'test'"),
        ("--data digits --seq-len 4", "means nothing there"),
        ("--data digits --generate net.py", "Sequential does not generate"),
        ("--data digits --context 4", "asked for --context without --generate"),
        ("--data digits --reference lm", "asked for --reference without --generate"),
        (
            "--tasks boolq --continuation 4 --generate-samples 2",
            "asked for --continuation, --generate-samples without --generate",
        ),
        ("--data digits --task-limit 4", "asked for --task-limit without --tasks"),
        ("--data digits --num-fewshot 4", "asked for --num-fewshot without --tasks"),
        ("--generate net.py --seq-len 4", "asked for --seq-len without --data"),
        ("--generate net.py --num-samples 4 --seed 2", "asked for --num-samples, --seed without --data"),
    ],
)
def test_a_wrong_request_says_what_would_work(shoal, typed, message):
    outcome = shoal(f"evaluate net.py:make {typed}")
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.out == ""
