import pytest

REASON = "torchvision and timm have an environment of their own: make test-vision"
torchvision = pytest.importorskip("torchvision", reason=REASON)
timm = pytest.importorskip("timm", reason=REASON)


def test_torchvision_builds_a_network():
    assert len(list(torchvision.models.resnet18(weights=None).layer1)) == 2


def test_timm_builds_a_network():
    assert len(timm.create_model("vit_tiny_patch16_224", pretrained=False).blocks) == 12
