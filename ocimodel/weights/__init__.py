"""Facts from weight files by bounded reads, file kinds, and the description of a model."""

from ocimodel.spec.tensor import Tensor, TensorMap
from ocimodel.weights.cursor import ReadAt
from ocimodel.weights.describe import Described, describe, param_size
from ocimodel.weights.facts import WeightFacts, facts_of, read_facts
from ocimodel.weights.kinds import Kind, classify
from ocimodel.weights.maps import read_tensor_map
from ocimodel.weights.reader import Match, Reader

__all__ = [
    "Described",
    "Kind",
    "Match",
    "ReadAt",
    "Reader",
    "Tensor",
    "TensorMap",
    "WeightFacts",
    "classify",
    "describe",
    "facts_of",
    "param_size",
    "read_facts",
    "read_tensor_map",
]
