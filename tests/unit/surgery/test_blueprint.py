"""What the cut of a folder will be is known before anything is written."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from shoal import Plan, find_units
from shoal.errors import SurgeryError
from shoal.surgery import cut_folder, draw_blueprint, read_checkpoint

transformers = pytest.importorskip("transformers")
SIZES = {"vocab_size": 32, "num_hidden_layers": 4, "hidden_size": 16, "num_attention_heads": 4}
GEMMA = SIZES | {
    "intermediate_size": 32, "num_key_value_heads": 2, "head_dim": 8, "hidden_size_per_layer_input": 4,
    "vocab_size_per_layer_input": 32, "laurel_rank": 4, "altup_num_inputs": 2, "num_kv_shared_layers": 0,
    "layer_types": ["full_attention"] * 4, "activation_sparsity_pattern": [0.0] * 4,
}  # fmt: skip


def plan_for(model, removed):
    return Plan.removing(find_units(model, {"input_ids": torch.arange(6)[None]}), removed)


@pytest.fixture
def llama(tmp_path):
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, intermediate_size=32)).eval()
    model.save_pretrained(tmp_path / "source", max_shard_size="8KB")
    return model


def test_the_sizes_are_those_of_the_files_that_come_out(llama, tmp_path):
    plan = plan_for(llama, [1, 2])
    found = draw_blueprint(read_checkpoint(tmp_path / "source"), plan)
    assert {path.name for path in tmp_path.iterdir()} == {"source"}
    cut_folder(tmp_path / "source", plan, tmp_path / "cut", depth="structure")
    assert found.size == read_checkpoint(tmp_path / "cut").size
    assert [load.name for load in found.loads] == [s.name for s in read_checkpoint(tmp_path / "cut").shards]
    assert found.params == transformers.LlamaForCausalLM.from_pretrained(tmp_path / "cut").num_parameters()
    assert found.dtype == "float32"
    assert found.after.config.num_hidden_layers == 2


def test_files_of_which_nothing_stays_are_not_written(llama, tmp_path):
    state = llama.state_dict()
    groups = {f"{n}.safetensors": f"model.layers.{n}." for n in range(4)}
    index = {}
    for path in (tmp_path / "source").glob("*.safetensors*"):
        path.unlink()
    for name, prefix in groups.items():
        held = {key: value for key, value in state.items() if key.startswith(prefix)}
        held |= {} if prefix[-2] != "0" else {k: v for k, v in state.items() if ".layers." not in k}
        save_file(held, tmp_path / "source" / name, {"format": "pt"})
        index |= dict.fromkeys(held, name)
    (tmp_path / "source" / "model.safetensors.index.json").write_text(
        f'{{"weight_map": {index}}}'.replace("'", '"')
    )
    plan = plan_for(llama, [1, 2, 3])
    found = draw_blueprint(read_checkpoint(tmp_path / "source"), plan)
    assert [load.name for load in found.loads] == ["model.safetensors"]
    cut_folder(tmp_path / "source", plan, tmp_path / "cut")
    assert not (tmp_path / "cut" / "model.safetensors.index.json").exists()


@pytest.mark.parametrize("removed", [[0], [1, 2]])
def test_weights_with_a_part_for_each_layer_keep_those_of_the_rest(tmp_path, removed):
    if not hasattr(transformers, "Gemma3nForCausalLM"):
        pytest.skip("this transformers has no Gemma 3n")
    model = transformers.Gemma3nForCausalLM(transformers.Gemma3nTextConfig(**GEMMA)).eval()
    model.save_pretrained(tmp_path / "source")
    cut_folder(tmp_path / "source", plan_for(model, removed), tmp_path / "cut")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("source", "cut"))
    kept = [number for number in range(4) if number not in removed]
    name = next(name for name in before if name.endswith("embed_tokens_per_layer.weight"))
    assert torch.equal(after[name], before[name].unflatten(1, (4, 4))[:, kept].flatten(1))


def test_another_shape_at_the_new_place_is_refused(llama, tmp_path, monkeypatch):
    from shoal.surgery import apply, blueprint

    def odd(model, plan):
        small = apply(model, plan)
        small.model.norm.weight = torch.nn.Parameter(torch.empty(3, device="meta"))
        return small

    monkeypatch.setattr(blueprint, "remove_units", odd)
    with pytest.raises(SurgeryError, match=r"model\.norm\.weight would have another shape"):
        draw_blueprint(read_checkpoint(tmp_path / "source"), plan_for(llama, [1]))
