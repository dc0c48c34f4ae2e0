import pickle
import sys

import numpy as np
import pytest
import torch

from shoal.data.images import data_from_folder, data_from_pixels
from shoal.data.settings import DataSettings
from shoal.errors import ConfigError, DataError, MissingExtraError

PIL_Image = pytest.importorskip("PIL.Image", reason="image files are read with Pillow: the extra `vision`")


@pytest.fixture
def folder(tmp_path):
    """Three cats, darker, and two dogs, lighter, of 6 x 4 pixels; the red channel tells them apart."""
    for name, shades in (("dog", (200, 210)), ("cat", (10, 20, 30))):
        (tmp_path / name).mkdir()
        for shade in shades:
            pixels = np.full((4, 6, 3), (shade, 0, 255), dtype=np.uint8)
            PIL_Image.fromarray(pixels).save(tmp_path / name / f"{shade}.png")
    return tmp_path


def test_every_image_is_read_with_the_number_of_its_class(folder):
    data = data_from_folder(folder, DataSettings(batch_size=2))
    images = torch.cat([images for images, _ in data.batches])
    labels = torch.cat([labels for _, labels in data.batches])
    found = sorted(zip((images[:, 0, 0, 0] * 255).round().int().tolist(), labels.tolist(), strict=True))
    assert found == [(10, 0), (20, 0), (30, 0), (200, 1), (210, 1)]
    assert images.shape == (5, 3, 4, 6)
    assert (data.kind, data.samples, data.labels, len(data.batches)) == ("image", 5, True, 3)


def test_slices_and_the_last_index_work(folder):
    batches = data_from_folder(folder, DataSettings(batch_size=2)).batches
    assert [len(labels) for _, labels in batches[:]] == [2, 2, 1]
    assert torch.equal(batches[-1][0], batches[2][0])


def test_the_example_is_one_image(folder):
    assert data_from_folder(folder, DataSettings()).example.shape == (1, 3, 4, 6)


def test_images_are_scaled_and_cropped_to_the_size(folder):
    assert data_from_folder(folder, DataSettings(size=8)).example.shape == (1, 3, 8, 8)
    assert data_from_folder(folder, DataSettings(size=3, crop=0.5)).example.shape == (1, 3, 3, 3)


def test_the_crop_is_the_centre(tmp_path):
    (tmp_path / "a").mkdir()
    pixels = np.zeros((4, 8), dtype=np.uint8)
    pixels[:, 2:6] = 255
    PIL_Image.fromarray(pixels).save(tmp_path / "a" / "a.png")
    image = data_from_folder(tmp_path, DataSettings(size=4, channels=1)).example
    assert torch.equal(image, torch.ones(1, 1, 4, 4))


def test_grey_is_one_channel(folder):
    assert data_from_folder(folder, DataSettings(channels=1)).example.shape == (1, 1, 4, 6)


def test_channels_are_normalised(folder):
    settings = DataSettings(mean=(0.0, 0.5, 0.0), std=(1.0, 0.5, 0.5))
    image = data_from_folder(folder, settings).example
    assert image[0, 1:, 0, 0].tolist() == [-1.0, 2.0]


def test_a_mean_for_other_channels_is_refused(folder):
    with pytest.raises(ConfigError, match="a mean of 1 numbers: its images have 3 channels"):
        data_from_folder(folder, DataSettings(mean=(0.5,), std=(0.5,)))


def test_the_seed_decides_which_images_are_used(folder):
    def first(seed):
        return data_from_folder(folder, DataSettings(num_samples=2, seed=seed)).batches[0][0]

    assert torch.equal(first(0), first(0))
    assert any(not torch.equal(first(0), first(seed)) for seed in range(1, 5))


def test_images_of_several_sizes_need_a_size(folder):
    PIL_Image.new("RGB", (9, 9)).save(folder / "cat" / "large.png")
    with pytest.raises(DataError, match=r"differ in size, \(4, 6\) and \(9, 9\) among them. Give a size"):
        list(data_from_folder(folder, DataSettings()).batches)
    assert len(next(iter(data_from_folder(folder, DataSettings(size=4)).batches))[0]) == 6


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "cat").mkdir()
    with pytest.raises(DataError, match="its 1 subfolders hold no image files. Make a subfolder a class"):
        data_from_folder(tmp_path, DataSettings())


def test_more_images_than_there_are_are_refused(folder):
    with pytest.raises(DataError, match="asked for 6 samples .* it has 5"):
        data_from_folder(folder, DataSettings(num_samples=6))


def test_a_damaged_image_is_named(folder):
    for path in folder.rglob("*.png"):
        path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match=r"asked to read the image .*\.png: it cannot be read"):
        data_from_folder(folder, DataSettings())


def test_text_settings_are_refused(folder):
    with pytest.raises(ConfigError, match="seq_len=4 with the image folder"):
        data_from_folder(folder, DataSettings(seq_len=4))


def test_without_pillow_the_extra_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(MissingExtraError, match=r"Pillow is needed .* 'shoal\[vision\]'"):
        data_from_folder(folder, DataSettings())


def test_batches_can_be_sent_to_workers(folder):
    batches = data_from_folder(folder, DataSettings()).batches
    again = pickle.loads(pickle.dumps(batches))
    assert torch.equal(again[0][0], batches[0][0])


def test_pixels_in_memory_are_chosen_with_their_labels():
    labels = torch.arange(9)
    data = data_from_pixels(labels.view(9, 1, 1, 1).float(), labels, "numbers", DataSettings(num_samples=4))
    images, chosen = data.batches[0]
    assert len(images) == 4
    assert torch.equal(images.flatten().long(), chosen)


def test_pixels_without_labels_are_inputs_alone():
    data = data_from_pixels(torch.zeros(2, 1, 1, 1), None, "zeros", DataSettings())
    assert not data.labels
    assert data.batches[0].shape == (2, 1, 1, 1)


def test_pixels_in_memory_are_not_scaled():
    with pytest.raises(ConfigError, match="size=32 with zeros, whose images are used as they are"):
        data_from_pixels(torch.zeros(2, 1, 8, 8), None, "zeros", DataSettings(size=32))
