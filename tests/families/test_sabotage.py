"""Cuts that are wrong on purpose: what proves the cuts of every family finds them.

A cut is made and then broken; or a rule, or the comparison of what would be built, is taken out of
shoal, so that one proof has to do without the other.
"""

import pytest
import torch

from families import cutting
from families.cutting import Difference, attempt, nearest_of
from families.special import MAJOR
from families.tiny import PROMPT, made
from shoal.architectures import fields, find_units, refitting
from shoal.architectures.cache import renumber_
from shoal.architectures.differences import Differences
from shoal.architectures.rules import First, Inexpressible

pytestmark = pytest.mark.filterwarnings("ignore")


def tried(name, removed, folder):
    """What is said of a cut of a family; nothing where it is exact."""
    model, example = made(name)
    chain = find_units(model, example)
    return attempt(model, example, chain, removed, folder / "cut", prompt=PROMPT)


def break_cuts(monkeypatch, harm):
    """Have every cut harmed after it was made."""
    apply = cutting.apply

    def wrongly(model, plan):
        small = apply(model, plan)
        harm(small)
        return small

    monkeypatch.setattr(cutting, "apply", wrongly)


def look_away(monkeypatch):
    """Have shoal not see that other layers would be built; numbers of layers follow all the same."""
    compare = refitting.differences

    def blindly(*both, **told):
        try:
            return compare(*both, **told)
        except Inexpressible:
            return Differences(values={}, sliced=())

    monkeypatch.setattr(refitting, "differences", blindly)
    break_cuts(monkeypatch, renumber_)


def swap_layers(small):
    layers = small.model.layers
    layers[0], layers[1] = layers[1], layers[0]


def change_the_last_bit(small):
    weight = small.model.layers[2].self_attn.v_proj.weight.data
    weight[0, 0] = torch.nextafter(weight[0, 0], weight[0, 0] + 1)


def number_from_one(small):
    for layer in small.model.layers:
        layer.self_attn.layer_idx += 1


def number_two_alike(small):
    small.model.layers[2].self_attn.layer_idx = 1


def turn_kinds(small):
    kinds = small.config.layer_types
    small.config.layer_types = [*kinds[1:], kinds[0]]


HARMS = {
    swap_layers: ("llama", "in memory: outputs differ"),
    change_the_last_bit: ("llama", "in memory: outputs differ"),
    number_from_one: ("llama", "with and without cache|list index out of range"),
    number_two_alike: ("llama", "in memory: (outputs|logits)"),
    turn_kinds: ("gemma3_text", "outputs differ|size of tensor"),
}


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
def test_a_broken_cut_is_found(harm, monkeypatch, tmp_path):
    name, said = HARMS[harm]
    assert tried(name, (0, 3), tmp_path / "whole") == ""
    break_cuts(monkeypatch, harm)
    with pytest.raises((Difference, IndexError, RuntimeError), match=said):
        tried(name, (0, 3), tmp_path)


@pytest.mark.parametrize("more", [-1, 1])
def test_a_config_that_counts_wrongly_is_not_written(more, monkeypatch, tmp_path):
    def miscount(small):
        small.config.num_hidden_layers += more

    break_cuts(monkeypatch, miscount)
    assert "asked to save LlamaForCausalLM" in tried("llama", (0, 3), tmp_path)
    assert not (tmp_path / "cut").exists()


def test_layers_that_do_nothing_prove_nothing(tmp_path):
    model, example = made("llama")
    chain = find_units(model, example)
    layer = model.model.layers[3]
    for weight in (layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight):
        weight.data.zero_()
    with pytest.raises(Difference, match="changes nothing"):
        attempt(model, example, chain, [3], tmp_path / "cut", prompt=None)


def test_a_field_without_a_rule_is_asked_for(monkeypatch):
    monkeypatch.delitem(fields.FIELDS, "layer_types")
    chain = find_units(*made("gemma3_text"))
    assert chain.removable == ()
    assert "fields for which shoal has no rule: layer_types" in chain[0].why


# A field whose rule does nothing, a cut that needs it, and what would be built otherwise.
WITHOUT = {
    "first_k_dense_replace": ("deepseek_v3", "another network would be built"),
    "attn_layer_indices": ("bamba", "another network would be built"),
    "decoder_sparse_step": ("qwen2_moe", "another network would be built"),
    "no_rope_layers": ("smollm3", "use_rope of model.layers.3.self_attn would be 1 and was 0"),
}


@pytest.mark.parametrize("field", WITHOUT)
def test_a_wrong_rule_is_found_by_what_would_be_built(field, monkeypatch, tmp_path):
    name, said = WITHOUT[field]
    assert tried(name, (0, 2), tmp_path / "whole") == ""
    monkeypatch.setitem(fields.FIELDS, field, First("no field"))
    words = tried(name, (0, 2), tmp_path)
    assert said in words
    assert nearest_of(words, find_units(*made(name)))


@pytest.mark.parametrize(("name", "field"), [("smollm3", "no_rope_layers"), ("diffllama", "")])
def test_without_that_the_outputs_tell(name, field, monkeypatch, tmp_path):
    if field:
        monkeypatch.setitem(fields.FIELDS, field, First("no field"))
    assert "would be" in tried(name, (0, 2), tmp_path)
    look_away(monkeypatch)
    with pytest.raises(Difference, match="reloaded: outputs differ"):
        tried(name, (0, 2), tmp_path)


@pytest.mark.skipif(MAJOR < 5, reason="this version has no family that reads such a list as it runs")
def test_a_list_that_is_read_when_the_network_runs_is_found_by_the_outputs_alone(monkeypatch, tmp_path):
    monkeypatch.setitem(fields.FIELDS, "layer_rope_theta", First("no field"))
    with pytest.raises(Difference, match="outputs differ"):
        tried("granite_swa", (0,), tmp_path)
