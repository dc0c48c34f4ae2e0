import copy
import logging

import pytest
import torch
from torch import nn

from shoal.errors import ConfigError, DataError
from shoal.measurement.generation import (
    Prompts,
    check_generation,
    evaluate_generation,
    generation_accuracy,
    with_reference,
)
from shoal.measurement.intervals import wilson_interval
from shoal.progress import reporting

transformers = pytest.importorskip("transformers")
PROMPTS = [(5, 6, 7), (8, 9), (10, 11, 0), (12, 13, 14, 15), (3, 0)]
SMALL = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def greedy(model, prompt, tokens):
    """What the model finds likeliest, token by token, without a cache."""
    ids = list(prompt)
    for _ in range(tokens):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return tuple(ids[len(prompt) :])


def other_than(token):
    return (token + 1) % 64


@pytest.fixture
def model(small_llama):
    return small_llama


@pytest.mark.parametrize("batch_size", [1, 2, None])
def test_a_model_meets_what_it_writes_itself_in_whatever_batches(model, batch_size):
    pairs = [(prompt, greedy(model, prompt, 3 + n % 2)) for n, prompt in enumerate(PROMPTS)]
    assert generation_accuracy(model, pairs, batch_size=batch_size) == {
        "exact": 1,
        "exact_low": wilson_interval(5, 5)[0],
        "exact_high": 1,
        "prefix": 1,
        "prompts": 5,
    }


def test_answers_count_as_a_whole_and_prefixes_up_to_the_first_fault(model):
    faults = [None, 0, 2, 3]
    pairs = []
    for prompt, fault in zip(PROMPTS, faults, strict=False):
        answer = list(greedy(model, prompt, 4))
        if fault is not None:
            answer[fault] = other_than(answer[fault])
        pairs.append((prompt, answer))
    found = generation_accuracy(model, pairs)
    assert found["exact"] == 1 / 4
    assert found["prefix"] == (1 + 0 + 2 / 4 + 3 / 4) / 4
    assert (found["exact_low"], found["exact_high"]) == wilson_interval(1, 4)


def test_the_end_of_text_neither_stops_nor_is_avoided(model):
    written = greedy(model, PROMPTS[0], 4)
    model.generation_config.eos_token_id = written[1]
    assert generation_accuracy(model, [(PROMPTS[0], written)])["exact"] == 1


