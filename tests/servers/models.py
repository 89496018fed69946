"""Generated models to test with, of any size."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

BLOCK = 16 * 1024 * 1024
STREAM_BLOCK = 1024 * 1024  # stays in the processor's cache
DTYPE_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1}  # in the order save_file stores them
WIDTHS = range(16, 16_384 + 1, 16)
N_EXPERTS = 256
QUANT_BLOCK = 128
Tensor = tuple[str, str, tuple[int, ...]]  # name, dtype, shape
Layout = Callable[[int, int], Iterable[Tensor]]  # hidden size, rows of the embedding


def generated(path: Path, n_bytes: int, seed: int = 0) -> Path:
    """Write a file of `n_bytes` pseudo-random bytes, the same for the same seed.

    About 1 GB/s; no two blocks of it are equal, so nothing deduplicates by accident.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.Generator(np.random.SFC64(seed))
    with path.open("wb") as out:
        left = n_bytes
        while left:
            size = min(left, BLOCK)
            words = generator.integers(0, 2**64, (size + 7) // 8, dtype=np.uint64)
            out.write(words.data.cast("B")[:size])
            left -= size
    return path


def tiny_safetensors(
    path: Path, tensors: Mapping[str, Sequence[int]], seed: int = 0, dtype: str = "F32"
) -> Path:
    """Write a real safetensors file: tensor name → shape, values drawn from `seed`.

    `tiny_safetensors(p, {"layer.0.weight": (256, 384)})` is 384 KiB of F32 (or F16).
    """
    kind: np.dtype[Any] = np.dtype({"F32": "<f4", "F16": "<f2"}[dtype])
    generator = np.random.Generator(np.random.SFC64(seed))
    bodies = [
        generator.standard_normal(tuple(shape), dtype=np.float32).astype(kind).tobytes()
        for shape in tensors.values()
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    header = _header((name, dtype, tuple(shape)) for name, shape in tensors.items())
    path.write_bytes(header + b"".join(bodies))
    return path


@dataclass(frozen=True, slots=True)
class GeneratedModel:
    """A safetensors file that generated_model wrote."""

    path: Path
    n_bytes: int  # of the file
    shapes: Mapping[str, tuple[int, ...]]
    changed: frozenset[str]
    changed_bytes: int


class HeaderOnly(NamedTuple):
    """The start of a safetensors file that lies nowhere: length, header, padding."""

    header: bytes
    n_bytes: int  # of the whole file


def generated_model(
    path: Path,
    n_bytes: int,
    n_tensors: int,
    seed: int = 0,
    changed: Callable[[str], bool] | Collection[str] = (),
) -> GeneratedModel:
    """Write a Llama-like safetensors file in F16: `n_bytes` of tensors, less a row at most.

    A tensor's bytes follow from its name and `seed`, but those of `changed` are others: the same
    call with and without it is a model and its fine-tune. Incompressible; about 1.5 GB/s; holds
    2 MiB. Raises ValueError where the tensors do not fit, or one of `changed` is none of them.
    """
    layout = _fit(lambda hidden, n_rows: islice(_llama(hidden, n_rows), n_tensors), n_bytes)
    names = {name for name, _, _ in layout}
    chosen = frozenset(filter(changed, names) if callable(changed) else changed)
    if not chosen <= names:
        raise ValueError(f"the model has no tensor {min(chosen - names)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as out:
        out.write(_header(layout))
        for tensor in layout:
            what = f"{seed}/{tensor[0]}/{tensor[0] in chosen}"
            for block in _noise(what, _n_bytes([tensor])):
                out.write(block)
    n_changed = _n_bytes(tensor for tensor in layout if tensor[0] in chosen)
    shapes = {name: shape for name, _, shape in layout}
    return GeneratedModel(path, path.stat().st_size, shapes, chosen, n_changed)


def headers_only_model(n_tensors: int = 90_000, n_bytes: int = 100 * 10**9) -> HeaderOnly:
    """The header of a DeepSeek-like FP8 model with `n_bytes` of tensors, less a row at most.

    One file as save_file orders it: all F32 scales, then BF16, then the weights in FP8.
    """
    layout = _fit(lambda hidden, n_rows: islice(_deepseek(hidden, n_rows), n_tensors), n_bytes)
    header = _header(layout)
    return HeaderOnly(header, len(header) + _n_bytes(layout))


def _llama(hidden: int, n_rows: int) -> Iterator[Tensor]:
    """The tensors of a Llama with endless layers."""
    wide = 3 * hidden
    yield "model.embed_tokens.weight", "F16", (n_rows, hidden)
    yield "model.norm.weight", "F16", (hidden,)
    yield "lm_head.weight", "F16", (n_rows, hidden)
    for layer in count():
        at = f"model.layers.{layer}"
        yield f"{at}.self_attn.q_proj.weight", "F16", (hidden, hidden)
        yield f"{at}.self_attn.k_proj.weight", "F16", (hidden // 4, hidden)
        yield f"{at}.self_attn.v_proj.weight", "F16", (hidden // 4, hidden)
        yield f"{at}.self_attn.o_proj.weight", "F16", (hidden, hidden)
        yield f"{at}.mlp.gate_proj.weight", "F16", (wide, hidden)
        yield f"{at}.mlp.up_proj.weight", "F16", (wide, hidden)
        yield f"{at}.mlp.down_proj.weight", "F16", (hidden, wide)
        yield f"{at}.input_layernorm.weight", "F16", (hidden,)
        yield f"{at}.post_attention_layernorm.weight", "F16", (hidden,)


def _deepseek(hidden: int, n_rows: int) -> Iterator[Tensor]:
    """The tensors of a DeepSeek-V3 with endless layers, all of them with experts."""
    narrow = hidden // 2
    mlp = {
        "gate_proj": (narrow, hidden),
        "up_proj": (narrow, hidden),
        "down_proj": (hidden, narrow),
    }
    yield "model.embed_tokens.weight", "BF16", (n_rows, hidden)
    yield "model.norm.weight", "BF16", (hidden,)
    yield "lm_head.weight", "BF16", (n_rows, hidden)
    for layer in count():
        at = f"model.layers.{layer}"
        yield f"{at}.input_layernorm.weight", "BF16", (hidden,)
        yield f"{at}.post_attention_layernorm.weight", "BF16", (hidden,)
        yield from _fp8(f"{at}.self_attn.q_a_proj", narrow, hidden)
        yield f"{at}.self_attn.q_a_layernorm.weight", "BF16", (narrow,)
        yield from _fp8(f"{at}.self_attn.q_b_proj", 2 * hidden, narrow)
        yield from _fp8(f"{at}.self_attn.kv_a_proj_with_mqa", narrow, hidden)
        yield f"{at}.self_attn.kv_a_layernorm.weight", "BF16", (narrow,)
        yield from _fp8(f"{at}.self_attn.kv_b_proj", 2 * hidden, narrow)
        yield from _fp8(f"{at}.self_attn.o_proj", hidden, hidden)
        yield f"{at}.mlp.gate.weight", "BF16", (N_EXPERTS, hidden)
        yield f"{at}.mlp.gate.e_score_correction_bias", "F32", (N_EXPERTS,)
        for part, shape in mlp.items():
            yield from _fp8(f"{at}.mlp.shared_experts.{part}", *shape)
        for expert in range(N_EXPERTS):
            for part, shape in mlp.items():
                yield from _fp8(f"{at}.mlp.experts.{expert}.{part}", *shape)


def _fp8(name: str, n_rows: int, n_columns: int) -> Iterator[Tensor]:
    """A quantized weight, and a scale for each block of 128 by 128."""
    yield f"{name}.weight", "F8_E4M3", (n_rows, n_columns)
    blocks = (-(-n_rows // QUANT_BLOCK), -(-n_columns // QUANT_BLOCK))
    yield f"{name}.weight_scale_inv", "F32", blocks


def _fit(layout: Layout, n_bytes: int) -> list[Tensor]:
    """The widest layout in 90 % of `n_bytes`, its embedding grown into the rest; as saved."""
    found = bisect_right(WIDTHS, n_bytes * 9 // 10, key=lambda hidden: _n_bytes(layout(hidden, 1)))
    if found == 0:
        raise ValueError(f"so many tensors do not fit {n_bytes} bytes")
    hidden = WIDTHS[found - 1]
    least = _n_bytes(layout(hidden, 1))
    n_rows = 1 + (n_bytes - least) // (_n_bytes(layout(hidden, 2)) - least)
    order = list(DTYPE_BYTES)
    return sorted(layout(hidden, n_rows), key=lambda tensor: (order.index(tensor[1]), tensor[0]))


def _n_bytes(tensors: Iterable[Tensor]) -> int:
    return sum(DTYPE_BYTES[dtype] * prod(shape) for _, dtype, shape in tensors)


def _header(tensors: Iterable[Tensor]) -> bytes:
    """A safetensors file up to its first tensor; the tensors follow in the given order."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, dtype, shape in tensors:
        end = offset + _n_bytes([(name, dtype, shape)])
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    return len(head).to_bytes(8, "little") + head


def _noise(what: str, n_bytes: int) -> Iterator[memoryview]:
    """`n_bytes` of an AES-CTR key stream that is `what`'s alone, in blocks that are reused."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    key = hashlib.sha256(what.encode()).digest()
    stream = Cipher(algorithms.AES(key[:16]), modes.CTR(key[16:])).encryptor()
    size = min(n_bytes, STREAM_BLOCK)
    zeros = memoryview(bytes(size))
    block = memoryview(bytearray(size + 15))  # update_into wants that much room
    for start in range(0, n_bytes, STREAM_BLOCK):
        length = stream.update_into(zeros[: n_bytes - start], block)
        yield block[:length]
