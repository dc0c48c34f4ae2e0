"""The cut of a folder is, tensor for tensor, what the cut of the loaded model would be."""

import json
import os
import shutil
import subprocess
import sys
import textwrap

import pytest
import torch
from safetensors.torch import load_file, save_file

from shoal import Plan, apply, find_units, load, save, verify
from shoal.errors import ConfigError, PlanError, SurgeryError, UnitError, VerificationError
from shoal.steps import Merge
from shoal.surgery import cut_folder, cutting
from shoal.surgery.cutting import why_in_memory

transformers = pytest.importorskip("transformers")
SIZES = {"vocab_size": 32, "num_hidden_layers": 4, "hidden_size": 16, "num_attention_heads": 4}
LLAMA = SIZES | {"intermediate_size": 32, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2}
MIXTRAL = LLAMA | {"num_local_experts": 2}


def model_of(name, **fields):
    kind = getattr(transformers, name)
    torch.manual_seed(0)
    return kind(kind.config_class(**fields)).eval()


def chain_in(chained, model, container):
    return chained(model, [f"{container}.{number}" for number in range(4)])


@pytest.fixture
def source(tmp_path):
    """The folder of a tiny Llama of 4 layers, in several files, with a tokenizer and a template."""
    model_of("LlamaForCausalLM", **LLAMA).save_pretrained(tmp_path / "source", max_shard_size="8KB")
    (tmp_path / "source" / "tokenizer.json").write_text("{}")
    (tmp_path / "source" / "chat_template.jinja").write_text("{{ messages }}")
    (tmp_path / "source" / "notes.py").write_text("raise SystemExit")
    return tmp_path / "source"


@pytest.fixture
def plan(chained):
    model = model_of("LlamaForCausalLM", **LLAMA)
    return Plan.removing(chain_in(chained, model, "model.layers"), [0, 2])


def tensors(folder):
    return {name: value for path in folder.glob("*.safetensors") for name, value in load_file(path).items()}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def read(path):
    return json.loads(path.read_text())