def test_texts_are_compared_as_texts(model):
    # Tokens are even numbers of a word; odd ones are the same word, and 0 is white space.
    def decode(ids):
        return " ".join("" if token == 0 else str(token // 2) for token in ids)

    prompt = PROMPTS[1]
    written = greedy(model, prompt, 2)
    twins = tuple(token ^ 1 for token in written)
    assert generation_accuracy(model, [(prompt, twins)], decode=decode)["exact"] == 1
    spaced = (*written[:1], 0)
    found = generation_accuracy(model, [(prompt, spaced)], decode=decode)
    assert (found["exact"], found["prefix"]) == (1, 1)
    wrong = (written[0], (written[1] + 2) % 64)
    found = generation_accuracy(model, [(prompt, wrong)], decode=decode)
    assert (found["exact"], found["prefix"]) == (0, 1 / 2)


def test_every_kind_of_answer_has_figures_of_its_own(model):
    prompts = Prompts(
        prompts=tuple(PROMPTS[:2]),
        answers={
            "continuation": tuple(greedy(model, prompt, 2) for prompt in PROMPTS[:2]),
            "agreement": tuple(tuple(map(other_than, greedy(model, p, 3))) for p in PROMPTS[:2]),
        },
    )
    found = evaluate_generation(model, prompts)
    assert list(found) == [
        f"{kind}_{name}"
        for kind in ("continuation", "agreement")
        for name in ("exact", "exact_low", "exact_high", "prefix", "prompts")
    ]
    assert (found["continuation_exact"], found["agreement_exact"], found["agreement_prefix"]) == (1, 0, 0)


def test_agreement_is_with_what_the_reference_writes_up_to_its_end(model):
    other = copy.deepcopy(model)
    nn.init.normal_(other.lm_head.weight)
    prompts = Prompts(prompts=tuple(PROMPTS), answers={"continuation": ((1, 2, 3, 4),) * 5})
    written = [greedy(other, prompt, 4) for prompt in PROMPTS]
    both = with_reference(prompts, other)
    assert list(both.answers["agreement"]) == written
    assert both.answers["continuation"] == prompts.answers["continuation"]
    assert evaluate_generation(other, both)["agreement_exact"] == 1
    assert evaluate_generation(model, both)["agreement_exact"] < 1
    for ends in (written[0][1], [written[0][1]]):
        other.generation_config.eos_token_id = ends
        cut = with_reference(prompts, other).answers["agreement"][0]
        assert cut == written[0][: written[0].index(written[0][1]) + 1]


def test_the_model_is_left_as_it_was_and_its_own_settings_play_no_part(model, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    pairs = [(prompt, greedy(model, prompt, 3)) for prompt in PROMPTS]
    model.train()
    config = model.generation_config
    config.do_sample, config.temperature, config.repetition_penalty = True, 0.5, 9.0
    before, state = config.to_dict(), torch.get_rng_state()
    with caplog.at_level(logging.WARNING):
        assert generation_accuracy(model, pairs)["exact"] == 1
    assert caplog.messages == []
    assert model.generation_config is config
    assert config.to_dict() == before
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


def test_settings_are_put_back_when_generation_fails(model, monkeypatch):
    config = model.generation_config

    def fail(*args, **more):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(type(model), "generate", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        generation_accuracy(model, [(PROMPTS[0], (1,))])
    assert model.generation_config is config


def test_progress_counts_prompts(model):
    class Counting:
        done = 0

        def task(self, title, total):
            self.title, self.total = title, total
            return self

        def __enter__(self):
            return self.advance

        def __exit__(self, *error):
            pass

        def advance(self, steps):
            self.done += steps

    counting = Counting()
    with reporting(counting):
        generation_accuracy(model, [(prompt, (1,)) for prompt in PROMPTS], batch_size=2)
    assert (counting.title, counting.total, counting.done) == ("generating", 5, 5)


def test_no_prompts_are_refused(model):
    with pytest.raises(DataError, match="found no prompts"):
        generation_accuracy(model, [])


@pytest.mark.parametrize(("prompt", "answer"), [((), (1,)), ((1, 2), ())])
def test_an_empty_prompt_or_answer_is_refused(model, prompt, answer):
    with pytest.raises(
        DataError, match=rf"prompt 1 \(from 0\) of {len(prompt)} tokens with an answer of {len(answer)}"
    ):
        generation_accuracy(model, [((1,), (2,)), (prompt, answer)])


@pytest.mark.parametrize(("length", "works"), [(60, True), (61, False)])
def test_what_is_longer_than_the_model_takes_is_refused(model, length, works):
    pairs = [((1,) * length, (2,) * 4)]
    if works:
        assert generation_accuracy(model, pairs)["prompts"] == 1
    else:
        with pytest.raises(DataError, match="up to token 65 .* takes 64"):
            generation_accuracy(model, pairs)


@pytest.mark.parametrize("pair", [((64,), (1,)), ((1,), (64,))])
def test_tokens_of_another_vocabulary_are_refused(model, pair):
    with pytest.raises(DataError, match="token 64: the tokens of LlamaForCausalLM are 0 to 63"):
        generation_accuracy(model, [pair])


def test_a_batch_of_none_is_refused(model):
    with pytest.raises(ConfigError, match="batch_size=0: at least 1"):
        generation_accuracy(model, [((1,), (2,))], batch_size=0)


def test_answers_are_one_a_prompt():
    with pytest.raises(DataError, match="2 prompts with answers {'answer': 1}"):
        Prompts(prompts=((1,), (2,)), answers={"answer": ((3,),)})
    with pytest.raises(DataError, match="1 prompts with answers of no kind"):
        Prompts(prompts=((1,),), answers={})


def others():
    bert = transformers.BertConfig(**SMALL, intermediate_size=8)
    t5 = transformers.T5Config(vocab_size=32, d_model=16, d_kv=4, d_ff=32, num_layers=1, num_heads=4)
    return {
        "Linear does not generate": nn.Linear(1, 1),
        "BertForMaskedLM does not generate": transformers.BertForMaskedLM(bert),
        "BertLMHeadModel is not used as a decoder": transformers.BertLMHeadModel(bert),
        "T5ForConditionalGeneration is an encoder with a decoder": transformers.T5ForConditionalGeneration(
            t5
        ),
    }


@pytest.mark.parametrize("why", others())
def test_only_causal_language_models_are_asked_to_write(why):
    prompts = Prompts(prompts=((1,),), answers={"answer": ((2,),)})
    with pytest.raises(ConfigError, match=why):
        check_generation(others()[why], prompts)


def test_a_cut_shows_in_what_a_trained_model_writes(assets):
    whole = transformers.AutoModelForCausalLM.from_pretrained(assets / "stories260k" / "hf")
    cut = copy.deepcopy(whole)
    for branch in (cut.model.layers[2].self_attn.o_proj, cut.model.layers[2].mlp.down_proj):
        branch.weight.data.zero_()
    # Stories that it tells itself, each from another word.
    begun = Prompts(
        prompts=tuple((1, token) for token in range(300, 316)), answers={"story": ((0,) * 12,) * 16}
    )
    both = with_reference(begun, whole)
    assert evaluate_generation(whole, both)["agreement_exact"] == 1
    found = evaluate_generation(cut, both)
    assert found["agreement_exact"] < found["agreement_prefix"] < 1
