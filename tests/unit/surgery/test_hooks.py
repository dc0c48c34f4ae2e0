"""Models that Accelerate has dispatched are cut like others, and what hangs on them follows."""

import numpy as np
import pytest
import torch
from torch import nn

from shoal import ConfigError, Plan, analyze, apply, find_units, load, save, verify
from shoal.surgery.hooks import check_writable

accelerate = pytest.importorskip("accelerate")

pytestmark = pytest.mark.filterwarnings("ignore:Attempting to save a model with offloaded modules")

REST = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
LAYERS = {f"model.layers.{number}": "cpu" for number in range(5)}
CPU = torch.device("cpu")


def whole(model, folder):
    return model


def forced(model, folder):
    return accelerate.dispatch_model(model, {"": "cpu"}, force_hooks=True)


def by_layer(model, folder):
    return accelerate.dispatch_model(model, REST | LAYERS, force_hooks=True)


def on_disk(model, folder):
    places = REST | LAYERS | {f"model.layers.{number}": "disk" for number in (1, 2, 4)}
    return accelerate.dispatch_model(model, places, offload_dir=folder / "offloaded")


def all_in_memory(model, folder):
    return accelerate.cpu_offload(model, execution_device=CPU)


def all_on_disk(model, folder):
    accelerate.disk_offload(model, folder / "offloaded", execution_device=CPU)
    return model


WAYS = [forced, by_layer, on_disk, all_in_memory, all_on_disk]
OFFLOADED = [on_disk, all_in_memory, all_on_disk]


@pytest.fixture(params=[False, True], ids=["", "tied"])
def llama(small_llama, request):
    """A Llama, twice: as it is, and to be dispatched."""
    if request.param:
        small_llama.config.tie_word_embeddings = True
        small_llama.tie_weights()
    twin = type(small_llama)(small_llama.config).eval()
    twin.load_state_dict(small_llama.state_dict())
    return small_llama, twin


@pytest.fixture
def text():
    return {"input_ids": torch.randint(0, 64, (4, 16))}


def cut(model, text, removed=(1, 3)):
    return apply(model, Plan.removing(find_units(model, text), list(removed)))


