"""What the tests of the methods ask with: a small CNN, a small Llama, and chains with scores by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from shoal import Budget, find_units
from shoal.methods import Request
from shoal.result import Evidence

IMAGE = torch.zeros(1, 3, 8, 8)


@pytest.fixture
def ask_images(small_resnet):
    """Return a function that asks for the residual network, 7 of whose 9 blocks can go."""
    chain = find_units(small_resnet, IMAGE)
    batches = [(torch.randn(count, 3, 8, 8), torch.randint(0, 10, (count,))) for count in (8, 6)]

    def make(budget="units=6", **fields):
        known = {"model": small_resnet, "chain": chain, "batches": batches, "example": IMAGE}
        return Request(**(known | {"budget": Budget.parse(budget)} | fields))

    return make


@pytest.fixture
def ask_text(small_llama):
    """Return a function that asks for the Llama of five layers."""
    chain = find_units(small_llama)
    batches = [{"input_ids": torch.randint(0, 64, (count, 12))} for count in (4, 3)]

    def make(budget="units=3", **fields):
        known = {"model": small_llama, "chain": chain, "batches": batches, "example": batches[0]}
        return Request(**(known | {"budget": Budget.parse(budget)} | fields))

    return make


@pytest.fixture
def ask_chain(make_chain):
    """Return a function that asks for a chain without a network, whose scores and angles are given."""

    def make(budget="units=3", *, params=(10,) * 5, fixed=(), angles=None, **scores):
        chain, length = make_chain(params, fixed=fixed), len(params)
        shape = (length, length + 1)
        evidence = Evidence(
            chain=chain,
            boundary_similarity=np.eye(length + 1),
            angular_distance=np.full(shape, np.nan) if angles is None else angles,
            block_influence=np.full(shape, np.nan),
            importance={name: np.array(values, dtype=float) for name, values in scores.items()},
            segmentation=None,
            data={},
        )
        request = Request(
            model=SimpleNamespace(),
            chain=chain,
            batches=[],
            example=None,
            budget=Budget.parse(budget),
            evidence=evidence,
        )
        if "skip_loss" in scores:
            request.losses = SimpleNamespace(
                units=lambda: list(map(float, scores["skip_loss"])),
                of=lambda sets: [float(len(s)) for s in sets],
            )
        return request

    return make


@pytest.fixture
def scores_of():
    """Return a function that gives scores which rank units in an order, those it leaves out behind."""

    def make(order, length=32):
        ranked = [*order, *(unit for unit in range(length) if unit not in order)]
        return [ranked.index(unit) for unit in range(length)]

    return make
