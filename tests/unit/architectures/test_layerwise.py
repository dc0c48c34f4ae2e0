"""A folder read layer by layer has the weights that transformers loads of it, and few at a time."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from networks import gpt2, llama
from shoal import find_units
from shoal.architectures.layerwise import LayerwiseModel
from shoal.architectures.pretrained import read_pretrained
from shoal.errors import ConfigError, MissingExtraError, VerificationError
from shoal.units import Chain


def mixtral():
    from transformers import MixtralConfig, MixtralForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = MixtralConfig(**sizes, num_hidden_layers=3, vocab_size=64, num_local_experts=4)
    return MixtralForCausalLM(config).eval(), {"input_ids": torch.arange(8)[None]}


def t5():
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, vocab_size=64)
    ids = torch.arange(8)[None]
    return T5ForConditionalGeneration(config).eval(), {"input_ids": ids, "decoder_input_ids": ids}


def tied():
    return llama(tie_word_embeddings=True)


MADE = {made.__name__: made for made in (llama, tied, gpt2, mixtral, t5)}


@pytest.fixture
def folder(tmp_path):
    """The folder of a tiny Llama, in several files."""
    llama()[0].save_pretrained(tmp_path, max_shard_size="20KB")
    return tmp_path


def tensors_of(model):
    return dict(
        [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    )


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_every_weight_is_there_while_its_unit_has_its_turn(name, dtype, tmp_path):
    model, example = MADE[name]()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    whole = tensors_of(read_pretrained(tmp_path, dtype=None if dtype is None else torch.bfloat16).model)
    chain = find_units(model, example)
    layers = LayerwiseModel(tmp_path, dtype=dtype)
    layers.hold(chain)
    prefixes = tuple(f"{unit.name}." for unit in chain)
    seen = set()

    def check(*present):
        for name, tensor in tensors_of(layers.model).items():
            if name.startswith(prefixes) and not name.startswith(present) and name in parameters:
                assert tensor.is_meta
                continue
            seen.add(name)
            assert tensor.dtype == whole[name].dtype
            assert torch.equal(tensor, whole[name])

    parameters = {name for name, _ in layers.model.named_parameters(remove_duplicate=False)}
    check(":")
    for unit in chain:
        with layers.filled(unit):
            check(f"{unit.name}.")
    check(":")
    assert seen == whole.keys()


def test_weights_that_two_units_share_stay(tmp_path):
    model, example = tied()
    model.save_pretrained(tmp_path)
    chain = find_units(model, example)
    units = (chain[0], *(unit for unit in chain if unit.index))
    head = Chain(units=(*units, _unit_of(chain, "lm_head")), model=chain.model, params=1, macs=1)
    layers = LayerwiseModel(tmp_path)
    layers.hold(head)
    (shared,) = layers.shared
    assert shared is layers.model.lm_head.weight is layers.model.model.embed_tokens.weight
    assert shared.requires_grad
    with layers.filled(head[-1]):
        assert layers.model.lm_head.weight is shared
    assert not layers.model.lm_head.weight.is_meta


def _unit_of(chain, name):
    from dataclasses import replace

    return replace(chain[-1], name=name, index=len(chain), modules=(name,))


def test_weights_go_also_after_an_error(folder):
    layers = LayerwiseModel(folder)
    chain = find_units(layers.model)
    layers.hold(chain)
    with pytest.raises(KeyError), layers.filled(chain[1]):
        raise KeyError
    assert layers.model.model.layers[1].mlp.up_proj.weight.is_meta


def test_the_dtype_is_that_of_the_config_or_of_the_first_weight(folder):
    assert LayerwiseModel(folder).dtype == torch.float32
    fields = json.loads((folder / "config.json").read_text())
    fields.pop("dtype", None)
    fields.pop("torch_dtype", None)
    (folder / "config.json").write_text(json.dumps(fields))
    for path in folder.glob("*.safetensors"):
        tensors = {name: tensor.bfloat16() for name, tensor in load_file(path).items()}
        save_file(tensors, path, metadata={"format": "pt"})
    assert LayerwiseModel(folder).dtype == torch.bfloat16


def test_names_may_lack_the_prefix_of_the_base_model(tmp_path):
    tied()[0].save_pretrained(tmp_path, max_shard_size="20KB")
    for path in tmp_path.glob("*.safetensors"):
        tensors = {name.removeprefix("model."): tensor for name, tensor in load_file(path).items()}
        save_file(tensors, path, metadata={"format": "pt"})
    index = tmp_path / "model.safetensors.index.json"
    fields = json.loads(index.read_text())
    fields["weight_map"] = {name.removeprefix("model."): file for name, file in fields["weight_map"].items()}
    index.write_text(json.dumps(fields))
    layers = LayerwiseModel(tmp_path)
    layers.hold(find_units(layers.model))
    assert not layers.model.model.embed_tokens.weight.is_meta


def change(folder, name, value):
    """Give a tensor another value, or none."""
    for path in folder.glob("*.safetensors"):
        tensors = load_file(path)
        if name in tensors:
            if value is None:
                del tensors[name]
            else:
                tensors[name] = value
            save_file(tensors, path, metadata={"format": "pt"})
    if value is None:
        index = folder / "model.safetensors.index.json"
        fields = json.loads(index.read_text())
        del fields["weight_map"][name]
        index.write_text(json.dumps(fields))


UP = "model.layers.1.mlp.up_proj.weight"


def lacking(folder):
    change(folder, UP, None)


def resized(folder):
    change(folder, UP, torch.zeros(3, 3))


def no_weights(folder):
    (folder / "model.safetensors.index.json").unlink()


def no_file(folder):
    sorted(folder.glob("*.safetensors"))[-1].unlink()


def truncated(folder):
    path = sorted(folder.glob("*.safetensors"))[-1]
    path.write_bytes(path.read_bytes()[:-10])


def another_name(folder):
    index = folder / "model.safetensors.index.json"
    fields = json.loads(index.read_text())
    fields["weight_map"]["more"] = next(iter(fields["weight_map"].values()))
    index.write_text(json.dumps(fields))


def elsewhere(folder):
    index = folder / "model.safetensors.index.json"
    fields = json.loads(index.read_text())
    file = fields["weight_map"][UP]
    (folder / file).rename(folder.parent / "moved.safetensors")
    fields["weight_map"] = {
        name: "../moved.safetensors" if each == file else each for name, each in fields["weight_map"].items()
    }
    index.write_text(json.dumps(fields))


def damaged_config(folder):
    (folder / "config.json").write_text("{")


def quantized(folder):
    fields = json.loads((folder / "config.json").read_text())
    fields["quantization_config"] = {"quant_method": "fp8"}
    (folder / "config.json").write_text(json.dumps(fields))


def kernel(folder):
    fields = json.loads((folder / "config.json").read_text())
    fields["_attn_implementation"] = "evil/kernel"
    (folder / "config.json").write_text(json.dumps(fields))


def linked_config(folder):
    (folder / "config.json").rename(folder.parent / "config.json")
    (folder / "config.json").symlink_to("../config.json")


def linked(folder):
    path = sorted(folder.glob("*.safetensors"))[-1]
    path.rename(folder.parent / "moved.safetensors")
    path.symlink_to("../moved.safetensors")


def unknown_dtype(folder):
    for path in folder.glob("model*"):
        path.unlink()
    header = json.dumps({"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"x")


def endless(folder):
    for path in folder.glob("model*"):
        path.unlink()
    header = json.dumps({"a": {"dtype": "U8", "shape": [0, 2**62, 8], "data_offsets": [0, 0]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)


def index_of(text):
    return lambda folder: (folder / "model.safetensors.index.json").write_text(text)


def impossible(folder):
    fields = json.loads((folder / "config.json").read_text())
    fields["hidden_act"] = "no such"
    (folder / "config.json").write_text(json.dumps(fields))


@pytest.mark.parametrize(
    ("harm", "match"),
    [
        (lacking, f"for LlamaForCausalLM it lacks {UP}"),
        (resized, f"for LlamaForCausalLM it holds in another shape {UP}"),
        (no_weights, "neither model.safetensors nor model.safetensors.index.json"),
        (unknown_dtype, "torch has no tensor 'a' of F4"),
        (endless, "torch has no tensor 'a' of U8"),
        (damaged_config, "its config cannot be read"),
        (linked_config, "its config cannot be read .* outside of the folder"),
        (kernel, "its _attn_implementation 'evil/kernel' would fetch code"),
        (quantized, "its weights are quantized"),
        (impossible, "LlamaForCausalLM cannot be built"),
    ],
)
def test_a_folder_that_cannot_be_read_is_refused_before_anything_is_done(harm, match, tmp_path):
    folder = tmp_path / "model"
    llama()[0].save_pretrained(folder, max_shard_size="20KB")
    harm(folder)
    with pytest.raises(ConfigError, match=match):
        LayerwiseModel(folder)


@pytest.mark.parametrize(
    ("harm", "match"),
    [
        (no_file, "there is no such file"),
        (truncated, "truncated, damaged or no safetensors file"),
        (another_name, "the files disagree in 1 places: tensor 'more'"),
        (elsewhere, r"'\.\./moved\.safetensors' .* named without folders"),
        (linked, "outside of the folder"),
        (index_of("{}"), "does not say where the tensors are"),
        (index_of('{"weight_map": 3}'), "does not say where the tensors are"),
        (index_of('{"weight_map": {"a": 3}}'), "does not say where the tensors are"),
        (index_of("{x"), "it is damaged"),
    ],
)
def test_weights_that_are_damaged_or_elsewhere_are_refused(harm, match, tmp_path):
    folder = tmp_path / "model"
    llama()[0].save_pretrained(folder, max_shard_size="20KB")
    harm(folder)
    with pytest.raises(VerificationError, match=match):
        LayerwiseModel(folder)


def test_accelerate_is_named_where_it_is_missing(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "accelerate", None)
    with pytest.raises(MissingExtraError, match="accelerate"):
        LayerwiseModel(folder)


def test_a_dtype_that_is_none_is_refused(folder):
    with pytest.raises(ConfigError, match="dtype 'float3'"):
        LayerwiseModel(Path(folder), dtype="float3")


def test_experts_that_fit_in_no_memory_are_opened(tmp_path):
    from transformers import MixtralConfig

    sizes = {"hidden_size": 1 << 12, "intermediate_size": 1 << 20, "num_attention_heads": 32}
    config = MixtralConfig(**sizes, num_hidden_layers=1, num_local_experts=64, vocab_size=8)
    config.architectures = ["MixtralForCausalLM"]
    config.save_pretrained(tmp_path)
    wide, heads = config.hidden_size, config.num_key_value_heads * (config.hidden_size // 32)
    norms = ["model.norm", "model.layers.0.input_layernorm", "model.layers.0.post_attention_layernorm"]
    block, attention = "model.layers.0.block_sparse_moe", "model.layers.0.self_attn"
    shapes = {
        **{f"{name}.weight": [wide] for name in norms},
        "model.embed_tokens.weight": [8, wide],
        "lm_head.weight": [8, wide],
        f"{block}.gate.weight": [64, wide],
        **{f"{attention}.{name}_proj.weight": [wide, wide] for name in "qo"},
        **{f"{attention}.{name}_proj.weight": [heads, wide] for name in "kv"},
    }
    for expert in range(64):
        for name, shape in {"w1": [1 << 20, wide], "w2": [wide, 1 << 20], "w3": [1 << 20, wide]}.items():
            shapes[f"{block}.experts.{expert}.{name}.weight"] = shape
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        # Nothing but holes: the file takes no place on the disk.
        file.truncate(8 + len(text) + end)
    model = LayerwiseModel(tmp_path).model
    assert sum(parameter.numel() for parameter in model.parameters()) > 1 << 39
