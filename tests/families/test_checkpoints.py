"""The cut that is made of a folder's files is, byte for byte, the one that is made of the loaded network."""

import json
import re

import pytest
from safetensors.torch import load_file

from families.cutting import cuts_of
from families.special import MAJOR
from families.tiny import made
from shoal.architectures import find_units
from shoal.architectures.pretrained import quiet
from shoal.errors import UnitError
from shoal.plan import Plan
from shoal.surgery import apply, cut_folder, save

pytestmark = pytest.mark.filterwarnings("ignore")

NETWORKS = {
    "dense": "llama",
    "tied": "gpt2",
    "kinds of attention": "gemma3_text",
    "mixture of experts": "mixtral",
    "experts after dense layers": "deepseek_v3",
    "attention and Mamba": "jamba",
    "attention and convolutions": "lfm2",
    "no attention": "mamba2",
    "embeddings for every layer": "gemma3n_text",
    "encoder and decoder": "T5ForConditionalGeneration",
    "text and images": "CLIPModel",
    "images": "Dinov2ForImageClassification",
    "stages": "ConvNextForImageClassification",
    "sound": "WhisperForConditionalGeneration",
}
if MAJOR > 4:
    NETWORKS["shared keys and values"] = "gemma4_text"


def tensors(folder):
    """Dtype, shape and bytes of every tensor, by name."""
    found = {}
    for path in folder.glob("*.safetensors"):
        found |= {
            name: (value.dtype, tuple(value.shape), value.numpy().tobytes())
            for name, value in load_file(path).items()
        }
    return found


@pytest.mark.parametrize("what", NETWORKS)
def test_a_cut_of_files_is_the_cut_of_the_network(what, tmp_path):
    network, example = made(NETWORKS[what])
    network.save_pretrained(tmp_path / "whole")
    with quiet():
        loaded = type(network).from_pretrained(tmp_path / "whole")
    chain = find_units(loaded, example)
    cuts = [removed for removed in cuts_of(chain) if {*removed} <= {*chain.removable}]
    outcomes = [compare(loaded, Plan.removing(chain, removed), tmp_path) for removed in cuts]
    assert "equal" in outcomes


def compare(network, plan, folder):
    """Cut a network and its files `whole` in a folder, and say whether both were made or both refused."""
    memory, files = (folder / f"{where} {plan.removed}" for where in ("memory", "files"))
    try:
        save(apply(network, plan), memory, plan=plan)
    except UnitError as refusal:
        with pytest.raises(UnitError, match=re.escape(str(refusal))):
            cut_folder(folder / "whole", plan, files)
        return "refused"
    cut_folder(folder / "whole", plan, files, depth="structure")
    assert tensors(memory) == tensors(files)
    assert config_of(memory) == config_of(files)
    return "equal"


def config_of(folder):
    """What a folder's config says; transformers notes the dtype in configs inside it, files keep theirs."""
    fields = json.loads((folder / "config.json").read_text())
    for inner in fields.values():
        if isinstance(inner, dict):
            inner.pop("dtype", None)
    return fields
