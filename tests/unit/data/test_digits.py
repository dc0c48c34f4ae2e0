import sys

import pytest
import torch

from shoal.data.digits import PARTS, read_digits
from shoal.errors import MissingExtraError

pytest.importorskip("sklearn", reason="the digits come with scikit-learn: the extra `demo`")


def test_the_parts_hold_every_image_once():
    parts = [read_digits(part)[0] for part in PARTS]
    everything = torch.cat(parts).flatten(1)
    assert [len(part) for part in parts] == [1078, 360, 359]
    # Some of the 1,797 images are equal; what is divided is rows, so no more may be than in the source.
    from sklearn.datasets import load_digits

    source = torch.from_numpy(load_digits().images / 16).float().flatten(1)
    assert sorted(everything.tolist()) == sorted(source.tolist())


@pytest.mark.parametrize("part", PARTS)
def test_every_digit_has_its_share(part):
    _, labels = read_digits(part)
    shares = torch.bincount(labels, minlength=10) / len(labels)
    assert (shares - 0.1).abs().max() < 0.01


def test_images_are_grey_and_lie_between_zero_and_one():
    images, labels = read_digits("test")
    assert images.shape[1:] == (1, 8, 8)
    assert images.dtype == torch.float32
    assert (images.min(), images.max()) == (0, 1)
    assert labels.dtype == torch.int64


def test_the_division_is_always_the_same():
    first, _ = read_digits("validation")
    torch.manual_seed(5)
    assert torch.equal(first, read_digits("validation")[0])


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtraError, match=r"scikit-learn is needed .* 'shoal\[demo\]'"):
        read_digits("test")
