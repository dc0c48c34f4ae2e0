import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import networks
from shoal.architectures import bypassed, example_for, find_units
from shoal.errors import ConfigError, PlanError, VerificationError
from shoal.plan import Plan
from shoal.surgery import adapters, apply, verify
from shoal.surgery.adapters import rekey_adapter
from shoal.surgery.record import write_record

peft = pytest.importorskip("peft")
# peft asks transformers 5 for a name that has another one there.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

LORA = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"]}
KINDS = {
    "names": LORA,
    "direction and size": {**LORA, "use_dora": True},
    "some layers": {**LORA, "layers_to_transform": [0, 2, 4]},
    "some layers of a list": {**LORA, "layers_to_transform": [1, 4], "layers_pattern": "layers"},
    "one layer": {**LORA, "layers_to_transform": 4},
    "full names": {**LORA, "target_modules": ["model.layers.0.mlp.up_proj", "model.layers.4.mlp.up_proj"]},
    "ends of names": {**LORA, "target_modules": ["0.self_attn.q_proj", "layers.4.mlp.up_proj"]},
    "a pattern": {**LORA, "target_modules": r".*layers\.(0|3|4)\.self_attn\.[qk]_proj"},
    "all but some": {
        **LORA,
        "exclude_modules": ["model.layers.0.self_attn.q_proj", "layers.3.self_attn.v_proj"],
    },
    "all linear": {**LORA, "target_modules": "all-linear"},
    "ranks": {
        **LORA,
        "rank_pattern": {"^model.layers.3.self_attn.q_proj$": 3, "layers.1.self_attn.q_proj": 5, "v_proj": 1},
        "alpha_pattern": {r"model\.layers\.4\.self_attn\.q_proj": 16},
    },
    "whole modules": {
        **LORA,
        "modules_to_save": ["lm_head", "model.layers.3.mlp", "layers.1.input_layernorm"],
    },
    "an embedding": {**LORA, "target_modules": ["embed_tokens", "q_proj"]},
}


def write_adapter(model, folder, **settings):
    """Write an adapter with weights of its own into a folder inside `folder`."""
    wrapped = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(**settings))
    generator = torch.Generator().manual_seed(3)
    for name, tensor in wrapped.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            tensor.data += 0.3 * torch.randn(tensor.shape, generator=generator)
    wrapped.save_pretrained(folder / "adapter", save_embedding_layers=False)
    return folder / "adapter"


@pytest.fixture
def trained(small_llama, tmp_path):
    """Return a function that writes an adapter for a Llama of five layers."""
    return lambda **settings: write_adapter(small_llama, tmp_path, **settings)


def plan_for(model, removed):
    return Plan.removing(find_units(model), removed)


def edit(folder, **fields):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def outputs(model, example):
    with torch.no_grad():
        return model(**example, use_cache=False).logits


@pytest.mark.parametrize(
    ("kind", "removed"),
    [*((kind, [1, 3]) for kind in KINDS), *(("names", removed) for removed in ([], [0], [1, 2, 3, 4]))],
)
def test_with_it_the_cut_network_does_what_the_original_does_with_the_layers_bypassed(
    small_llama, trained, tmp_path, kind, removed
):
    adapter, example = trained(**KINDS[kind]), example_for(small_llama)
    chain = find_units(small_llama)
    plan = Plan.removing(chain, removed)
    made = rekey_adapter(adapter, plan, tmp_path / "made")
    cut = apply(small_llama, plan)
    whole = peft.PeftModel.from_pretrained(small_llama, adapter).eval()
    with bypassed(whole.base_model.model, chain, removed):
        expected = outputs(whole, example)
    plain = outputs(cut, example)
    small = peft.PeftModel.from_pretrained(cut, made.folder).eval()
    assert torch.equal(outputs(small, example), expected)
    assert not torch.equal(plain, expected)
    weights = peft.utils.load_peft_weights(made.folder)
    assert not peft.set_peft_model_state_dict(small, weights).unexpected_keys
    assert weights.keys() == peft.get_peft_model_state_dict(small, save_embedding_layers=False).keys()
    assert (len(weights), made.dropped) == (made.kept, len(peft.utils.load_peft_weights(adapter)) - made.kept)


