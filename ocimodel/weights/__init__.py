"""Facts from weight files by bounded reads, file kinds, and the description of a model."""

from ocimodel.spec.tensor import Tensor
from ocimodel.weights.cursor import ReadAt
from ocimodel.weights.describe import Described, describe, param_size
from ocimodel.weights.facts import WeightFacts, read_facts
from ocimodel.weights.kinds import Kind, classify

__all__ = [
    "Described",
    "Kind",
    "ReadAt",
    "Tensor",
    "WeightFacts",
    "classify",
    "describe",
    "param_size",
    "read_facts",
]
