from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from merge_networks import Flow, conv, small
from merge_plans import apart, merge, plan_of, steps_of
from shoal.architectures.convolutions import find_convolutions
from shoal.errors import VerificationError
from shoal.surgery import certificate, expand
from shoal.surgery.certificate import certify
from shoal.surgery.expanding import expand_

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


@pytest.mark.parametrize("name", ["resnet", "mobilenet", "unet", "concatenated", "uneven", "signal", "timed"])
def test_merges_are_proved(name):
    net, example = small(name, torch.float32)
    plan = plan_of(net, example, steps_of(find_convolutions(net, example), 4))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    net.train()
    found = certify(net, plan)
    assert found.whole < 1e-12
    assert all(value < 1e-12 for value in found.segments.values())
    proved = [str(step.segment) for step in plan.merges if step.fused and step.kept]
    assert set(proved) <= set(found.segments)
    assert net.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_two_sizes_are_tried_where_the_network_takes_them():
    net, example = small("vgg", torch.float32)
    assert certify(net, plan_of(net, example, [merge(0, 2, [0, 1])])).sizes == (
        (2, 3, 24, 24),
        (2, 3, 29, 29),
    )
    net, example = small("unet", torch.float32)
    # It asks for the very size.
    assert certify(net, plan_of(net, example, [merge(1, 3, [1, 2])])).sizes == ((2, 3, 8, 8),)


def test_drift_is_what_moving_zeros_changes():
    net, example = small("vgg", torch.float32)
    plan = plan_of(net, example, [merge(0, 2, [0, 1]), merge(2, 4, [2])])
    found = certify(net, plan)
    wide = find_convolutions(net.double(), (example[0].double(),))
    flat = expand_(wide.copy(), [replace(step, fused=False) for step in plan.merges])
    x = torch.randn(example[0].shape, generator=torch.Generator().manual_seed(0)).double()
    assert found.drift == pytest.approx(apart(expand_(wide, plan.merges), flat, (x,)))
    assert found.drift > 1e-3
    # Of a single kernel that is larger than one tap nothing moves.
    assert certify(net.float(), plan_of(net, example, [merge(2, 4, [2])])).drift == 0


def test_what_was_trained_is_proved():
    net, example = small("unet", torch.float32)
    plan = plan_of(net, example, [merge(1, 3, [1, 2])])
    trained = expand(net, plan)
    for parameter in trained.parameters():
        nn.init.normal_(parameter, std=0.1)
    first, second = certify(net, plan), certify(net, plan, trained)
    assert second.whole < 1e-12
    assert second.segments["[1, 3)"] < 1e-12
    assert first.drift == second.drift


def test_an_empty_segment_has_nothing_to_prove():
    net, example = small("resnet", torch.float32)
    found = certify(net, plan_of(net, example, [merge(3, 5, [])]))
    assert found.segments == {}
    assert found.whole < 1e-12


def test_a_merged_convolution_that_is_wrong_is_found_out(monkeypatch):
    net, example = small("resnet", torch.float32)
    plan = plan_of(net, example, [merge(1, 3, [1, 2])])
    right = certificate.as_affine

    def wrong(found):
        merged = right(found)
        merged.affine.weight[0, 0, 0, 0] += 1e-3
        return merged

    monkeypatch.setattr(certificate, "as_affine", wrong)
    with pytest.raises(
        VerificationError,
        match=r"merges of ResNet: the segment \[1, 3\) computes something else .* by \d\.\de-0\d",
    ):
        certify(net, plan)


@pytest.mark.parametrize(("dtype", "told"), [(torch.float64, "network computes"), (torch.float32, "float32")])
def test_a_network_that_is_wrong_is_found_out(monkeypatch, dtype, told):
    net, example = small("resnet", torch.float32)
    plan = plan_of(net, example, [merge(1, 3, [1, 2])])
    right = certificate.merge_

    def wrong(convolutions, steps, trained):
        merged = right(convolutions, steps, trained)
        if merged.fc.weight.dtype == dtype:
            merged.fc.weight.data[0] += 0.1
        return merged

    monkeypatch.setattr(certificate, "merge_", wrong)
    with pytest.raises(VerificationError, match=f"merges of ResNet: the whole .*{told}"):
        certify(net, plan)


def test_a_network_without_numbers_as_answers_is_not_proved():
    net = nn.Sequential(conv(4, 4), nn.ReLU(), conv(4, 4)).eval()
    net[2].weight.data[0] = float("nan")
    with pytest.raises(VerificationError, match="by inf of the largest number"):
        certify(net, plan_of(net, (torch.randn(1, 4, 6, 6),), [merge(0, 2, [0, 1])]))


def test_a_certificate_is_plain_json():
    net, example = small("vgg", torch.float32)
    found = certify(net, plan_of(net, example, [merge(0, 2, [0, 1])]))
    read = json.loads(json.dumps(found.as_json()))
    assert read["whole"] == found.whole
    assert list(read["segments"]) == ["[0, 2)"]


def test_sizes_at_which_the_calls_answer_otherwise_are_not_vouched_for():
    def large(net, x):
        # Neither one nor five places more are enough to be seen when it is traced.
        return net.last(F.relu(net.first(x if x.shape[-1] < 20 else x * 2)))

    net = Flow(large, first=conv(4, 4), last=conv(4, 4)).eval()
    plan = plan_of(net, (torch.randn(1, 4, 8, 8),), [merge(0, 2, [0, 1])])
    assert certify(net, plan).sizes == ((2, 4, 8, 8), (2, 4, 13, 13))
    plan = plan_of(net, (torch.randn(1, 4, 18, 18),), [merge(0, 2, [0, 1])])
    assert certify(net, plan).sizes == ((2, 4, 18, 18),)


def test_a_network_that_is_true_for_one_size_is_proved_for_it():
    net = Flow(
        lambda net, x: net.last(F.relu(net.first(F.pad(x, [2 if x.shape[-1] % 2 else 1] * 4)))),
        first=nn.Conv2d(4, 4, 3), last=conv(4, 4),
    ).eval()  # fmt: skip
    plan = plan_of(net, (torch.randn(1, 4, 8, 8),), [merge(0, 2, [0, 1])])
    assert certify(net, plan).sizes == ((2, 4, 8, 8),)
