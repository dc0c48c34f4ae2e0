import numpy as np
import pytest

import shoal
from shoal.errors import ConfigError
from shoal.importance import EvidenceSettings, StreamSettings


def test_settings_reach_the_evidence(small_resnet, images):
    evidence = shoal.analyze(small_resnet, images, settings=EvidenceSettings(gradients=False))
    assert set(evidence.importance) == {"block_influence", "angular_distance", "magnitude"}
    loss = shoal.analyze(small_resnet, [x for x, _ in images], loss=lambda out, labels: out.square().mean())
    assert np.isfinite(loss.importance["drop_estimate"]).all()


def test_a_folder_is_analysed_without_being_loaded(small_llama, text, tmp_path):
    small_llama.save_pretrained(tmp_path)
    wanted = shoal.analyze(small_llama, text)
    for folder in (tmp_path, str(tmp_path)):
        found = shoal.analyze(folder, text, stream=StreamSettings(memory=0))
        np.testing.assert_allclose(found.importance["taylor"], wanted.importance["taylor"], rtol=1e-4)
        np.testing.assert_allclose(found.similarity, wanted.similarity, rtol=1e-4)


def test_a_loaded_network_is_not_streamed(small_llama, text):
    with pytest.raises(ConfigError, match="this network is loaded"):
        shoal.analyze(small_llama, text, stream=StreamSettings())
