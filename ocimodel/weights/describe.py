"""One description of a model from the facts of its files and its Hugging Face config.json.

Pure: everything is decided from what was read. Each value is "" (or empty) where nothing certain
can be said; the author's ocimodel.yaml overrides them all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ocimodel.weights.architectures import (
    Modalities,
    architecture_of,
    family_of,
    modalities_of,
)
from ocimodel.weights.facts import WeightFacts

# When a directory carries a model in several formats, the first of these that is not dwarfed by
# another one speaks for it: the more a format tells without running code, the earlier.
_PREFERENCE: Final = (
    "safetensors", "gguf", "onnx", "torch", "torchscript", "hdf5", "keras", "tflite",
    "executorch", "ggml", "numpy", "pickle",
)  # fmt: skip
# A float16 copy has half the bytes of a float32 one and is still the same model.
_DWARFED: Final = 0.4

# ModelPack's names where they differ from ours.
_FORMATS: Final = {"torch": "pytorch"}
_PRECISIONS: Final = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F6_E2M3": "float6_e2m3", "F6_E3M2": "float6_e3m2", "F4": "float4_e2m1",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "I4": "int4", "I2": "int2",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "U4": "uint4",
    "U2": "uint2", "BOOL": "bool", "C64": "complex64", "C128": "complex128",
}  # fmt: skip
# A dtype below this share of the parameters (position ids, scales) is no precision of the model.
_MIN_SHARE: Final = 0.01

# Methods that pack several quantized values into one stored element, and that element's dtype.
_PACKED: Final = {
    "gptq": ("I32", 32), "awq": ("I32", 32), "auto-round": ("I32", 32),
    "intel/auto-round": ("I32", 32), "bitsandbytes": ("U8", 8), "mxfp4": ("U8", 8),
}  # fmt: skip

_SCALES: Final = ((10**15, "Q"), (10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K"))


@dataclass(frozen=True, slots=True)
class Described:
    """The values of ModelPack's `config` and `family`, in its vocabulary; "" is unknown.

    `param_size`: "22.7M"; `n_parameters`: the count behind it. `precision`: dtypes by falling
    share, comma-separated. `input_types`, `output_types`: ModelPack modalities.
    """

    format: str = ""
    precision: str = ""
    quantization: str = ""
    param_size: str = ""
    n_parameters: int | None = None
    architecture: str = ""
    family: str = ""
    input_types: tuple[str, ...] = ()
    output_types: tuple[str, ...] = ()


def describe(
    facts: Sequence[WeightFacts], hf_config: Mapping[str, object] | None = None
) -> Described:
    """What the files of one model say together. Never fails, whatever stands in `hf_config`.

    Shards of a format add up; where each file is a whole model (ONNX, TFLite, GGUF without a
    split) the largest one speaks. Packed low-bit weights are counted unpacked, which takes the
    packed zero points along: exact to about one percent.
    """
    config = hf_config if isinstance(hf_config, Mapping) else {}
    chosen = _choose(facts)
    method, bits = _quantization(config)
    dtypes = _unpack(_add_up(chosen), method, bits)
    n_parameters = _count(chosen, dtypes)
    ggml_name = next((fact.quantization for fact in chosen if fact.quantization), "")
    gguf_architecture = next((fact.architecture for fact in chosen if fact.architecture), "")
    modalities = modalities_of(config) if chosen else Modalities()
    name = chosen[0].format if chosen else ""
    return Described(
        format=_FORMATS.get(name, name),
        precision=_precision(dtypes),
        quantization=ggml_name or method,
        param_size=param_size(n_parameters) if n_parameters else "",
        n_parameters=n_parameters,
        architecture=architecture_of(config, gguf_architecture),
        family=family_of(config) or gguf_architecture,
        input_types=modalities.inputs,
        output_types=modalities.outputs,
    )


def param_size(n_parameters: int) -> str:
    """Such as "22.7M", "6.7B", "512": at most one decimal, as ModelPack's `paramSize` asks."""
    for scale, letter in _SCALES:
        # What rounds to 1000.0 of the smaller scale is 1 of this one: 999,960 is 1M, not 1000K.
        if n_parameters >= scale - scale // 20_000:
            whole, rest = divmod((10 * n_parameters + scale // 2) // scale, 10)
            return f"{whole}.{rest}{letter}" if rest else f"{whole}{letter}"
    return str(n_parameters)


def _choose(facts: Sequence[WeightFacts]) -> list[WeightFacts]:
    """The files of the format that speaks for the model."""
    groups: dict[str, list[WeightFacts]] = {}
    for fact in facts:
        groups.setdefault(fact.format, []).append(fact)
    models = {name: _one_model(group) for name, group in groups.items()}
    if not models:
        return []
    sizes = {name: sum(fact.n_bytes for fact in group) for name, group in models.items()}
    largest = max(sizes.values())
    candidates = [name for name in models if sizes[name] >= _DWARFED * largest]
    return models[min(candidates, key=lambda name: (_rank(name), -sizes[name], name))]


def _rank(name: str) -> int:
    return _PREFERENCE.index(name) if name in _PREFERENCE else len(_PREFERENCE)


def _one_model(group: list[WeightFacts]) -> list[WeightFacts]:
    if group[0].format not in ("onnx", "tflite", "gguf"):
        return group
    parts = [fact for fact in group if fact.n_parts > 1]
    whole = [fact for fact in group if fact.n_parts <= 1]
    largest = max(whole, key=lambda fact: fact.n_bytes, default=None)
    n_part_bytes = sum(fact.n_bytes for fact in parts)
    if largest is not None and largest.n_bytes >= n_part_bytes:
        return [largest]
    return parts


def _add_up(chosen: Sequence[WeightFacts]) -> dict[str, int]:
    total: dict[str, int] = {}
    for fact in chosen:
        for dtype, n in fact.dtypes:
            total[dtype] = total.get(dtype, 0) + n
    return total


def _unpack(dtypes: dict[str, int], method: str, bits: int) -> dict[str, int]:
    """Counts with packed elements as the values they stand for, under the dtype that they have."""
    packed, width = _PACKED.get(method, ("", 0))
    if packed not in dtypes or not 2 <= bits <= 8 or (method == "bitsandbytes" and bits == 8):
        return dtypes
    unpacked = dict(dtypes)
    n = unpacked.pop(packed) * width // bits
    name = "F4" if method == "mxfp4" else f"int{bits}"
    unpacked[name] = unpacked.get(name, 0) + n
    return unpacked


def _count(chosen: Sequence[WeightFacts], dtypes: dict[str, int]) -> int | None:
    if not chosen or any(fact.n_parameters is None for fact in chosen):
        return None
    return sum(dtypes.values())


def _precision(dtypes: dict[str, int]) -> str:
    total = sum(dtypes.values())
    ordered = sorted(dtypes.items(), key=lambda item: (-item[1], item[0]))
    kept = [name for name, n in ordered if n and n >= _MIN_SHARE * total]
    # ggml's blocks have no ModelPack name: theirs, in lower case like all the others.
    return ",".join(_PRECISIONS.get(name, name.lower()) for name in kept)


def _quantization(config: Mapping[str, object]) -> tuple[str, int]:
    """(method, bits) of `quantization_config`; ("", 0) when there is none or it makes no sense."""
    found = config.get("quantization_config") or config.get("compression_config")
    if not isinstance(found, Mapping):
        return "", 0
    method = found.get("quant_method")
    if not isinstance(method, str) or not 0 < len(method) <= 64 or not method.isprintable():
        method = "bitsandbytes" if found.get("load_in_4bit") or found.get("load_in_8bit") else ""
    bits = found.get("bits", found.get("w_bit", 0))
    if method == "bitsandbytes":
        bits = 4 if found.get("load_in_4bit") is True or found.get("_load_in_4bit") is True else 8
    elif method == "mxfp4":
        bits = 4
    return method.lower(), bits if type(bits) is int else 0
