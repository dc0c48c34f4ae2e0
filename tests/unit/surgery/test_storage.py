"""What the config files of a cut folder say: of quantization, of generation, of dtypes, of code."""

import json

import pytest
import torch

from shoal import Plan
from shoal.errors import ConfigError, UnitError
from shoal.surgery import cut_folder
from shoal.surgery.renaming import Shortened
from shoal.surgery.storage import _renumbered

transformers = pytest.importorskip("transformers")
TEXT = {"vocab_size": 32, "num_hidden_layers": 4, "hidden_size": 16, "num_attention_heads": 2}
TEXT |= {"intermediate_size": 16, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2}
VISION = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
VISION |= {"image_size": 4, "patch_size": 2, "projection_dim": 16}
LIST = Shortened(container="model.layers", length=4, kept=(1, 3))
ONE = {"model.layers": LIST, "layers": LIST}
TWO = ONE | {"model.more": Shortened(container="model.more", length=4, kept=(0,))}


def edit(path, **fields):
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(before | fields))


def read(path):
    return json.loads(path.read_text())


@pytest.fixture
def source(tmp_path):
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**TEXT))
    model.save_pretrained(tmp_path / "source")
    return tmp_path / "source"


@pytest.fixture
def cut(source, chained, tmp_path):
    def cut_it(removed):
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**TEXT))
        chain = chained(model, [f"model.layers.{number}" for number in range(4)])
        cut_folder(source, Plan.removing(chain, removed), tmp_path / "cut", depth="structure")
        return tmp_path / "cut"

    return cut_it


@pytest.mark.parametrize(
    "setting",
    [
        {},
        {"version": "0.10.2", "quant_method": "x.1", "checkpoint_version": "1.2.3"},
        {"bits": 4, "group": [128, 128], "damp": 0.01, "sym": True, "nothing": None},
        {"targets": ["Linear", "re:.*lm_head", r"re:.*self_attn\.(q|k)_proj$", r"re:.*mlp\.fc1$"]},
        {"ignore": [r"re:model\.layers\.\d+\.mlp", r"re:.*layers\.[0-9]+\.mlp", "model.layers.*"]},
        {"dynamic": {r"-:.*\.mlp\..*": {}, r"+:.*\.w2$": {"bits": 8}}},
        {"meta": {"quantizer": ["gptqmodel:1.4.5"], "uri": "https://example.org/a.1.b"}},
    ],
)
def test_settings_that_name_no_layer_pass(setting):
    assert _renumbered(setting, ONE) == setting


@pytest.mark.parametrize(
    ("setting", "after"),
    [
        ({"layers": {"0": 2, "1": 4, "3": 8}}, {"layers": {"0": 4, "1": 8}}),
        ({"layers": {"0": 2, "2": 8}}, {"layers": {}}),
        ({"ignore": ["model.layers.1.mlp", "model.layers.2.mlp"]}, {"ignore": ["model.layers.0.mlp"]}),
        ({"model.layers.2.mlp": {}, "model.layers.3.mlp": {"bits": 4}}, {"model.layers.1.mlp": {"bits": 4}}),
        ({"ignore": ["model.layers.0", None]}, {"ignore": [None]}),
    ],
)  # fmt: skip
def test_settings_that_name_layers_follow_them(setting, after):
    assert _renumbered(setting, ONE) == after


@pytest.mark.parametrize("lists", [ONE, TWO])
@pytest.mark.parametrize(
    "name",
    [
        r"re:model\.layers\.1\..*", "re:.*layers.[01].mlp", r"re:.*layers\.(0|1)\.mlp", "model.layers.1*",
        r"-:.*\.2\..*", r"+:.*\.12\..*", r"re:^(?!.*\.3\.).*$", r"re:.*\.\d\.mlp", r"re:.*\.\d{2}\.mlp",
        r"re:.*layers\.1[0-9]+\..*", r"re:.*\b1\b.*", "h.1.mlp", "other.1",
    ],
)  # fmt: skip
def test_settings_that_may_name_any_layer_are_refused(name, lists):
    for setting in ({"ignore": [name]}, {"dynamic": {name: {}}}, {"ignore": {"in": name}}):
        with pytest.raises(UnitError, match="not known which layer that is"):
            _renumbered(setting, lists)


