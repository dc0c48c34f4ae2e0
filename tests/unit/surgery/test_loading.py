from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from shoal import Plan, apply, load, save
from shoal.errors import ConfigError, PlanError, VerificationError

SOURCE = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        return x + self.linear(x)

def build():
    torch.manual_seed({seed})
    return nn.Sequential(*(Block() for _ in range(3)))
"""


@pytest.fixture
def small(net, net_chain) -> tuple[nn.Module, Plan]:
    plan = Plan.removing(net_chain, [0, 2])
    return apply(net, plan), plan


def same(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_what_was_saved_is_loaded(net, small, tmp_path, dtype):
    model, plan = small[0].to(dtype), small[1]
    folder = save(model, tmp_path / "out", plan=plan)
    again: Any = load(folder, model=net)
    assert same(again, model)
    assert {p.dtype for p in again.parameters()} == {dtype}
    assert again.head.weight is again.stem.weight
    assert not again.training


def test_the_original_may_be_a_function_and_stays_untouched(net, small, tmp_path):
    before = net.stem.weight.clone()
    folder = save(small[0], tmp_path / "out", plan=small[1])
    nn.init.zeros_(small[0].stem.weight)
    again: Any = load(folder, model=lambda: net)
    assert torch.equal(net.stem.weight, before)
    assert torch.equal(again.stem.weight, before)


def test_a_network_without_a_plan_is_loaded_into_the_given_one(net, tmp_path):
    assert same(load(save(net, tmp_path / "out"), model=net), net)


def test_a_network_of_a_file_is_built_again(tmp_path, chained):
    file = tmp_path / "mine.py"
    file.write_text(SOURCE.format(seed=1))
    from shoal.architectures.references import load_model

    loaded = load_model(f"{file}:build")
    plan = Plan.removing(chained(loaded.model, ["0", "1", "2"]), [1])
    small = apply(loaded.model, plan)
    nn.init.ones_(small[0].linear.weight)  # type: ignore[index]
    folder = save(small, tmp_path / "out", plan=plan, source=loaded.source)
    assert same(load(folder), small)
    assert same(load_model(str(folder)).model, small)

    file.write_text(SOURCE.format(seed=2))
    with pytest.raises(ConfigError, match=r"has changed since. Pass model="):
        load(folder)
    file.unlink()
    with pytest.raises(ConfigError, match=r"is not there. Pass model="):
        load(folder)


def test_a_pretrained_folder_is_loaded_by_its_stock_class(llama, llama_chain, tmp_path):
    small: Any = apply(llama, Plan.removing(llama_chain, [2])).to(torch.bfloat16)
    again: Any = load(save(small, tmp_path / "out"))
    assert type(again) is type(llama)
    assert again.dtype is torch.bfloat16
    assert same(again, small)


def test_a_pretrained_folder_that_shoal_did_not_write_is_loaded_too(llama, tmp_path):
    llama.save_pretrained(tmp_path)
    assert same(load(tmp_path), llama)


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="there is no such folder"):
        load(tmp_path / "none")


def test_a_folder_without_a_record_is_an_error(tmp_path):
    with pytest.raises(VerificationError, match="there is no shoal.json in it"):
        load(tmp_path)


@pytest.mark.parametrize("pretrained", [True, False])
def test_missing_weights_are_an_error(net, llama, tmp_path, pretrained):
    folder = save(llama if pretrained else net, tmp_path / "out")
    (folder / "model.safetensors").unlink()
    with pytest.raises(VerificationError, match=r"there is no model\.safetensors in it"):
        load(folder, model=net)


@pytest.mark.parametrize("pretrained", [True, False])
@pytest.mark.parametrize("keep", [0, 5, 100, -8])
def test_truncated_weights_are_an_error_that_names_the_file(net, llama, tmp_path, pretrained, keep):
    folder = save(llama if pretrained else net, tmp_path / "out")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(VerificationError, match=r"model\.safetensors is truncated or damaged"):
        load(folder, model=net)


def test_a_missing_part_of_sharded_weights_is_an_error(llama, tmp_path):
    llama.save_pretrained(tmp_path, max_shard_size="4KB")
    parts = sorted(tmp_path.glob("*.safetensors"))
    assert len(parts) > 1
    assert same(load(tmp_path), llama)
    parts[0].unlink()
    with pytest.raises(VerificationError, match=parts[0].name):
        load(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(VerificationError, match=r"index\.json is damaged"):
        load(tmp_path)


def test_weights_of_another_shape_are_an_error(net, tmp_path):
    folder = save(net, tmp_path / "out")
    with pytest.raises(VerificationError, match="do not fit the Sequential that was built"):
        load(folder, model=nn.Sequential(nn.Linear(4, 4)))


def test_pretrained_weights_that_are_missing_are_an_error(llama, llama_chain, tmp_path):
    folder = save(llama, tmp_path / "out")
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(fields | {"num_hidden_layers": 4}))
    with pytest.raises(VerificationError, match=r"weights are missing.*model\.layers\.3"):
        load(folder)


def test_a_config_that_the_stock_loader_refuses_is_an_error(llama, tmp_path):
    folder = save(llama, tmp_path / "out")
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(fields | {"hidden_size": 8}))
    with pytest.raises(VerificationError, match="the stock loader of transformers fails"):
        load(folder)


def test_the_plan_of_another_network_is_an_error(small, tmp_path):
    folder = save(small[0], tmp_path / "out", plan=small[1])
    with pytest.raises(PlanError, match="Make a plan for this model"):
        load(folder, model=nn.Sequential(nn.Linear(4, 4)))


def test_an_unknown_original_is_asked_for(net, tmp_path):
    with pytest.raises(ConfigError, match=r"does not say how its .*Net is built. Pass model="):
        load(save(net, tmp_path / "out"))


def test_a_function_of_another_package_is_not_called_unasked(net, tmp_path):
    source = {"kind": "import", "reference": "os:getcwd"}
    with pytest.raises(ConfigError, match="allow it with trust_remote_code"):
        load(save(net, tmp_path / "out", source=source))


def test_a_note_of_an_unknown_kind_is_an_error(net, tmp_path):
    with pytest.raises(ConfigError, match=r"this shoal does not know it. Pass model="):
        load(save(net, tmp_path / "out", source={"kind": "magic", "reference": "x"}))


def test_no_pickle_is_ever_loaded(llama, tmp_path):
    llama.save_pretrained(tmp_path)
    Path(tmp_path / "model.safetensors").unlink()
    torch.save(llama.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(VerificationError, match=r"there is no model\.safetensors"):
        load(tmp_path)
