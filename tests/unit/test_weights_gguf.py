"""The GGUF header, against the gguf package and hand-made bytes."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocimodel.errors import InputError
from ocimodel.weights.facts import read_facts
from ocimodel.weights.ggml_types import BLOCKS, FILE_TYPES
from ocimodel.weights.gguf import read_header
from tests.weights import GGUF_INFOS, GGUF_PAIRS, gguf_file, gguf_info, gguf_pair, gguf_text, over

GOOD = gguf_file(GGUF_PAIRS, GGUF_INFOS, b"\0" * 300)


def test_a_small_file() -> None:
    header = read_header(over(GOOD), len(GOOD))
    assert header.version == 3
    assert header.metadata == {
        "general.architecture": "llama",
        "general.file_type": 15,
        "tokens": ["a", "bc"],
        "scores": [0.0, 0.0, 0.0],
        "nested": [[97, 98]],
        "flag": True,
    }
    quantized, plain = header.tensors
    assert (quantized.dtype, quantized.shape, quantized.length) == ("Q4_K", (2, 256), 288)
    assert (plain.offset, plain.length) == (len(GOOD) - 12, 12)
    facts = read_facts(over(GOOD), len(GOOD), "x.bin")
    assert facts is not None
    assert (facts.format, facts.quantization, facts.architecture) == ("gguf", "Q4_K_M", "llama")
    assert facts.n_parameters == 515
    assert facts.dtypes == (("Q4_K", 512), ("F32", 3))


def test_big_endian_and_split() -> None:
    key = b"split.count"
    head = b"GGUF" + struct.pack(">IQQ", 3, 0, 1) + struct.pack(">Q", len(key)) + key
    data = head + struct.pack(">IH", 2, 7)
    facts = read_facts(over(data), len(data), "x.gguf")
    assert facts is not None
    assert facts.n_parts == 7


def test_without_a_file_type_the_most_common_one_counts() -> None:
    data = gguf_file([], [gguf_info("q", [256], 14, 0)], b"\0" * 210)
    facts = read_facts(over(data), len(data), "x.gguf")
    assert facts is not None
    assert facts.quantization == "Q6_K"


def test_an_unknown_type_spans_the_room_it_has() -> None:
    data = gguf_file([], [gguf_info("n", [64], 200, 0), gguf_info("f", [1], 0, 64)], b"\0" * 68)
    new, _ = read_header(over(data), len(data)).tensors
    assert (new.dtype, new.length, new.n_elements) == ("GGML_200", 64, 64)


def test_golden_against_the_package(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_name("tiny")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_token_list(["a", "b", "ü"])
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((4, 64)).astype(np.float32)
    writer.add_tensor("f32", matrix)
    writer.add_tensor("f16", matrix.astype(np.float16))
    q8 = gguf.quants.quantize(matrix, gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("q8", q8, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    data = path.read_bytes()
    header = read_header(over(data), len(data))
    golden = gguf.GGUFReader(path)
    assert header.metadata["general.name"] == "tiny"
    assert len(header.tensors) == len(golden.tensors) == 3
    for ours, theirs in zip(header.tensors, golden.tensors, strict=True):
        assert ours.name == theirs.name
        assert ours.dtype == theirs.tensor_type.name
        assert ours.shape == tuple(reversed(theirs.shape.tolist()))
        assert (ours.offset, ours.length) == (int(theirs.data_offset), int(theirs.n_bytes))
        assert ours.n_elements == int(theirs.n_elements)
    facts = read_facts(over(data), len(data), "m.gguf")
    assert facts is not None
    assert (facts.quantization, facts.architecture) == ("Q8_0", "bert")


def test_our_type_tables_agree_with_the_package() -> None:
    gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")
    for kind, sizes in gguf.GGML_QUANT_SIZES.items():
        if kind.value in BLOCKS:
            assert BLOCKS[kind.value] == (kind.name, *sizes)
    for file_type in gguf.LlamaFileType:
        if FILE_TYPES.get(file_type.value):
            assert file_type.name == f"MOSTLY_{FILE_TYPES[file_type.value]}"


BAD = {
    "magic only": b"GGUF",
    "version 1": gguf_file([], [], b"", version=1),
    "version 4": gguf_file([], [], b"", version=4),
    "too many keys": b"GGUF" + struct.pack("<IQQ", 3, 0, 2**63),
    "too many tensors": b"GGUF" + struct.pack("<IQQ", 3, 2**63, 0),
    "long key": b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**63),
    "key not UTF-8": gguf_file([b"\1" + b"\0" * 7 + b"\xff" + struct.pack("<IB", 0, 1)], [], b""),
    "duplicate key": gguf_file([gguf_pair("a", 0, b"\1")] * 2, [], b""),
    "unknown value type": gguf_file([gguf_pair("a", 13, b"")], [], b"\0" * 64),
    "array too long": gguf_file([gguf_pair("a", 9, struct.pack("<IQ", 10, 2**61))], [], b"\0" * 64),
    "strings too many": gguf_file(
        [gguf_pair("a", 9, struct.pack("<IQ", 8, 2**61))], [], b"\0" * 64
    ),
    "deep arrays": gguf_file([gguf_pair("a", 9, struct.pack("<IQ", 9, 1) * 9)], [], b"\0" * 640),
    "nine dimensions": gguf_file([], [gguf_info("a", [1] * 9, 0, 0)], b"\0" * 4),
    "overflowing shape": gguf_file([], [gguf_info("a", [2**40, 2**40], 0, 0)], b"\0" * 4),
    "duplicate tensor": gguf_file(
        [], [gguf_info("a", [1], 0, 0), gguf_info("a", [1], 0, 32)], b"\0" * 36
    ),
    "unaligned": gguf_file([], [gguf_info("a", [1], 0, 8)], b"\0" * 36),
    "overlap": gguf_file([], [gguf_info("a", [16], 0, 0), gguf_info("b", [1], 0, 32)], b"\0" * 64),
    "truncated data": gguf_file([], [gguf_info("a", [16], 0, 0)], b"\0" * 63),
    "broken block": gguf_file([], [gguf_info("a", [100], 12, 0)], b"\0" * 200),
    "zero alignment": gguf_file([gguf_pair("general.alignment", 4, b"\0" * 4)], [], b"\0" * 64),
    "text alignment": gguf_file(
        [gguf_pair("general.alignment", 8, gguf_text("x"))], [], b"\0" * 64
    ),
    "other magic": b"GGML" + b"\0" * 60,
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_malformed_files_are_refused(data: bytes) -> None:
    with pytest.raises(InputError):
        read_header(over(data), len(data))
    with pytest.raises(InputError, match=r"^x\.gguf: "):
        read_facts(over(data), len(data), "x.gguf")


@given(st.integers(0, len(GOOD) - 1))
def test_every_truncation_is_refused(length: int) -> None:
    with pytest.raises(InputError):
        read_header(over(GOOD[:length]), length)


@given(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=8))
def test_every_mutation_is_a_value_or_an_input_error(position: int, patch: bytes) -> None:
    data = GOOD[:position] + patch + GOOD[position + len(patch) :]
    try:
        header = read_header(over(data), len(data))
    except InputError:
        return
    assert all(0 <= t.offset <= t.offset + t.length <= len(data) for t in header.tensors)
