"""What a weight file says about itself, told from its content by a few bounded reads.

From the tensor map where the format gives one, else from a magic number alone. Nothing is
unpickled, decompressed or executed, and no length in a file is believed before it is checked.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ocimodel.errors import InputError
from ocimodel.spec.tensor import TensorMap, count_by_dtype
from ocimodel.weights import zip_directory
from ocimodel.weights.cursor import ReadAt
from ocimodel.weights.ggml_types import FILE_TYPES, PLAIN
from ocimodel.weights.magic import format_of
from ocimodel.weights.maps import read_tensor_map

_HEAD: Final = 4096
# Their dtypes stand in a pickle.
_UNCOUNTED: Final = frozenset({"torch", "torchscript"})


@dataclass(frozen=True, slots=True)
class WeightFacts:
    """One file. `n_parameters` is None where only unpickling or running code could tell.

    `format`: safetensors, gguf, onnx, torch, torchscript, pickle, hdf5, keras, numpy, tflite,
    executorch or ggml. `dtypes`: (name, number of parameters), the largest share first.
    `quantization`: a GGUF file type such as "Q4_K_M". `architecture`: GGUF's, such as "llama".
    `n_bytes`: of tensor data, or of the file where that is unknown. `n_parts`: files that this
    one says its model is split into, 1 when it says nothing.
    """

    format: str
    n_parameters: int | None
    dtypes: tuple[tuple[str, int], ...] = ()
    quantization: str = ""
    architecture: str = ""
    n_bytes: int = 0
    n_parts: int = 1


def read_facts(read_at: ReadAt, size: int, name: str) -> WeightFacts | None:
    """Facts of the file of `size` bytes, or None when it is no weight format known by content.

    `name`: its path, for messages and for what it promises to be. Raises InputError, naming the
    file, when a format that is certain (by magic number or by name) is malformed or truncated.
    """
    found = read_tensor_map(read_at, size, name)
    return facts_of(found) if found else _facts_without_map(read_at, size)


def facts_of(found: TensorMap) -> WeightFacts:
    """What a tensor map tells of its file."""
    dtypes = count_by_dtype(found.tensors)
    n_bytes = sum(tensor.length for tensor in found.tensors)
    if found.format in _UNCOUNTED:
        return WeightFacts(found.format, None, n_bytes=n_bytes)
    n_parameters = sum(n for _, n in dtypes)
    if found.format != "gguf":
        return WeightFacts(found.format, n_parameters, dtypes, n_bytes=n_bytes)
    architecture = found.metadata.get("general.architecture")
    n_parts = found.metadata.get("split.count")
    return WeightFacts(
        "gguf",
        n_parameters,
        dtypes,
        quantization=_quantization(found.metadata, dtypes),
        architecture=architecture if isinstance(architecture, str) else "",
        n_bytes=n_bytes,
        n_parts=n_parts if isinstance(n_parts, int) and n_parts > 1 else 1,
    )


def _quantization(metadata: Mapping[str, Any], dtypes: tuple[tuple[str, int], ...]) -> str:
    file_type = metadata.get("general.file_type")
    if isinstance(file_type, int):
        return FILE_TYPES.get(file_type, "")
    # No file type: the most common type says it, unless it is a plain number.
    return dtypes[0][0] if dtypes and dtypes[0][0] not in PLAIN else ""


def _facts_without_map(read_at: ReadAt, size: int) -> WeightFacts | None:
    found = format_of(read_at(0, min(size, _HEAD)))
    if found == "zip":
        return _zip(read_at, size)
    if found == "pickle":
        # A whole pickle ends with the STOP opcode; without it, two bytes are too weak a sign.
        found = "pickle" if read_at(size - 1, 1) == b"." else ""
    if found == "tflite":
        # A FlatBuffer's root offset must lie in the file, or the identifier is there by chance.
        (root,) = struct.unpack("<I", read_at(0, 4))
        found = "tflite" if 8 <= root < size else ""
    return WeightFacts(found, None, n_bytes=size) if found else None


def _zip(read_at: ReadAt, size: int) -> WeightFacts | None:
    """A Keras or numpy archive; None for any other zip file."""
    try:
        entries = zip_directory.read_entries(read_at, size)
    except InputError:
        return None
    names = {entry.name for entry in entries}
    if {"metadata.json", "config.json", "model.weights.h5"} <= names:
        return WeightFacts("keras", None, n_bytes=size)
    if names and all(name.endswith(".npy") for name in names):
        return WeightFacts("numpy", None, n_bytes=sum(entry.size for entry in entries))
    return None
