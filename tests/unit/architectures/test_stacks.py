from __future__ import annotations

import pytest
from torch import nn

from networks import gpt2, llama
from shoal.architectures.rules import Inexpressible
from shoal.architectures.skeletons import as_read
from shoal.architectures.stacks import Stack, cut_config, entries, find_stack, part_of

transformers = pytest.importorskip("transformers")

SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}


def clip():
    parts = {"num_hidden_layers": 4, "projection_dim": 8}
    text = transformers.CLIPTextConfig(**SIZES, **parts, vocab_size=32)
    vision = transformers.CLIPVisionConfig(**SIZES, **parts, image_size=8, patch_size=4)
    config = transformers.CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict())
    return transformers.CLIPModel, config


def test_lists_are_found_by_their_path():
    model = llama()[0]
    assert entries(model, "model.layers") is model.model.layers
    assert entries(model, "model.norm") is None
    assert entries(model, "nowhere") is None
    assert len(entries(nn.Sequential(nn.Linear(1, 1)), "") or ()) == 1


@pytest.mark.parametrize(
    ("made", "container", "count"),
    [(llama, "model.layers", "num_hidden_layers"), (gpt2, "transformer.h", "n_layer")],
)
def test_the_field_that_counts_a_list_is_found_under_its_own_name(made, container, count):
    model = made()[0]
    stack = find_stack(type(model), as_read(model.config), container)
    assert stack is not None
    assert (stack.path, stack.count, stack.stage, stack.length) == ((), count, None, 4)


@pytest.mark.parametrize("part", ["text", "vision"])
def test_of_two_lists_of_one_length_each_has_its_own_config(part):
    kind, config = clip()
    container = f"{part}_model.encoder.layers"
    stack = find_stack(kind, as_read(config), container)
    assert stack is not None
    assert stack.path == (f"{part}_config",)
    small = cut_config(as_read(config), {stack: [0, 2]})
    other = {"text": small.vision_config, "vision": small.text_config}[part]
    assert (part_of(small, stack).num_hidden_layers, other.num_hidden_layers) == (2, 4)
    assert part_of(config, stack).num_hidden_layers == 4


def test_stages_are_counted_by_their_entry():
    config = transformers.ConvNextConfig(hidden_sizes=[8, 16, 16], depths=[3, 2, 3], num_stages=3)
    stack = find_stack(transformers.ConvNextModel, as_read(config), "encoder.stages.2.layers")
    assert stack is not None
    assert (stack.count, stack.stage) == ("depths", 2)
    assert list(cut_config(as_read(config), {stack: [1]}).depths) == [3, 2, 1]


@pytest.mark.parametrize("container", ["nowhere", "model.norm"])
def test_what_is_no_list_has_no_stack(container):
    model = llama()[0]
    assert find_stack(type(model), as_read(model.config), container) is None


def test_a_single_layer_has_no_stack():
    config = transformers.LlamaConfig(**SIZES, num_hidden_layers=1, vocab_size=8)
    assert find_stack(transformers.LlamaForCausalLM, as_read(config), "model.layers") is None


STACK = Stack(container="model.layers", length=4, path=(), count="num_hidden_layers")


def test_a_field_without_a_rule_asks_for_one():
    config = llama()[0].config
    config.widths = [1, 2, 3, 4]
    with pytest.raises(Inexpressible, match=r"no rule: widths\. Declare one: .*declare\('widths', …\)"):
        cut_config(config, {STACK: [0, 1]})


def test_what_the_class_refuses_is_told():
    with pytest.raises(Inexpressible, match="its config class refuses what it would say"):
        # A count that is no number of layers.
        cut_config(
            llama()[0].config,
            {Stack(container="", length=4, path=(), count="num_attention_heads"): [0, 1, 2]},
        )
