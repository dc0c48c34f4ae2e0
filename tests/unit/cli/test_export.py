import numpy as np
import pytest
import torch

from shoal import load

runtime = pytest.importorskip("onnxruntime")


@pytest.fixture
def small(shoal, place):
    shoal("plan net.py:make --data digits --remove 1 -o plan.json")
    assert shoal("apply net.py:make plan.json --data digits -o small").code == 0
    return place / "small"


def test_a_network_becomes_a_file_that_answers_as_it_does(shoal, place, files):
    before = files()
    outcome = shoal("export net.py:make --data digits -o out/net.onnx")
    assert outcome.code == 0
    assert "batch × 1 × 8 × 8" in outcome.out
    assert "onnxruntime, 1 sample " in outcome.out
    assert "written to out/net.onnx" in outcome.err
    assert files() == sorted([*before, "out"])
    assert [path.name for path in (place / "out").iterdir()] == ["net.onnx"]


def test_a_folder_that_shoal_wrote_brings_its_example(shoal, small):
    said = shoal("export small -o small.onnx --json --example-batch 4").json
    assert said["dynamic_batch"] is True
    assert sorted(said["differences"]) == ["4", "5"]
    images = torch.randn(3, 1, 8, 8)
    session = runtime.InferenceSession("small.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    np.testing.assert_allclose(found, load(small)(images).detach().numpy(), atol=1e-5)


def test_the_example_takes_the_dtype_that_was_asked_for(shoal, small):
    said = shoal("export small -o small.onnx --json --dtype float16 --fixed-batch --opset 18").json
    assert (said["opset"], said["why_fixed"]) == (18, "not asked for")
    assert list(said["inputs"].values()) == [[1, 1, 8, 8]]
    assert list(said["differences"]) == ["1"]


def test_where_the_answers_differ_nothing_is_left(shoal, files):
    before = files()
    outcome = shoal("export net.py:make --data digits -o net.onnx --tolerance 1e-12 --fixed-batch --json")
    assert (outcome.code, outcome.out) == (1, "")
    assert "answers otherwise than torch" in outcome.err
    assert files() == before


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("export", "without MODEL"),
        ("export net.py:make", "--output"),
        ("export net.py:make -o net.onnx", "--data"),
        ("export small -o net.onnx --mean 0.5", "mean without --data"),
        ("export small -o net.onnx --example-batch 0", "at least one"),
        ("export net.py:make --data digits -o net.py", "net.py exists"),
        ("export net.py:make --data digits -o net.onnx --opset 17", "18 and newer"),
        ("export net.py:make --data digits -o net.onnx --tolerance 2", "between 0 and 1"),
        ("export net.py:make --data digits -o net.onnx --dtype bfloat16", "float32 and float16"),
    ],
)
def test_a_wrong_request_says_what_would_work(shoal, small, files, typed, message):
    before = files()
    outcome = shoal(typed)
    assert outcome.code == 2
    assert message in outcome.err
    assert files() == before


def test_every_flag_is_explained(shoal):
    outcome = shoal("export --help")
    assert outcome.code == 0
    assert all(flag in outcome.out for flag in ("--opset", "--tolerance", "--fixed-batch", "--overwrite"))
