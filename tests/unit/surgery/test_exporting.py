"""What onnxruntime answers with a file is held against torch by the tests themselves, on other inputs."""

from __future__ import annotations

import json
import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import convnets
from shoal.architectures.convolutions import find_convolutions
from shoal.architectures.symbolic import trace_module
from shoal.errors import (
    ConfigError,
    DataError,
    MissingExtraError,
    ShoalWarning,
    SurgeryError,
    VerificationError,
)
from shoal.steps import Merge
from shoal.surgery import EntryRules, ExportCheck, export_onnx, find_entries, merge_, onnx_files
from shoal.surgery.probe import answers, difference

runtime = pytest.importorskip("onnxruntime")


def net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)).eval()


def images(samples=2, size=8):
    return torch.randn(samples, 3, size, size)


def gap(path, model, inputs):
    """How far onnxruntime's answers are from torch's, relative to the largest number."""
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    tensors = [each for each in inputs if isinstance(each, torch.Tensor)]
    found = session.run(None, dict(zip(names, (each.numpy() for each in tensors), strict=True)))
    floating = [torch.as_tensor(each) for each in found if each.dtype.kind == "f"]
    return difference(tuple(floating), answers(model, inputs))


def merged(model, example, seed=0):
    """A network with segments that were drawn at random merged."""
    found, draw = find_convolutions(model.eval(), example), random.Random(seed)
    entries = find_entries(found, EntryRules(prune=False))
    steps, at = [], 0
    while at < len(found.layers):
        entry = draw.choice([entry for entry in entries if entry.segment.start == at])
        names = tuple(found.layers[index].name for index in entry.segment)
        start, at = at, entry.segment.stop
        steps.append(Merge(start=start, stop=at, kept=entry.kept, layers=names, added=entry.added))
    assert len(steps) < len(found.layers)
    return merge_(found, steps)


def mobile():
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)]
    return nn.Sequential(convnets.mobilenet_v2(scale=0.25)[0][:4], *head)


