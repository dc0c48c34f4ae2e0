"""Attention and MLP of the networks that torchvision and timm build."""

import pytest
import torch

from shoal.architectures import bypassed, find_units
from shoal.plan import Plan
from shoal.surgery import apply

REASON = "torchvision and timm have an environment of their own: make test-vision"
torchvision = pytest.importorskip("torchvision", reason=REASON)
timm = pytest.importorskip("timm", reason=REASON)

# Settings, size of the image, blocks, sublayers, modules of the first two.
TIMM = {
    "vit_tiny_patch16_224": ({"img_size": 32, "depth": 3}, 32, 3, 6, "norm1 attn | norm2 mlp"),
    "deit3_small_patch16_224": ({"img_size": 32, "depth": 2}, 32, 2, 4, "norm1 attn ls1 | norm2 mlp ls2"),
    # Scaled by parameters of the block.
    "beit_base_patch16_224": ({"img_size": 32, "depth": 2}, 32, 2, 4, "norm1 attn | norm2 mlp"),
    "cait_xxs24_224": ({"img_size": 32, "depth": 2}, 32, 2, 4, "norm1 attn | norm2 mlp"),
    # Windows are cut out between norm and attention; tokens and features change places before the MLP.
    "swin_tiny_patch4_window7_224": ({"img_size": 56, "window_size": 2}, 56, 12, 24, "attn | norm2 mlp"),
    "mixer_s32_224": ({"img_size": 64}, 64, 8, 16, "mlp_tokens | norm2 mlp_channels"),
}
WHOLE = ("resnet18", "mobilenetv2_100", "convnext_atto")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def made(name, settings, size):
    model = timm.create_model(name, pretrained=False, **settings).eval()
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    return model, torch.randn(1, 3, size, size)


def check_removal(model, chain, image):
    for removed in ([chain.removable[0]], chain.removable[1::3]):
        small = apply(model, Plan.removing(chain, removed))
        with torch.no_grad(), bypassed(model, chain, removed):
            assert torch.equal(small(image), model(image))


@pytest.mark.parametrize("name", TIMM)
def test_blocks_of_timm_consist_of_sublayers(name):
    settings, size, blocks, sublayers, parts = TIMM[name]
    model, image = made(name, settings, size)
    whole, chain = find_units(model, image), find_units(model, image, granularity="sublayer")
    assert (len(whole), len(chain), len(chain.removable)) == (blocks, sublayers, sublayers)
    first = whole[0].name
    expected = [tuple(f"{first}.{module}" for module in part.split()) for part in parts.split("|")]
    assert [unit.modules for unit in chain][:2] == expected
    assert list(chain.groups) == list(whole.groups)
    check_removal(model, chain, image)


@pytest.mark.parametrize("name", WHOLE)
def test_convolutional_blocks_stay_units(name):
    model, image = made(name, {}, 32)
    assert find_units(model, image, granularity="sublayer") == find_units(model, image)


def test_layers_of_torchvision_s_transformer_consist_of_sublayers():
    model = torchvision.models.VisionTransformer(
        image_size=32, patch_size=16, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=64
    ).eval()
    image = torch.randn(1, 3, 32, 32)
    chain = find_units(model, image, granularity="sublayer")
    assert [unit.kind for unit in chain][:2] == ["LayerNorm+MultiheadAttention", "LayerNorm+MLPBlock"]
    check_removal(model, chain, image)