@pytest.mark.parametrize(
    "parameters",
    [
        ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
        ["model.layers.1.mlp.experts.down_proj", "layers.2.mlp.experts.gate_up_proj"],
    ],
)
def test_parameters_of_experts_are_found_again(tmp_path, parameters):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "moe_intermediate_size": 16, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "vocab_size": 64}
    config = transformers.Qwen3MoeConfig(**sizes, **heads, num_experts=4, num_experts_per_tok=2)
    model = transformers.Qwen3MoeForCausalLM(config).eval()
    if not hasattr(model.model.layers[0].mlp.experts, "gate_up_proj"):
        pytest.skip("before transformers 5 the experts are modules of their own")
    names = ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"]
    adapter = write_adapter(model, tmp_path, r=2, target_modules=names, target_parameters=parameters)
    chain, example = find_units(model), example_for(model)
    plan = Plan.removing(chain, [1])
    made = rekey_adapter(adapter, plan, tmp_path / "made")
    whole = peft.PeftModel.from_pretrained(copy.deepcopy(model), adapter).eval()
    with bypassed(whole.base_model.model, chain, [1]):
        expected = outputs(whole, example)
    small = peft.PeftModel.from_pretrained(apply(model, plan), made.folder).eval()
    assert torch.equal(outputs(small, example), expected)


def test_removing_nothing_changes_nothing(small_llama, trained, tmp_path):
    adapter = trained(**KINDS["a pattern"])
    rekey_adapter(adapter, plan_for(small_llama, []), tmp_path / "made")
    configs = [json.loads((f / "adapter_config.json").read_text()) for f in (adapter, tmp_path / "made")]
    assert configs[0] == configs[1]
    before, after = (load_file(f / "adapter_model.safetensors") for f in (adapter, tmp_path / "made"))
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_names_without_numbers_stay_as_they_were_written(small_llama, trained, tmp_path):
    adapter = trained(**LORA)
    rekey_adapter(adapter, plan_for(small_llama, [1, 2]), tmp_path / "made")
    config, made = (json.loads((f / "adapter_config.json").read_text()) for f in (adapter, tmp_path / "made"))
    assert config == made


def test_an_adapter_of_other_layers_loses_nothing(small_llama, trained, tmp_path):
    adapter = trained(**LORA, layers_to_transform=[0, 4])
    made = rekey_adapter(adapter, plan_for(small_llama, [1, 2]), tmp_path / "made")
    assert (made.kept, made.dropped) == (8, 0)
    keys = load_file(tmp_path / "made" / "adapter_model.safetensors")
    assert {key.split(".")[4] for key in keys} == {"0", "2"}


def test_what_was_done_stands_in_the_folder(small_llama, trained, tmp_path):
    adapter, plan = trained(**LORA), plan_for(small_llama, [1])
    (adapter / "README.md").write_text("mine")
    (adapter / "tokenizer.json").write_text("{}")
    edit(adapter, base_model_name_or_path="some/base")
    made = rekey_adapter(adapter, plan, tmp_path / "made")
    record = json.loads((made.folder / "shoal.json").read_text())
    assert (record["format"], record["kept"], record["dropped"]) == ("adapter", 16, 4)
    assert Plan.from_json(json.dumps(record["plan"])) == plan
    assert (made.folder / "README.md").read_text() == "mine"
    assert (made.folder / "tokenizer.json").is_file()
    assert (
        json.loads((made.folder / "adapter_config.json").read_text())["base_model_name_or_path"]
        == "some/base"
    )
    assert "names 'some/base' as its base still" in made.notes[0]
    weights = made.folder / "adapter_model.safetensors"
    assert weights.stat().st_mode == (made.folder / "shoal.json").stat().st_mode


def test_an_adapter_of_the_network_inside_has_the_same_layers(small_llama, trained, tmp_path):
    adapter = trained(**LORA)
    path = adapter / "adapter_model.safetensors"
    save_file({key.replace("model.model.", "model."): value for key, value in load_file(path).items()}, path)
    rekey_adapter(adapter, plan_for(small_llama, [1, 2]), tmp_path / "made")
    keys = load_file(tmp_path / "made" / "adapter_model.safetensors")
    assert {key.split(".")[3] for key in keys} == {"0", "1", "2"}
    assert all(key.startswith("base_model.model.layers.") for key in keys)