@pytest.mark.parametrize(("key", "lists"), [("1", TWO), ("4", ONE), ("007", ONE)])
def test_a_number_that_may_be_of_no_layer_or_of_two_is_refused(key, lists):
    with pytest.raises(UnitError, match=f"speaks of '{key}'"):
        _renumbered({"layers": {key: 4}}, lists)


def test_a_plan_that_removes_nothing_leaves_every_setting(source, cut):
    settings = {"quant_method": "fp8", "ignored_layers": [r"re:.*\.1\..*", "layers.2.mlp"]}
    edit(source / "config.json", quantization_config=settings)
    assert read(cut([]) / "config.json")["quantization_config"] == settings


@pytest.mark.parametrize(
    ("removed", "fields", "after"),
    [
        ([], {"dola_layers": [1, 3], "top_k": 7}, {"dola_layers": [1, 3], "top_k": 7}),
        ([0], {"top_k": 7}, {"top_k": 7}),
        ([0], {"dola_layers": [1, 3], "top_k": 7}, {"dola_layers": [0, 2], "top_k": 7}),
        ([0, 1, 3], {"dola_layers": [3], "top_k": 7}, {"top_k": 7}),
        ([1], {"assistant_early_exit": 2}, {"assistant_early_exit": 1}),
    ],
)
def test_the_generation_config_names_the_layers_that_stay(source, cut, removed, fields, after):
    path = source / "generation_config.json"
    path.write_text(json.dumps(fields))
    folder = cut(removed)
    assert read(folder / path.name) == after
    if fields == after:
        assert (folder / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ('{"dola_layers": [-1]}', UnitError, r"dola_layers = \[-1\].*Remove that field"),
        ("{", ConfigError, "damaged"),
        ("[]", ConfigError, "no generation config"),
    ],
)
def test_a_generation_config_that_is_not_right_is_refused(source, cut, tmp_path, text, kind, message):
    (source / "generation_config.json").write_text(text)
    with pytest.raises(kind, match=message):
        cut([0])
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_code_that_is_not_copied_is_not_pointed_to(source, cut):
    edit(source / "config.json", auto_map={"AutoModelForCausalLM": "modeling_own.Own"})
    assert "auto_map" not in read(cut([1]) / "config.json")


@pytest.mark.parametrize("told", [{}, {"dtype": "float32"}, {"torch_dtype": "float32"}])
def test_configs_inside_a_config_keep_the_dtype_that_they_say(tmp_path, chained, told):
    kind = transformers.LlavaForConditionalGeneration
    config = transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**TEXT), vision_config=transformers.CLIPVisionConfig(**VISION)
    )
    model = kind(config).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "source")
    path = tmp_path / "source" / "config.json"
    fields = read(path)
    for name in ("dtype", "torch_dtype"):
        fields["vision_config"].pop(name, None)
    fields["vision_config"] |= told | {"auto_map": {"AutoModel": "modeling_own.Own"}}
    fields["text_config"]["dtype"] = "bfloat16"
    path.write_text(json.dumps(fields))
    names = [f"model.language_model.layers.{number}" for number in range(4)]
    plan = Plan.removing(chained(model, names), [0])
    cut_folder(tmp_path / "source", plan, tmp_path / "cut", depth="structure")
    after = read(tmp_path / "cut" / "config.json")
    assert after["dtype"] == after["text_config"]["dtype"] == "bfloat16"
    assert after["vision_config"].get("dtype") == next(iter(told.values()), None)
    assert "auto_map" not in after["vision_config"]
