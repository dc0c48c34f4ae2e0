"""Evidence read layer by layer is that of the whole model: every matrix and every score."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from networks import gpt2, llama, randomised
from shoal.activations import UnitStream
from shoal.architectures.pretrained import read_pretrained
from shoal.errors import ConfigError, DataError
from shoal.importance import EvidenceSettings, StreamSettings, stream_evidence, streamed
from shoal.processes import Processes
from shoal.similarity import SimilaritySettings
from shoal.stages import analyze

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "vocab_size": 64}
GROUPED = {**SIZES, "num_key_value_heads": 2, "num_hidden_layers": 4}


def made(name, **fields):
    import transformers

    kind = getattr(transformers, f"{name}ForCausalLM")
    return randomised(kind(kind.config_class(**fields)))


def gemma2():
    """Every other layer looks back at four tokens only."""
    return made("Gemma2", **GROUPED, head_dim=8, sliding_window=4)


def qwen2():
    """The last two layers look back at four tokens only."""
    return made("Qwen2", **GROUPED, use_sliding_window=True, sliding_window=4, max_window_layers=2)


def mixtral():
    return made("Mixtral", **GROUPED, num_local_experts=4)


def qwen3_moe():
    """The second layer has no experts."""
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    return made("Qwen3Moe", **GROUPED, head_dim=8, mlp_only_layers=[1], **experts)


def lfm2():
    """Convolutions and attention by turns."""
    return made("Lfm2", **GROUPED, layer_types=["conv", "full_attention"] * 2)


def gemma3n():
    """The last two layers read keys and values of earlier ones."""
    fields = {**GROUPED, "intermediate_size": [64] * 4, "head_dim": 8, "num_kv_shared_layers": 2}
    kinds = {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 4}
    inputs = {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 64, "laurel_rank": 4}
    return made("Gemma3n", **fields, **kinds, **inputs, activation_sparsity_pattern=[0.0] * 4)


MODELS = {
    "llama": lambda: llama()[0],
    "gpt2": lambda: gpt2()[0],
    **{model.__name__: model for model in (gemma2, qwen2, mixtral, qwen3_moe, lfm2, gemma3n)},
}


def text(count=3, **more):
    """Batches of text with padding on the right, on the left, and without."""
    generator = torch.Generator().manual_seed(3)
    batches = []
    for number in range(count):
        ids = torch.randint(3, 64, (3, 9), generator=generator)
        mask = torch.ones_like(ids)
        mask[1, [slice(6, None), slice(None, 3), slice(0, 0)][number % 3]] = 0
        batches.append({"input_ids": ids, "attention_mask": mask, **more})
    return batches


def check_alike(found, wanted):
    assert [unit.name for unit in found.chain] == [unit.name for unit in wanted.chain]
    assert found.importance.keys() == wanted.importance.keys()
    assert found.data == pytest.approx(wanted.data)
    assert found.segmentation.starts == wanted.segmentation.starts
    for name in ("boundary_similarity", "angular_distance", "block_influence"):
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), rtol=1e-4, atol=1e-7)
    for name, scores in wanted.importance.items():
        # Savings are differences of numbers about as large as the largest of them.
        np.testing.assert_allclose(found.importance[name], scores, rtol=1e-4, atol=1e-5 * abs(scores).max())


@pytest.fixture
def folder(tmp_path):
    """The folder of a tiny Llama, in several files."""
    llama()[0].save_pretrained(tmp_path, max_shard_size="20KB")
    return tmp_path


@pytest.mark.parametrize(("name", "memory"), [("llama", 2.0), *((name, 0) for name in MODELS)])
def test_all_that_is_found_is_what_the_whole_model_gives(name, memory, tmp_path):
    folder, files = tmp_path / "model", tmp_path / "files"
    files.mkdir()
    MODELS[name]().save_pretrained(folder, max_shard_size="20KB")
    wanted = analyze(read_pretrained(folder).model, text())
    found = stream_evidence(folder, text(), stream=StreamSettings(memory=memory, folder=files))
    assert "taylor" in found.importance
    check_alike(found, wanted)
    assert not list(files.iterdir())


def test_an_encoder_and_a_decoder_are_one_chain(tmp_path):
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, vocab_size=64)
    randomised(T5ForConditionalGeneration(config)).save_pretrained(tmp_path)
    batches = [{**batch, "decoder_input_ids": batch["input_ids"].flip(0)} for batch in text()]
    batches = [{**batch, "labels": batch["input_ids"]} for batch in batches]
    wanted = analyze(read_pretrained(tmp_path).model, batches)
    assert len(wanted.chain) == 4
    check_alike(stream_evidence(tmp_path, batches), wanted)


def test_layers_that_share_weights_have_the_gradients_of_all_of_them(tmp_path):
    fields = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "vocab_size": 64}
    kinds = {"num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid"] * 2, "num_mem_blocks": 1}
    mamba = {"mamba_d_state": 4, "mamba_headdim": 8, "n_mamba_heads": 8, "mamba_ngroups": 1}
    try:
        made("Zamba2", **fields, **kinds, **mamba).save_pretrained(tmp_path)
    except RuntimeError:
        pytest.skip("this version of transformers does not save its shared weights")
    wanted = analyze(read_pretrained(tmp_path).model, text())
    check_alike(stream_evidence(tmp_path, text()), wanted)


def test_images_are_compared_sample_by_sample(tmp_path):
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
    config = ViTConfig(**sizes, image_size=16, patch_size=4, num_labels=5)
    randomised(ViTForImageClassification(config)).save_pretrained(tmp_path)
    batches = [
        {"pixel_values": torch.randn(6, 3, 16, 16), "labels": torch.randint(0, 5, (6,))} for _ in range(2)
    ]
    wanted = analyze(read_pretrained(tmp_path).model, batches)
    assert wanted.data["rows"] == "samples"
    check_alike(stream_evidence(tmp_path, batches), wanted)


def test_settings_and_losses_are_those_asked_for(folder):
    model = read_pretrained(folder).model
    settings = EvidenceSettings(similarity=SimilaritySettings(estimator="biased"), gradients=False)
    wanted = analyze(model, text(), settings=settings)
    found = stream_evidence(folder, text(), settings=settings)
    assert set(found.importance) == {"block_influence", "angular_distance", "magnitude"}
    check_alike(found, wanted)

    def loss(outputs, labels):
        return outputs.logits.square().mean()

    check_alike(stream_evidence(folder, text(), loss=loss), analyze(model, text(), loss=loss))


def test_batches_without_a_loss_have_no_scores_by_gradients(tmp_path):
    from transformers import LlamaConfig, LlamaModel

    LlamaModel(LlamaConfig(**GROUPED)).save_pretrained(tmp_path)
    found = stream_evidence(tmp_path, text())
    assert "taylor" not in found.importance
    assert found.data["loss"] is None


def test_bfloat16_is_computed_in_bfloat16(tmp_path):
    llama()[0].bfloat16().save_pretrained(tmp_path)
    wanted = analyze(read_pretrained(tmp_path).model, text())
    found = stream_evidence(tmp_path, text())
    for name, scores in wanted.importance.items():
        np.testing.assert_allclose(found.importance[name], scores, rtol=0.02, atol=0.02 * abs(scores).max())


def test_one_layer_at_a_time_has_weights(folder, monkeypatch):
    most = []

    def count(model, unit):
        most.append(sum(not any(p.is_meta for p in layer.parameters()) for layer in model.model.layers))
        return 1.0

    monkeypatch.setattr(streamed, "magnitude", count)
    stream_evidence(folder, text())
    assert most == [1] * 4


def test_hidden_states_and_gradients_take_no_more_than_the_states_and_one_more(folder, monkeypatch):
    stores = []

    class Watched(UnitStream):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            stores.append(self.store)

    monkeypatch.setattr(streamed, "UnitStream", Watched)
    stream_evidence(folder, text())
    state = 3 * (3 * 9) * 32 * 4
    # What goes in, what comes out of four layers, and the gradient at the end.
    assert stores[0].most == (1 + 4 + 1) * state
    assert stores[0].kept == 0


def test_data_is_judged_as_for_the_whole_model(folder):
    with pytest.raises(DataError, match="the data is empty"):
        stream_evidence(folder, [])
    with pytest.raises(DataError, match="it needs 4 or more tokens"):
        stream_evidence(folder, [{"input_ids": torch.ones(1, 2, dtype=torch.long)}])


def test_parts_of_layers_are_refused(folder):
    with pytest.raises(ConfigError, match="is not one whole module"):
        stream_evidence(folder, text(), granularity="sublayer")


def test_a_network_that_writes_into_its_weights_is_refused(tmp_path):
    fields = {"hidden_size": 32, "attention_hidden_size": 32, "num_hidden_layers": 4, "vocab_size": 64}
    made("Rwkv", **fields, rescale_every=2).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="it writes into its weights while it runs"):
        stream_evidence(tmp_path, [{"input_ids": batch["input_ids"]} for batch in text()])


@pytest.mark.parametrize("memory", [-1, float("nan")])
def test_memory_is_no_less_than_nothing(memory):
    with pytest.raises(ConfigError, match="gigabytes from 0 upwards work"):
        StreamSettings(memory=memory)


def test_several_processes_are_refused(folder, monkeypatch):
    monkeypatch.setattr(streamed, "together", lambda: nullcontext(Processes(0, 2)))
    with pytest.raises(ConfigError, match="in 2 processes"):
        stream_evidence(folder, text())