def test_a_plan_of_the_network_inside_has_the_same_layers(small_llama, trained, tmp_path):
    rekey_adapter(trained(**LORA), plan_for(small_llama.model, [1, 2]), tmp_path / "made")
    keys = load_file(tmp_path / "made" / "adapter_model.safetensors")
    assert {key.split(".")[4] for key in keys} == {"0", "1", "2"}


def test_a_bypassed_sublayer_takes_its_part_of_the_adapter_along(small_llama, trained, tmp_path):
    chain = find_units(small_llama, granularity="sublayer")
    plan = Plan.removing(chain, ["model.layers.1.self_attn"])
    made = rekey_adapter(trained(**LORA), plan, tmp_path / "made")
    keys = load_file(tmp_path / "made" / "adapter_model.safetensors")
    assert (made.kept, made.dropped) == (16, 4)
    assert {key.split(".")[4] for key in keys} == {"0", "2", "3", "4"}


def test_experts_keep_their_numbers(make_chain, trained, tmp_path):
    adapter = trained(**LORA)
    chain = make_chain()
    names = [f"base_model.model.layers.{n}.experts.{m}.w1" for n in range(4) for m in range(3)]
    save_file(
        {f"{name}.lora_A.weight": torch.ones(1) for name in names}, adapter / "adapter_model.safetensors"
    )
    edit(adapter, target_modules=["experts.1.w1"])
    rekey_adapter(adapter, Plan.removing(chain, [1]), tmp_path / "made")
    keys = load_file(tmp_path / "made" / "adapter_model.safetensors")
    assert {tuple(key.split(".")[3:6:2]) for key in keys} == {
        (str(n), str(m)) for n in range(3) for m in range(3)
    }


