"""Small loaders behind the command line's DATA argument: a reference in, batches out."""

from shoal.data.batches import Batches, Data, TensorBatches
from shoal.data.digits import read_digits
from shoal.data.prompts import read_prompts
from shoal.data.references import load_data
from shoal.data.reshuffled import ReshuffledBatches, reshuffled
from shoal.data.settings import DataSettings
from shoal.data.topics import read_topics

__all__ = [
    "Batches",
    "Data",
    "DataSettings",
    "ReshuffledBatches",
    "TensorBatches",
    "load_data",
    "read_digits",
    "read_prompts",
    "read_topics",
    "reshuffled",
]