@pytest.mark.parametrize("removed", [[], [0], [3], [1, 2], [0, 1, 2]])
@pytest.mark.parametrize("shards", ["8KB", "1GB"])
@pytest.mark.parametrize(
    ("name", "fields", "container"),
    [
        ("LlamaForCausalLM", LLAMA, "model.layers"),
        ("Qwen2ForCausalLM", LLAMA | {"tie_word_embeddings": True}, "model.layers"),
        ("GPT2LMHeadModel", {"vocab_size": 32, "n_layer": 4, "n_embd": 16, "n_head": 2}, "transformer.h"),
        ("LlamaModel", LLAMA, "layers"),
        ("MixtralForCausalLM", MIXTRAL, "model.layers"),
    ],
)
def test_it_is_what_the_cut_of_the_loaded_model_is(
    tmp_path, chained, name, fields, container, shards, removed
):
    model = model_of(name, **fields)
    model.save_pretrained(tmp_path / "source", max_shard_size=shards)
    plan = Plan.removing(chain_in(chained, model, container), removed)
    small = apply(type(model).from_pretrained(tmp_path / "source"), plan)
    save(small, tmp_path / "memory", plan=plan)
    cut_folder(tmp_path / "source", plan, tmp_path / "cut", depth="structure")
    ours, theirs = tensors(tmp_path / "cut"), tensors(tmp_path / "memory")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    for file in ("config.json", "generation_config.json"):
        if (tmp_path / "memory" / file).exists():
            assert read(tmp_path / "cut" / file) == read(tmp_path / "memory" / file)
    again, told = type(model).from_pretrained(tmp_path / "cut", output_loading_info=True)
    assert not any(told[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ids = torch.arange(6)[None]
    assert torch.equal(again(ids)[0], small(ids)[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_bytes_of_any_dtype_pass_through(source, plan, tmp_path, dtype):
    for path in source.glob("*.safetensors"):
        save_file({name: value.to(dtype) for name, value in load_file(path).items()}, path, {"format": "pt"})
    if dtype.itemsize == 2:
        config = read(source / "config.json") | {"dtype": str(dtype).removeprefix("torch.")}
        (source / "config.json").write_text(json.dumps(config))
    cut_folder(source, plan, tmp_path / "cut", depth="structure")
    before, after = tensors(source), tensors(tmp_path / "cut")
    assert {value.dtype for value in after.values()} == {dtype}
    name = "mlp.up_proj.weight"
    assert torch.equal(
        after[f"model.layers.1.{name}"].view(torch.uint8), before[f"model.layers.3.{name}"].view(torch.uint8)
    )
    index = read(tmp_path / "cut" / "model.safetensors.index.json")
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in after.values())
    assert index["metadata"]["total_parameters"] == sum(value.numel() for value in after.values())


def test_names_without_the_base_model_s_prefix_stay_without_it(tmp_path, chained):
    model = model_of("GPT2LMHeadModel", vocab_size=32, n_layer=4, n_embd=16, n_head=2)
    model.save_pretrained(tmp_path / "source")
    path = tmp_path / "source" / "model.safetensors"
    save_file({k.removeprefix("transformer."): v for k, v in load_file(path).items()}, path, {"format": "pt"})
    plan = Plan.removing(chain_in(chained, model, "transformer.h"), [1])
    cut_folder(tmp_path / "source", plan, tmp_path / "cut")
    again = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "cut")
    assert "h.2.mlp.c_fc.weight" in tensors(tmp_path / "cut")
    assert torch.equal(again(torch.arange(5)[None]).logits, apply(model, plan)(torch.arange(5)[None]).logits)


def test_the_folder_holds_what_a_model_needs_and_its_story(source, plan, tmp_path):
    found = cut_folder(source, plan, tmp_path / "cut", extra={"seeds": {"torch": 3}})
    files = {path.name for path in (tmp_path / "cut").iterdir()}
    assert {"config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"} < files
    assert not files & {"notes.py", ".journal.jsonl"}
    record = read(tmp_path / "cut" / "shoal.json")
    assert record["seeds"] == {"torch": 3}
    assert record["plan"]["index_map"] == {"1": 0, "3": 1}
    assert set(record["source"]["hash"]) == {path.name for path in source.glob("*.safetensors")}
    assert record["verification"]["passed"]
    assert found.folder == tmp_path / "cut"
    names = ["tensors", "layers", "structure", "file hashes", "reload", "parameters", "outputs", "generation"]
    assert [check.name for check in found.checks] == names
    assert all(check.passed for check in found.checks[:6])
    assert verify(tmp_path / "cut").passed
    assert "2 of 4 units" in (tmp_path / "cut" / "README.md").read_text()


def test_a_structure_check_says_what_was_not_checked(source, plan, tmp_path):
    found = cut_folder(source, plan, tmp_path / "cut", depth="structure")
    assert [check.name for check in found.checks if check.passed is None] == [
        "reload",
        "outputs",
        "generation",
    ]
    assert "not asked for" in str(found.checks[-1])


def test_large_folders_are_not_loaded_unless_asked(source, plan, tmp_path, monkeypatch):
    monkeypatch.setattr(cutting, "_SMALL", 10)
    found = cut_folder(source, plan, tmp_path / "cut")
    assert "the weights take 0.0 GB" in str(found.checks[-1])
    assert all(check.name != "parameters" for check in found.checks)
    full = cut_folder(source, plan, tmp_path / "full", depth="full")
    assert any(check.name == "parameters" and check.passed for check in full.checks)


def test_an_existing_folder_is_replaced_only_when_asked(source, plan, tmp_path):
    cut_folder(source, plan, tmp_path / "cut", depth="structure")
    before = contents(tmp_path / "cut")
    with pytest.raises(ConfigError, match="it exists"):
        cut_folder(source, plan, tmp_path / "cut")
    cut_folder(source, plan, tmp_path / "cut", overwrite=True, depth="structure")
    assert contents(tmp_path / "cut") == before
    assert {path.name for path in tmp_path.iterdir()} == {"source", "cut"}


def test_a_check_that_fails_leaves_nothing(source, plan, tmp_path, monkeypatch):
    def harm(folder, blueprint):
        path = next(folder.glob("*.safetensors"))
        path.write_bytes(path.read_bytes()[:-1] + b"!")
        return ()

    monkeypatch.setattr(cutting, "prove_cut", harm)
    with pytest.raises(VerificationError, match=r"'.*/cut'.*not as they were written"):
        cut_folder(source, plan, tmp_path / "cut", depth="full")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def edit(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps(read(path) | fields))


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        ({"architectures": ["Evil"], "auto_map": {"AutoModel": "evil.Evil"}}, ConfigError, "its own code"),
        ({"architectures": ["Trainer"]}, ConfigError, "the class 'Trainer'"),
        ({"architectures": None}, ConfigError, "the class 'None'"),
        ({"architectures": "LlamaModel"}, ConfigError, "the class 'None'"),
        ({"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil"}}, ConfigError, "asked to build"),
        ({"model_type": 3}, ConfigError, "no config of a Hugging Face model"),
        ({"attn_implementation": "evil/kernel"}, ConfigError, "fetch code"),
        ({"transformers_weights": "../x.safetensors"}, ConfigError, "names other files"),
        ({"hidden_size": "many"}, ConfigError, "asked to build"),
        ({"num_hidden_layers": 5}, PlanError, "parameters"),
    ],
)  # fmt: skip
def test_a_config_that_is_not_right_is_refused(source, plan, tmp_path, fields, kind, message):
    (source / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    edit(source, **fields)
    with pytest.raises(kind, match=message):
        cut_folder(source, plan, tmp_path / "cut")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000, ""])