class TestRefused:
    def test_an_adapter_of_which_nothing_is_left(self, small_llama, trained, tmp_path):
        adapter = trained(**LORA, layers_to_transform=[1, 2], modules_to_save=["lm_head"])
        with pytest.raises(
            PlanError, match="all of the 4 modules that it changes are in units that the plan"
        ):
            rekey_adapter(adapter, plan_for(small_llama, [1, 2]), tmp_path / "made")
        assert not (tmp_path / "made").exists()

    def test_a_plan_for_another_network(self, make_chain, small_llama, trained, tmp_path):
        adapter = trained(**LORA)
        with pytest.raises(PlanError, match="layer 4 of 'model.layers', and the last one .* is 3"):
            rekey_adapter(adapter, Plan.removing(make_chain(), [1]), tmp_path / "made")

    def test_layers_of_another_name(self, trained, small_llama, tmp_path):
        adapter = trained(**LORA)
        path = adapter / "adapter_model.safetensors"
        save_file({key.replace("layers", "h"): value for key, value in load_file(path).items()}, path)
        with pytest.raises(
            PlanError, match=r"plan's layers are in 'model.layers', the adapter's in 'model.h'"
        ):
            rekey_adapter(adapter, plan_for(small_llama, [1]), tmp_path / "made")

    def test_layers_of_several_lists(self, make_chain, trained, tmp_path):
        adapter = trained(**LORA)
        names = [f"base_model.model.{side}.layers.1.fc1.lora_A.weight" for side in ("encoder", "decoder")]
        save_file({name: torch.ones(1) for name in names}, adapter / "adapter_model.safetensors")
        with pytest.raises(ConfigError, match="the adapter's in 'decoder.layers', 'encoder.layers'"):
            rekey_adapter(adapter, Plan.removing(make_chain(), [1]), tmp_path / "made")

    @pytest.mark.parametrize("name", [r".*\.1\..*q_proj", r"layers\.\d\.q_proj", "layers.[12].q_proj"])
    def test_a_pattern_of_ranks_that_may_go_by_numbers(self, small_llama, trained, tmp_path, name):
        adapter = trained(**LORA)
        edit(adapter, rank_pattern={name: 2})
        with pytest.raises(ConfigError, match="which may mean layers by their numbers"):
            rekey_adapter(adapter, plan_for(small_llama, [1]), tmp_path / "made")

    def test_a_name_that_begins_with_a_number(self, small_llama, trained, tmp_path):
        adapter = trained(**LORA)
        edit(adapter, modules_to_save=["3.mlp"])
        with pytest.raises(ConfigError, match="names '3.mlp', which may be in 'model.layers'"):
            rekey_adapter(adapter, plan_for(small_llama, [1]), tmp_path / "made")

    def test_another_kind_of_adapter(self, small_llama, trained, tmp_path):
        adapter = trained(**LORA)
        edit(adapter, peft_type="PREFIX_TUNING")
        with pytest.raises(ConfigError, match="of the type 'PREFIX_TUNING'"):
            rekey_adapter(adapter, plan_for(small_llama, [1]), tmp_path / "made")

    def test_layers_that_are_copied(self, small_llama, trained, tmp_path):
        adapter = trained(**LORA)
        edit(adapter, layer_replication=[[0, 4], [2, 5]])
        with pytest.raises(ConfigError, match="copies layers before it changes them"):
            rekey_adapter(adapter, plan_for(small_llama, [1]), tmp_path / "made")

    def test_a_pickle(self, small_llama, trained, tmp_path):
        adapter = trained(**LORA)
        (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
        with pytest.raises(ConfigError, match="its weights are a pickle"):
            rekey_adapter(adapter, plan_for(small_llama, [1]), tmp_path / "made")

    @pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
    def test_a_folder_that_lacks_a_file(self, small_llama, trained, tmp_path, name):
        adapter = trained(**LORA)
        (adapter / name).unlink()
        with pytest.raises(ConfigError, match=f"there is no {name} in it"):
            rekey_adapter(adapter, plan_for(small_llama, [1]), tmp_path / "made")

    def test_weights_that_are_damaged(self, small_llama, trained, tmp_path):
        adapter = trained(**LORA)
        (adapter / "adapter_model.safetensors").write_bytes(b"\xff" * 20)
        with pytest.raises(ConfigError, match=r"adapter_model\.safetensors is damaged"):
            rekey_adapter(adapter, plan_for(small_llama, [1]), tmp_path / "made")

    @pytest.mark.parametrize("name", ["README.md", "tokenizer.json"])
    def test_a_link_that_leads_out(self, small_llama, trained, tmp_path, name):
        adapter = trained(**LORA)
        (tmp_path / "secret").write_text("secret")
        (adapter / name).unlink(missing_ok=True)
        (adapter / name).symlink_to("../secret")
        with pytest.raises(VerificationError, match=f"'{name}' .* outside of the folder"):
            rekey_adapter(adapter, plan_for(small_llama, [1]), tmp_path / "made")
        assert not (tmp_path / "made").exists()

    def test_a_config_that_is_no_text(self, small_llama, trained, tmp_path):
        adapter = trained(**LORA)
        (adapter / "adapter_config.json").write_bytes(b"\xff")
        with pytest.raises(VerificationError, match="it is damaged"):
            rekey_adapter(adapter, plan_for(small_llama, [1]), tmp_path / "made")

    def test_a_target_that_exists(self, small_llama, trained, tmp_path):
        adapter = trained(**LORA)
        with pytest.raises(ConfigError, match="it exists"):
            rekey_adapter(adapter, plan_for(small_llama, [1]), adapter)


def test_an_adapter_of_another_network_than_the_plan_s_is_refused(tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text('{"architectures": ["OtherForCausalLM"]}')
    config = {"base_model_name_or_path": str(base)}
    plan = Plan.removing(find_units(networks.llama()[0]), [1])
    with pytest.raises(
        PlanError, match="is a OtherForCausalLM, and the plan was made for a LlamaForCausalLM"
    ):
        adapters._check_base("asked", config, plan)
    adapters._check_base("asked", {"base_model_name_or_path": "of/the-hub"}, plan)


def test_an_adapter_is_not_verified_as_a_network(tmp_path):
    write_record(tmp_path, {"format": "adapter"})
    with pytest.raises(ConfigError, match="it is a LoRA adapter, and no network"):
        verify(tmp_path)
