"""What all tests share: where the trained networks and data are, and a known random state."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

# No test may depend on the network; must be set before transformers is imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

ROOT = Path(__file__).parents[1]
ASSETS = Path(os.environ.get("SHOAL_ASSETS", ROOT.parent / "shared" / "assets"))


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of trained networks and data, which is no part of this repository."""
    if not ASSETS.is_dir():
        pytest.skip(f"needs the folder of trained networks and data at {ASSETS}; SHOAL_ASSETS names another")
    return ASSETS


@pytest.fixture(autouse=True)
def known_state() -> Iterator[None]:
    """Begin with the same random state; leave threads, dtype and gradients as they were."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    dtype = torch.get_default_dtype()
    yield
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)
    torch.set_grad_enabled(True)
