"""The one map of a segment, as a convolution, against the segment written out; whole networks are segments
here. What is merged inside larger ones is told of `expanding`."""

import pytest
import torch
from torch import fx

from merge_networks import small
from merge_plans import merge
from shoal.architectures.convolutions import find_convolutions
from shoal.surgery.affine import to_convolution
from shoal.surgery.collapsing import as_affine
from shoal.surgery.expanding import expand_
from shoal.surgery.rewriting import rewrite
from shoal.units import Segment

# PyTorch says that other zeros before than behind are a copy of the input.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


def rewritten(name, kept=None):
    """A network, all of which is one segment."""
    net, example = small(name)
    found = find_convolutions(net, example)
    segment = Segment(0, len(found.layers))
    kept = tuple(segment) if kept is None else kept
    return found, rewrite(found, found.region(segment), kept), example[0]


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("signal", None),
        ("volume", None),
        ("uneven", None),
        ("grouped", None),
        ("concatenated", None),
        ("pooled", None),
        ("strided", None),
        ("rep_vgg", None),
        ("signal", (0, 2, 3)),
        ("volume", (2,)),
    ],
)
def test_the_map_computes_what_the_segment_does(name, kept):
    found, segment, x = rewritten(name, kept)
    merged = as_affine(segment)
    convolution = to_convolution(merged.affine, padding=merged.padding, dtype=torch.float64)
    expanded = expand_(found.copy(), [merge(0, len(found.layers), segment.kept)]).eval()
    with torch.no_grad():
        torch.testing.assert_close(convolution(x), expanded(x), rtol=1e-11, atol=1e-11)
    assert merged.shifts == {}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_computed_in_the_dtype_that_is_asked_for(dtype):
    assert as_affine(rewritten("signal")[1], dtype=dtype).affine.weight.dtype == dtype


def test_what_is_added_inside_reaches_the_output_through_a_matrix():
    found, segment, x = rewritten("timed")
    merged, example = as_affine(segment), small("timed")[1]
    values = {}

    class Noting(fx.Interpreter):
        def run_node(self, n):
            values[n] = super().run_node(n)
            return values[n]

    convolution = to_convolution(merged.affine, padding=merged.padding, dtype=torch.float64)
    with torch.no_grad():
        Noting(segment.region.piece.traced).run(*example)
        result = convolution(x)
        for term, matrix in merged.shifts.items():
            result = result + torch.einsum("oc,bcij->boij", matrix, values[term])
        expected = expand_(found.copy(), [merge(0, len(found.layers), segment.kept)]).eval()(*example)
    assert len(merged.shifts) == 3
    torch.testing.assert_close(result, expected, rtol=1e-11, atol=1e-11)