def hooks(model):
    return [vars(module)["_hf_hook"] for module in model.modules() if "_hf_hook" in vars(module)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("removed", [[], [0], [1, 3], [0, 1, 2, 3]])
def test_a_dispatched_model_is_cut_as_a_whole_one(llama, text, tmp_path, way, removed):
    model, twin = llama
    dispatched = way(twin, tmp_path)
    small = cut(dispatched, text, removed)
    assert torch.equal(small(**text).logits, cut(model, text, removed)(**text).logits)
    # Neither the original nor a second call knows of the first.
    assert torch.equal(dispatched(**text).logits, model(**text).logits)
    assert torch.equal(small(**text).logits, cut(model, text, removed)(**text).logits)


@pytest.mark.parametrize("way", WAYS)
def test_the_hooks_of_the_cut_model_are_its_own(llama, text, tmp_path, way):
    dispatched = way(llama[1], tmp_path)
    small = cut(dispatched, text)
    assert len(hooks(small)) == len(hooks(dispatched)) - sum(
        len(hooks(dispatched.model.layers[number])) for number in (1, 3)
    )
    assert not {id(hook) for hook in hooks(small)} & {id(hook) for hook in hooks(dispatched)}
    modules = set(small.modules())
    for module in modules:
        if "_old_forward" in vars(module):
            assert module._old_forward.__self__ is module
            assert module.forward.args == (module,)


def test_the_device_map_has_the_new_names(llama, text, tmp_path):
    dispatched = on_disk(llama[1], tmp_path)
    before = dict(dispatched.hf_device_map)
    small = cut(dispatched, text)
    assert small.hf_device_map == REST | {
        "model.layers.0": "cpu",
        "model.layers.1": "disk",
        "model.layers.2": "disk",
    }
    assert dispatched.hf_device_map == before


def test_a_device_map_may_name_parameters_and_parts(small_llama, text):
    model = forced(small_llama, None)
    model.hf_device_map = {
        "": 0,
        "model.layers.3": 1,
        "model.layers.4.mlp": 2,
        "model.layers.4.mlp.up_proj.weight": 3,
    }
    model.hf_device_map |= {"model.norm.weight": 4, "model.layers.3.mlp": 5}
    assert cut(model, text).hf_device_map == {
        "": 0,
        "model.layers.2.mlp": 2,
        "model.layers.2.mlp.up_proj.weight": 3,
        "model.norm.weight": 4,
    }


def test_moving_the_cut_model_does_not_move_the_original(small_llama, text):
    dispatched = forced(small_llama, None)
    small = cut(dispatched, text)
    small.to(torch.float64)
    assert {p.dtype for p in small.parameters()} == {torch.float64}
    assert {p.dtype for p in dispatched.parameters()} == {torch.float32}
    assert small.to.__wrapped__.__self__ is small


def test_a_method_that_knows_itself_is_carried_over(text):
    class Layer(nn.Sequential):
        pass

    net = nn.Sequential(*(Layer(nn.Linear(4, 4), nn.ReLU()) for _ in range(3)))

    def patched(module):
        original = module.forward

        def forward(x, *, depth=1):
            return original(x) if depth == 0 else forward(x, depth=depth - 1)

        return forward

    for layer in net:
        layer.forward = patched(layer)
    x = torch.randn(2, 4)
    small = apply(net, Plan.removing(find_units(net, x), [0]))
    expected = net[2](net[1](x))
    assert torch.equal(small(x), expected)
    for parameter in net.parameters():
        parameter.data.zero_()
    assert torch.equal(small(x), expected)


def test_offloaded_weights_are_shared_and_those_that_are_gone_let_go(small_llama, text):
    dispatched = all_in_memory(small_llama, None)
    store = dispatched.lm_head._hf_hook.weights_map.dataset
    small = cut(dispatched, text)
    own = small.lm_head._hf_hook.weights_map.dataset
    assert own is not store
    assert {key for key in store if key not in own} == {
        key for key in store if key.startswith(("model.layers.1.", "model.layers.3."))
    }
    assert all(own[key] is store[key] for key in own)


def test_weights_on_disk_are_found_by_the_names_that_they_had(small_llama, text, tmp_path):
    small = cut(all_on_disk(small_llama, tmp_path), text)
    loader = small.lm_head._hf_hook.weights_map.dataset
    assert not any(key.startswith(("model.layers.1.", "model.layers.3.")) for key in [*loader, *loader.index])
    assert "model.layers.4.mlp.up_proj.weight" in loader


@pytest.mark.parametrize("way", [forced, by_layer])
def test_a_dispatched_model_is_scored_as_a_whole_one(llama, text, tmp_path, way):
    model, twin = llama
    found, expected = analyze(way(twin, tmp_path), [text]), analyze(model, [text])
    np.testing.assert_array_equal(found.boundary_similarity, expected.boundary_similarity)
    for name, scores in expected.importance.items():
        np.testing.assert_allclose(found.importance[name], scores, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("way", OFFLOADED)
def test_scores_of_offloaded_weights_are_refused(small_llama, text, tmp_path, way):
    with pytest.raises(
        ConfigError, match=r"not held in memory but offloaded.*score its folder layer by layer"
    ):
        analyze(way(small_llama, tmp_path), [text])


@pytest.mark.parametrize("way", [forced, by_layer, on_disk])
def test_a_dispatched_model_is_saved_whole(llama, text, tmp_path, way):
    model, twin = llama
    dispatched = way(twin, tmp_path)
    small = cut(dispatched, text)
    save(small, tmp_path / "small", example=text)
    verify(tmp_path / "small")
    loaded = load(tmp_path / "small")
    expected = cut(model, text).state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())
    # Saving leaves the model as usable as it was.
    assert torch.equal(small(**text).logits, cut(model, text)(**text).logits)


@pytest.mark.parametrize("way", [all_in_memory, all_on_disk])
def test_weights_that_nothing_fetches_are_not_saved(small_llama, tmp_path, way):
    model = way(small_llama, tmp_path)
    match = r"asked to save LlamaForCausalLM: \d+ of its weights .*not held in memory.*shoal apply FOLDER"
    with pytest.raises(ConfigError, match=match):
        save(model, tmp_path / "small")
    assert not (tmp_path / "small").exists()


def test_what_transformers_fetches_itself_may_be_saved_as_a_stock_folder_alone(small_llama, tmp_path):
    model = on_disk(small_llama, tmp_path)
    check_writable(model, stock=True)
    with pytest.raises(ConfigError, match="not held in memory but offloaded"):
        check_writable(model, stock=False)


def test_a_hook_that_sends_another_model_away_does_not_copy_it(text):
    other, model = (
        nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(3))) for _ in range(2)
    )
    other, before = accelerate.cpu_offload_with_hook(other, CPU)
    model, _ = accelerate.cpu_offload_with_hook(model, CPU, prev_module_hook=before)
    small = apply(model, Plan.removing(find_units(model, torch.ones(1, 4)), [1]))
    assert small._hf_hook is not model._hf_hook
    assert small._hf_hook.prev_module_hook is before
    assert torch.equal(small(torch.ones(1, 4)), model[2](model[0](torch.ones(1, 4))))
