from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from shoal import Plan, apply, save, verify
from shoal.errors import ConfigError, VerificationError
from shoal.surgery import record_verification
from shoal.surgery.record import hashes, read_record, write_record


def results(verification: Any) -> dict[str, bool | None]:
    return {check.name: check.passed for check in verification.checks}


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(3, 32, (2, 6))


def test_a_pretrained_folder_passes_every_check(llama, llama_chain, ids, tmp_path):
    plan = Plan.removing(llama_chain, [1])
    folder = save(apply(llama, plan), tmp_path / "out", plan=plan, example={"input_ids": ids})
    verification = verify(folder)
    assert verification.passed
    assert results(verification) == {
        "file hashes": True,
        "reload": True,
        "parameters": True,
        "outputs": True,
        "generation": True,
    }
    assert "8 tokens equal with and without cache" in str(verification.checks[-1])


def test_another_network_passes_the_checks_that_apply(net, net_chain, x, tmp_path):
    plan = Plan.removing(net_chain, [1])
    folder = save(apply(net, plan), tmp_path / "out", plan=plan, example=x)
    verification = verify(folder, model=net)
    assert verification.passed
    assert results(verification)["outputs"] is True
    assert results(verification)["generation"] is None
    assert "Net does not generate" in verification.checks[-1].detail


def test_without_probe_and_reference_it_says_that_outputs_were_not_compared(net, tmp_path):
    verification = verify(save(net, tmp_path / "out"), model=net)
    assert results(verification)["outputs"] is None
    assert verification.passed


def test_a_plain_pretrained_folder_is_checked_as_far_as_it_can_be(llama, tmp_path):
    llama.save_pretrained(tmp_path)
    found = results(verify(tmp_path))
    assert found["file hashes"] is None
    assert found["parameters"] is None
    assert found["generation"] is True


def test_the_reference_is_compared_on_the_example(net, x, tmp_path):
    folder = save(net, tmp_path / "out")
    assert results(verify(folder, model=net, reference=net, example=x))["outputs"] is True
    other = type(net)().eval()
    with pytest.raises(VerificationError, match="outputs: differ from the reference"):
        verify(folder, model=net, reference=other, example=x)


def test_the_reference_is_compared_on_the_example_of_the_probe(net, x, tmp_path):
    folder = save(net, tmp_path / "out", example=x)
    assert results(verify(folder, model=net, reference=net))["outputs"] is True


def test_a_reference_without_an_example_is_refused(net, tmp_path):
    with pytest.raises(ConfigError, match="Pass example="):
        verify(save(net, tmp_path / "out"), model=net, reference=net)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_tolerance_follows_the_dtype(llama, ids, tmp_path, dtype):
    folder = save(llama.to(dtype), tmp_path / "out", example={"input_ids": ids})
    assert verify(folder).passed


def test_a_tolerance_that_was_asked_for_is_used(net, x, tmp_path):
    folder = save(net, tmp_path / "out")
    other: Any = type(net)().eval()
    other.load_state_dict(net.state_dict())
    other.head.bias.data += 1e-3
    assert verify(folder, model=net, reference=other, example=x, tolerance=1.0).passed
    with pytest.raises(VerificationError, match="1e-05 allowed"):
        verify(folder, model=net, reference=other, example=x)


def test_a_changed_weight_fails_hashes_and_outputs(net, x, tmp_path):
    folder = save(net, tmp_path / "out", example=x)
    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, folder / "model.safetensors")
    with pytest.raises(VerificationError, match=r"1 of 5 checks failed: file hashes: .*model\.safetensors"):
        verify(folder, model=net)
    write_record(folder, read_record(folder) | {"hash": hashes(folder)})
    with pytest.raises(VerificationError, match="outputs: differ from the saved probe"):
        verify(folder, model=net)


def test_a_file_that_was_added_fails(net, tmp_path):
    folder = save(net, tmp_path / "out")
    save_file({"a": torch.ones(1)}, folder / "more.safetensors")
    with pytest.raises(VerificationError, match=r"more\.safetensors"):
        verify(folder, model=net)


def test_truncated_weights_fail(llama, tmp_path):
    folder = save(llama, tmp_path / "out")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(VerificationError, match=r"2 of 2 checks failed.*truncated or damaged"):
        verify(folder)


def test_a_config_with_a_layer_too_few_or_too_many_fails(llama, tmp_path):
    folder = save(llama, tmp_path / "out")
    fields = json.loads((folder / "config.json").read_text())
    for layers, kind in ((2, "unexpected keys: model.layers.2"), (4, "missing keys: model.layers.3")):
        (folder / "config.json").write_text(json.dumps(fields | {"num_hidden_layers": layers}))
        with pytest.raises(VerificationError, match=f"reload: {kind}.*parameters: "):
            verify(folder)


def test_layers_that_share_a_place_in_the_cache_fail(llama, tmp_path, monkeypatch):
    for parameter in llama.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    folder = save(llama, tmp_path / "out")
    from shoal.surgery import loading, verification

    def wrong(*args: Any, **kwargs: Any) -> Any:
        model, faults = loading.read_folder(*args, **kwargs)
        for layer in model.model.layers:  # type: ignore[union-attr]
            layer.self_attn.layer_idx = 0
        return model, faults

    monkeypatch.setattr(verification, "read_folder", wrong)
    with pytest.raises(
        VerificationError, match="generation: logits of token . differ with and without cache"
    ):
        verify(folder)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="there is no such folder"):
        verify(tmp_path / "none")


def test_a_folder_without_a_record_fails(tmp_path):
    with pytest.raises(VerificationError, match="shoal did not write it"):
        verify(tmp_path)


def test_what_was_verified_is_noted_in_the_folder(net, x, tmp_path):
    folder = save(net, tmp_path / "out", example=x)
    verification = verify(folder, model=net)
    record_verification(verification)
    assert read_record(folder)["verification"] == verification.as_json()
    assert verify(folder, model=net).passed


def test_an_encoder_does_not_generate(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    folder = save(transformers.BertModel(config).eval(), tmp_path / "out")
    assert results(verify(folder))["generation"] is None


def test_answers_in_dicts_tuples_and_objects_are_compared(tmp_path, x):
    class Many(nn.Linear):
        def forward(self, input: torch.Tensor) -> Any:
            y = super().forward(input)
            return {"a": y, "b": (y + 1, [y * 2, None])}

    model = Many(4, 4)
    folder = save(model, tmp_path / "out", example=(x,))
    assert verify(folder, model=model).passed