NETWORKS = {
    "residual": (lambda: convnets.resnet((1, 1), 8), lambda samples: (images(samples, 32),)),
    "inverted": (mobile, lambda samples: (images(samples, 16),)),
    "plain": (lambda: convnets.vgg(((4, 4), (8, 8))), lambda samples: (images(samples, 16),)),
    "diffusion": (
        lambda: convnets.DiffusionUNet(8, (1,), 1, 8, 8),
        lambda samples: (images(samples), torch.arange(samples)),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_merged_networks_answer_the_same_in_onnxruntime_to_any_number_of_samples(name, tmp_path):
    make, inputs = NETWORKS[name]
    model = merged(make(), inputs(2))
    found = export_onnx(model, inputs(1), tmp_path / "net.onnx")
    assert found.dynamic_batch
    assert sorted(found.differences) == [1, 3]
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]
    assert gap(found.path, model, inputs(5)) < 1e-5


def test_the_check_says_what_was_written(tmp_path):
    found = export_onnx(net(), images(), tmp_path / "new" / "net.onnx", opset=18)
    said = json.loads(json.dumps(found.as_json()))
    assert isinstance(found, ExportCheck)
    assert said["path"] == str(tmp_path / "new" / "net.onnx")
    assert (said["opset"], said["tolerance"], said["dynamic_batch"]) == (18, 1e-4, True)
    assert list(found.inputs.values()) == [("batch", 3, 8, 8)]
    assert list(found.outputs.values()) == [("batch", 2, 4, 4)]
    assert found.size == found.path.stat().st_size
    assert max(found.differences.values()) < 1e-6


class Choosing(nn.Module):
    """Takes what is no tensor too, and answers with more than one."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x, scale=1, mask=None, name="a"):
        torch._assert(x.shape[1] == 3, "three channels")
        assert name == "a"
        y = F.pad(self.conv(x) * scale, (0, 1, 2, 0))[:, 1:, :, 1:]
        y = y if mask is None else y * mask
        return {"map": y, "largest": [y.mean((1, 2, 3)), y.argmax(1)], "none": None}


@pytest.mark.parametrize("traced", [False, True])
def test_arguments_that_are_no_tensors_are_fixed_and_asserts_do_no_harm(traced, tmp_path):
    example, model = (images(1), 2, None, "a"), Choosing().eval()
    model = trace_module(model, example, {}) if traced else model
    found = export_onnx(model, example, tmp_path / "net.onnx")
    assert list(found.inputs) == ["x"]
    assert len(found.outputs) == 3
    assert gap(found.path, model, (images(5), 2, None, "a")) < 1e-6


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(4, 12)

    def forward(self, mask, x, heads):
        q, k, v = self.mix(x).chunk(3, dim=-1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.3)
        return y + F.scaled_dot_product_attention(*(3 * [heads]), is_causal=True).sum(1)


def test_attention_without_heads_is_written_too(tmp_path):
    masks, heads = torch.randn(3, 6, 6), torch.randn(3, 2, 6, 4)
    example = {"x": torch.randn(3, 6, 4), "heads": heads, "mask": masks}
    found = export_onnx(Attending(), example, tmp_path / "net.onnx")
    assert set(found.inputs) == {"x", "heads", "mask"}
    assert found.dynamic_batch
    assert sorted(found.differences) == [3, 4]


def test_the_number_of_samples_can_be_fixed(tmp_path):
    found = export_onnx(net(), images(3), tmp_path / "net.onnx", dynamic_batch=False)
    assert list(found.inputs.values()) == [(3, 3, 8, 8)]
    assert (found.why_fixed, list(found.differences)) == ("not asked for", [3])
    assert not found.dynamic_batch


class OfTwo(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(12, 2)

    def forward(self, x):
        return self.linear(x.reshape(2, 12))


def test_where_the_number_of_samples_cannot_be_free_it_is_said(tmp_path):
    with pytest.warns(ShoalWarning, match="takes 2 samples at a time, no more and no less: its code"):
        found = export_onnx(OfTwo(), torch.randn(2, 3, 4), tmp_path / "net.onnx")
    assert list(found.inputs.values()) == [(2, 3, 4)]
    assert gap(found.path, OfTwo(), (torch.randn(2, 3, 4),)) > 0.01


def test_the_network_stays_as_it_is(tmp_path):
    model = convnets.vgg(((4,),)).train()
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    export_onnx(model, torch.zeros(1, 3, 8, 8), tmp_path / "net.onnx")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_half_precision_is_held_to_what_it_can(tmp_path):
    found = export_onnx(net().half(), images().half(), tmp_path / "net.onnx")
    assert found.tolerance == 1e-2


# What fails.


class Deciding(nn.Module):
    def forward(self, x):
        return x + 1 if x.sum() > 0 else 2 * x


FAILING = {
    "answers": (
        net,
        images,
        {"tolerance": 1e-12, "dynamic_batch": False},
        VerificationError,
        "answers otherwise than torch to 2",
    ),
    "float64": (
        lambda: net().double(),
        lambda: images().double(),
        {"dynamic_batch": False},
        VerificationError,
        "NOT_IMPLEMENTED.*float32",
    ),
    "numbers": (Deciding, images, {}, SurgeryError, "Deciding as ONNX: torch cannot.*data-dependent"),
    "example": (net, lambda: torch.zeros(1, 2, 8, 8), {}, DataError, "failed with RuntimeError"),
    "integers": (lambda: nn.Flatten(), lambda: torch.ones(2, 3).long(), {}, DataError, "without floating"),
}


@pytest.mark.parametrize("case", FAILING)
def test_of_what_fails_nothing_is_left_and_an_older_file_stays(case, tmp_path):
    model, example, settings, error, message = FAILING[case]
    path = tmp_path / "net.onnx"
    path.write_text("older")
    with pytest.raises(error, match=message):
        export_onnx(model(), example(), path, overwrite=True, **settings)
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("net.onnx", "older")]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tolerance": 0.0}, "tolerance 0.0.*between 0 and 1"),
        ({"tolerance": 1.0}, "tolerance 1.0"),
        ({"tolerance": float("nan")}, "tolerance nan"),
        ({"opset": 17}, "opset 17: torch writes 18 and newer"),
        ({"opset": 999}, "opset 999.* and older"),
    ],
)
def test_numbers_that_are_of_no_use_are_refused(settings, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        export_onnx(net(), images(), tmp_path / "net.onnx", **settings)


def test_bfloat16_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="in bfloat16.*float32 and float16 work"):
        export_onnx(net().bfloat16(), images().bfloat16(), tmp_path / "net.onnx")


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_package_is_named_with_its_extra(package, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"{package} is needed to export.*shoal\[onnx\]"):
        export_onnx(net(), images(), tmp_path / "net.onnx")


@pytest.mark.parametrize("taken", ["net.onnx", "net.onnx.data"])
def test_files_that_are_there_are_not_replaced(taken, tmp_path):
    (tmp_path / taken).write_text("older")
    with pytest.raises(ConfigError, match=f"{taken} exists.*overwrite"):
        export_onnx(net(), images(), tmp_path / "net.onnx")


def test_files_that_are_there_are_replaced_where_that_is_allowed(tmp_path):
    path = tmp_path / "net.onnx"
    for each in (path, onnx_files.data_file(path)):
        each.write_text("older")
    export_onnx(net(), images(), path, overwrite=True, dynamic_batch=False)
    assert [each.name for each in tmp_path.iterdir()] == ["net.onnx"]
    assert path.stat().st_size > 100


def test_a_folder_is_never_replaced(tmp_path):
    with pytest.raises(ConfigError, match="is a folder"):
        export_onnx(net(), images(), tmp_path, overwrite=True)


def test_weights_that_are_too_large_for_one_file_stand_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_files, "_LARGEST", 0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 64))
    found = export_onnx(model, images(), tmp_path / "net.onnx")
    files = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(files) == {"net.onnx", "net.onnx.data"}
    assert files["net.onnx.data"] >= 4 * 192 * 64
    assert found.size == sum(files.values())
    assert gap(found.path, model, (images(5),)) < 1e-6


def test_a_graph_that_refuses_other_sizes_is_written(tmp_path):
    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.conv(F.pad(x, (0, 1, 0, 1)) if x.shape[-1] % 2 == 0 else x)

    whole = find_convolutions(Padded().eval(), images()).pieces.assemble()
    with pytest.raises(AssertionError, match="its code asks for sizes"):
        whole.forward(images(size=9))
    found = export_onnx(whole, images(), tmp_path / "padded.onnx")
    assert found.dynamic_batch
    assert max(found.differences.values()) < 1e-5


class Named(nn.Module):
    """Answers by name, not in the order of the alphabet."""

    def __init__(self, *names):
        super().__init__()
        self.names, self.layers = names, nn.ModuleList(nn.Linear(3, 2 + n) for n in range(len(names)))

    def forward(self, x):
        return {name: layer(x) for name, layer in zip(self.names, self.layers, strict=True)}


@pytest.mark.parametrize("names", [("only",), ("logits", "boxes")])
def test_what_is_answered_by_name_bears_it(tmp_path, names):
    found = export_onnx(Named(*names), torch.randn(2, 3), tmp_path / "a.onnx")
    assert list(found.outputs) == list(names)
    assert [shape[-1] for shape in found.outputs.values()] == [2 + n for n in range(len(names))]


def test_an_answer_called_like_an_input_gets_a_name_of_its_own(tmp_path):
    found = export_onnx(Named("x", "y"), torch.randn(2, 3), tmp_path / "a.onnx")
    assert len({*found.inputs, *found.outputs}) == 3
