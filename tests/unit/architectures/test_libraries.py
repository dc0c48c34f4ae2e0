"""The libraries themselves are tried in an environment of their own; here stand-ins answer."""

from __future__ import annotations

import enum
import json
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from shoal.architectures.libraries import model_from_library
from shoal.errors import ConfigError, MissingExtraError

Weights = enum.Enum("Weights", {"V1": "v1", "V2": "v2", "DEFAULT": "v2"})


class Named(nn.Linear):
    def __init__(self, *made_with: Any) -> None:
        super().__init__(1, 1)
        self.made_with = made_with


@pytest.fixture
def libraries(monkeypatch):
    models = SimpleNamespace(
        list_models=lambda: ["resnet18", "resnet50"],
        get_model_weights=lambda name: Weights,
        get_model=lambda name, weights: Named(name, weights),
    )
    timm = SimpleNamespace(
        is_model=lambda name: name.split(".")[0] == "vit_tiny",
        list_models=lambda: ["vit_tiny"],
        create_model=lambda name, pretrained: Named(name, pretrained),
    )

    class UNet(Named):
        @classmethod
        def from_pretrained(cls, folder: Any) -> UNet:
            return cls("trained")

        @classmethod
        def load_config(cls, folder: Any) -> dict[str, Any]:
            return {}

        @classmethod
        def from_config(cls, config: Any) -> UNet:
            return cls("random")

    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(models=models))
    monkeypatch.setitem(sys.modules, "timm", timm)
    monkeypatch.setitem(sys.modules, "diffusers", SimpleNamespace(UNet=UNet, __version__="0"))


@pytest.mark.parametrize(
    ("library", "name", "weights", "made_with"),
    [
        ("torchvision", "resnet18", True, ("resnet18", Weights.DEFAULT)),
        ("torchvision", "resnet18@V1", True, ("resnet18", Weights.V1)),
        ("torchvision", "resnet18@none", True, ("resnet18", None)),
        ("torchvision", "resnet18@V1", False, ("resnet18", None)),
        ("timm", "vit_tiny", True, ("vit_tiny", True)),
        ("timm", "vit_tiny.in1k", True, ("vit_tiny.in1k", True)),
        ("timm", "vit_tiny@in21k", True, ("vit_tiny.in21k", True)),
        ("timm", "vit_tiny@none", True, ("vit_tiny", False)),
        ("timm", "vit_tiny", False, ("vit_tiny", False)),
    ],
)
def test_a_network_comes_by_name_with_the_weights_asked_for(libraries, library, name, weights, made_with):
    assert model_from_library(library, name, weights=weights).made_with == made_with


@pytest.mark.parametrize(
    ("library", "name", "match"),
    [
        ("torchvision", "resnet19", "none of that name. Near: resnet18"),
        ("torchvision", "resnet18@V9", r"weights 'V9' of torchvision:resnet18: there are V1, V2, DEFAULT"),
        ("timm", "vit_tinny", "none of that name. Near: vit_tiny"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(libraries, library, name, match):
    with pytest.raises(ConfigError, match=match):
        model_from_library(library, name)


def test_a_diffusion_network_comes_from_its_folder(libraries, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "UNet"}))
    assert model_from_library("diffusers", str(tmp_path)).made_with == ("trained",)
    assert model_from_library("diffusers", str(tmp_path), weights=False).made_with == ("random",)


def test_a_pipeline_asks_for_one_of_its_parts(libraries, tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text(json.dumps({"_class_name": "UNet"}))
    with pytest.raises(ConfigError, match=r"Name one of its parts: .*/unet"):
        model_from_library("diffusers", str(tmp_path))


def test_a_class_that_diffusers_does_not_have_is_refused(libraries, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "Later"}))
    with pytest.raises(ConfigError, match="names the class Later"):
        model_from_library("diffusers", str(tmp_path))


@pytest.mark.parametrize(("library", "extra"), [("timm", "vision"), ("diffusers", "diffusion")])
def test_a_library_that_is_not_installed_is_named_with_its_extra(monkeypatch, library, extra):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtraError, match=rf"shoal\[{extra}\]"):
        model_from_library(library, "x")


def test_a_library_that_does_not_work_with_this_torch_is_said(monkeypatch):
    def broken(name: str) -> Any:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr("shoal.architectures.libraries.importlib.import_module", broken)
    with pytest.raises(ConfigError, match=r"does not work with this torch \(operator"):
        model_from_library("torchvision", "resnet18")