def test_a_config_that_is_no_config_is_refused(source, plan, tmp_path, text):
    (source / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.json"):
        cut_folder(source, plan, tmp_path / "cut")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def truncate(folder):
    path = next(folder.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-1])


def escape(folder):
    (folder.parent / "secret.json").write_text("{}")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to("../secret.json")


def lose(folder):
    next(folder.glob("*.safetensors")).unlink()


@pytest.mark.parametrize(
    ("harm", "message"), [(truncate, "truncated"), (escape, "outside of the folder"), (lose, "no such file")]
)
def test_a_folder_that_is_not_right_is_refused(source, plan, tmp_path, harm, message):
    harm(source)
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(VerificationError, match=message):
        cut_folder(source, plan, tmp_path / "cut")
    assert {path.name for path in tmp_path.iterdir()} == before


def test_a_snapshot_of_the_hub_s_cache_can_be_cut(source, plan, tmp_path):
    snapshot, blobs = tmp_path / "hub" / "snapshots" / "abc", tmp_path / "hub" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(source.iterdir()):
        shutil.copy(path, blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    cut_folder(snapshot, plan, tmp_path / "a", depth="structure")
    cut_folder(source, plan, tmp_path / "b", depth="structure")
    assert tensors(tmp_path / "a").keys() == tensors(tmp_path / "b").keys()
    assert not any(path.is_symlink() for path in (tmp_path / "a").iterdir())


def test_units_that_are_bypassed_need_the_loaded_network(source, tmp_path, chained):
    model = model_of("LlamaForCausalLM", **LLAMA)
    chain = chained(model, ["model.layers.0.mlp"], removal="bypass", outputs="zeros")
    with pytest.raises(UnitError, match="only whole layers"):
        cut_folder(source, Plan.removing(chain, [0]), tmp_path / "cut")


def test_layers_with_other_weights_at_their_new_place_are_refused(source, plan, tmp_path, monkeypatch):
    from shoal.surgery import blueprint

    def odd(model, plan):
        small = apply(model, plan)
        del small.model.layers[1].mlp
        return small

    monkeypatch.setattr(blueprint, "remove_units", odd)
    with pytest.raises(SurgeryError, match="the layers would have other weights"):
        cut_folder(source, plan, tmp_path / "cut")


@pytest.mark.parametrize("prefix", ["model.layers", "layers"])
def test_settings_of_a_quantization_follow_the_layers(source, plan, tmp_path, prefix):
    settings = {
        "quant_method": "fp8",
        "ignored_layers": [f"{prefix}.{n}.mlp" for n in range(4)] + ["lm_head"],
    }
    edit(source, quantization_config=settings)
    if prefix == "layers":
        with pytest.raises(UnitError, match="speaks of 'layers.0.mlp'"):
            cut_folder(source, plan, tmp_path / "cut", depth="structure")
        return
    cut_folder(source, plan, tmp_path / "cut", depth="structure")
    found = read(tmp_path / "cut" / "config.json")["quantization_config"]
    assert found == settings | {"ignored_layers": ["model.layers.0.mlp", "model.layers.1.mlp", "lm_head"]}


def test_why_a_plan_needs_memory(source, plan, tmp_path, chained):
    model = model_of("LlamaForCausalLM", **LLAMA)
    assert why_in_memory(source, plan) == ""
    assert why_in_memory(source, plan, dtype="float32", trust_remote_code=True) == ""
    assert "wanted in float16 and stored in float32" in why_in_memory(source, plan, dtype="float16")
    assert "no local Hugging Face folder" in why_in_memory(tmp_path, plan)
    assert "no local Hugging Face folder" in why_in_memory(tmp_path / "none", plan)
    bypass = Plan.removing(chained(model, ["model.layers.0.mlp"], removal="bypass", outputs="zeros"), [0])
    assert "bypasses" in why_in_memory(source, bypass)
    edit(source, auto_map={"AutoModel": "evil.Evil"})
    assert why_in_memory(source, plan) == ""
    assert "its own code" in why_in_memory(source, plan, trust_remote_code=True)
    edit(source, architectures=None)
    assert "names no class" in why_in_memory(source, plan)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_cut_leaves_no_folder_and_is_finished_with_the_same_bytes(source, plan, tmp_path):
    """20 processes are killed at random moments, each is resumed, once or after a second kill."""
    (tmp_path / "plan.json").write_text(plan.to_json())
    script = """
        import os, random, signal, sys, time
        from pathlib import Path
        from shoal import Plan
        from shoal.surgery import cut_folder

        place, plan = Path(sys.argv[1]), Plan.from_json(Path(sys.argv[1], "plan.json").read_text())

        def start(name, **more):
            child = os.fork()
            if not child:
                cut_folder(place / "source", plan, place / name, depth="structure", chunk=96, **more)
                os._exit(0)
            return child

        def seconds(name):
            begun = time.perf_counter()
            assert os.waitpid(start(name), 0)[1] == 0
            return time.perf_counter() - begun

        cut_folder(place / "source", plan, place / "whole", depth="structure")
        usual, draw, killed = seconds("timed"), random.Random(0), 0
        for number in range(20):
            name = f"cut{number}"
            for round in range(1 + number % 2):
                child = start(name, resume=bool(round))
                time.sleep(draw.uniform(0, usual))
                os.kill(child, signal.SIGKILL)
                status = os.waitpid(child, 0)[1]
                killed += status != 0
                if (place / name).exists():
                    break
            if not (place / name).exists():
                assert os.waitpid(start(name, resume=True), 0)[1] == 0
        print(killed)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)],
        capture_output=True, text=True, timeout=120, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 10
    whole = contents(tmp_path / "whole")
    for number in range(20):
        assert contents(tmp_path / f"cut{number}") == whole
    # Who is killed after its last step leaves an empty lock, which the next one removes.
    assert not [path for path in tmp_path.glob(".*") if path.suffix != ".lock"]


def test_resuming_keeps_what_is_finished(source, plan, tmp_path, monkeypatch):
    from shoal.surgery import carrying

    def interrupt(folder, blueprint):
        raise KeyboardInterrupt

    whole = cut_folder(source, plan, tmp_path / "whole", depth="structure")
    with monkeypatch.context() as patch:
        patch.setattr(cutting, "prove_cut", interrupt)
        with pytest.raises(KeyboardInterrupt):
            cut_folder(source, plan, tmp_path / "cut", depth="structure")
    assert not (tmp_path / "cut").exists()
    with monkeypatch.context() as patch:
        patch.setattr(carrying, "_write", None)
        cut_folder(source, plan, tmp_path / "cut", depth="structure", resume=True)
    assert contents(tmp_path / "cut") == contents(whole.folder)
    assert not list(tmp_path.glob(".*"))


def test_another_plan_does_not_go_on_with_what_is_left(source, plan, tmp_path, monkeypatch, chained):
    def interrupt(folder, blueprint):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cutting, "prove_cut", interrupt)
        with pytest.raises(KeyboardInterrupt):
            cut_folder(source, plan, tmp_path / "cut", depth="structure")
    model = model_of("LlamaForCausalLM", **LLAMA)
    other = Plan.removing(chain_in(chained, model, "model.layers"), [3])
    cut_folder(source, other, tmp_path / "cut", resume=True, depth="structure")
    assert read(tmp_path / "cut" / "config.json")["num_hidden_layers"] == 3
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("target", ["source", "source/cut", "source/../source"])
def test_a_cut_is_not_written_over_or_into_its_original(source, target, chained, tmp_path):
    model = model_of("LlamaForCausalLM", **LLAMA)
    plan = Plan.removing(chain_in(chained, model, "model.layers"), [1])
    before = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match="that is the original, or in it"):
        cut_folder(source, plan, tmp_path / target, overwrite=True)
    assert {path: path.read_bytes() for path in source.rglob("*") if path.is_file()} == before


# Plans that merge


@pytest.fixture
def images(tmp_path):
    """The folder of a tiny ResNet of transformers."""
    fields = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [2, 1], "layer_type": "basic"}
    net = model_of("ResNetForImageClassification", **fields)
    net.save_pretrained(tmp_path / "images")
    return tmp_path / "images"


def merging(net, example):
    chain = find_units(net, example, granularity="layer")
    layers = tuple(unit.name for unit in chain)[1:3]
    return Plan.merging(chain, [Merge(start=1, stop=3, kept=(1, 2), layers=layers)])


def test_files_cannot_lose_what_is_merged(images, tmp_path):
    net = transformers.ResNetForImageClassification.from_pretrained(images)
    plan = merging(net, {"pixel_values": torch.randn(1, 3, 32, 32)})
    assert "merges layers" in why_in_memory(images, plan)
    with pytest.raises(PlanError, match="plan that merges 1 segments of layers: only units can be removed"):
        cut_folder(images, plan, tmp_path / "cut")
    assert not (tmp_path / "cut").exists()


def test_a_network_of_transformers_that_can_be_followed_whole_is_merged_saved_and_loaded(images, tmp_path):
    net = transformers.ResNetForImageClassification.from_pretrained(images)
    example = {"pixel_values": torch.randn(2, 3, 32, 32)}
    plan = merging(net, example)
    small = apply(net, plan)
    save(
        small,
        tmp_path / "small",
        plan=plan,
        example=example,
        source={"kind": "huggingface", "reference": str(images)},
    )
    verify(tmp_path / "small")
    again = load(tmp_path / "small")
    assert sum(isinstance(each, torch.nn.Conv2d) for each in again.modules()) < sum(
        isinstance(each, torch.nn.Conv2d) for each in net.modules()
    )
