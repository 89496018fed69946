"""Formats told by content: zips, pickles and the rest; torch storages."""

from __future__ import annotations

import contextlib
import io
import pickle
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocimodel.errors import InputError
from ocimodel.spec.tensor import Tensor
from ocimodel.weights.facts import read_facts
from ocimodel.weights.torch_zip import read
from tests.weights import TORCH, over, zipped


def format_of(data: bytes, name: str = "file") -> str | None:
    facts = read_facts(over(data), len(data), name)
    return facts.format if facts else None


def storages(data: bytes) -> tuple[Tensor, ...]:
    found = read(over(data), len(data))
    return found.tensors if found else ()


GOOD = zipped(TORCH)


def npz() -> bytes:
    target = io.BytesIO()
    np.savez(target, a=np.zeros(3), b=np.ones(2))
    return target.getvalue()


def npy() -> bytes:
    target = io.BytesIO()
    np.save(target, np.zeros(3))
    return target.getvalue()


KNOWN = [
    (GOOD, "torch"),
    (zipped(TORCH | {"m/constants.pkl": b""}), "torchscript"),
    (zipped(TORCH, comment=b"x" * 60_000), "torch"),
    (zipped({"metadata.json": b"", "config.json": b"", "model.weights.h5": b""}), "keras"),
    (zipped({"word/document.xml": b"x"}), None),
    (npz(), "numpy"),
    (npy(), "numpy"),
    (pickle.dumps({"a": [1, 2]}, protocol=2), "pickle"),
    (pickle.dumps({"a": [1, 2]}, protocol=4), "pickle"),
    (pickle.dumps({"a": [1, 2]}, protocol=2)[:-1], None),
    (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.", "torch"),
    (b"\x89HDF\r\n\x1a\n\0", "hdf5"),
    (b"\x0c\0\0\0TFL3" + b"\0" * 20, "tflite"),
    (b"\xff\xff\xff\xffTFL3", None),
    (b"tjgg\1\0\0\0", "ggml"),
    (b"", None),
    (b"plain text", None),
    (b'{"json": 1}', None),
    (b"\x08\x01", None),
]


@pytest.mark.parametrize(("data", "expected"), KNOWN)
def test_formats_are_told_by_content(data: bytes, expected: str | None) -> None:
    assert format_of(data) == expected


def test_nothing_is_unpickled() -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (pytest.fail, ("unpickled",))

    trap = pickle.dumps(Trap())
    assert format_of(trap) == "pickle"
    assert format_of(zipped(TORCH | {"m/data.pkl": trap})) == "torch"


def test_storages_lie_where_they_say() -> None:
    found = storages(GOOD)
    assert [(item.name, item.length) for item in found] == [("data/0", 4), ("data/1", 6)]
    assert [GOOD[item.offset : item.offset + item.length] for item in found] == [b"abcd", b"efghij"]
    facts = read_facts(over(GOOD), len(GOOD), "m.pt")
    assert facts is not None
    assert (facts.n_parameters, facts.n_bytes) == (None, 10)


def with_end(**changes: int) -> bytes:
    names = ["disk", "start_disk", "here", "n", "length", "start", "comment"]
    values = dict(zip(names, struct.unpack("<4H2IH", GOOD[-18:]), strict=True)) | changes
    return GOOD[:-18] + struct.pack("<4H2IH", *values.values())


LIES = {
    "directory after the file": with_end(start=len(GOOD)),
    "directory too long": with_end(length=2**31),
    "too many entries": with_end(n=60_000),
    "directory elsewhere": with_end(start=3),
    "no end": GOOD[:-22],
    "zip64 without a locator": with_end(n=65535),
}


@pytest.mark.parametrize("data", LIES.values(), ids=LIES.keys())
def test_lying_directories_are_refused(data: bytes) -> None:
    with pytest.raises(InputError):
        storages(data)


def test_compressed_storages_are_no_tensors() -> None:
    data = zipped({name: content * 99 for name, content in TORCH.items()}, compress=True)
    assert storages(data) == ()
    assert format_of(data) == "torch"


def test_storages_of_one_place_are_refused() -> None:
    central = GOOD.index(b"PK\x01\x02")
    offsets = [i for i in range(central, len(GOOD)) if GOOD.startswith(b"PK\x01\x02", i)]
    twice = bytearray(GOOD)
    twice[offsets[2] + 42 : offsets[2] + 46] = twice[offsets[1] + 42 : offsets[1] + 46]
    with pytest.raises(InputError, match="another one's"):
        storages(bytes(twice))


def test_a_broken_checkpoint_is_named_but_any_other_zip_is_not_ours() -> None:
    with pytest.raises(InputError, match=r"^m\.pt: zip"):
        read_facts(over(GOOD[:-30]), len(GOOD) - 30, "m.pt")
    assert format_of(zipped({"word/document.xml": b"x"})[:-30]) is None


def test_a_git_lfs_pointer_says_what_to_do() -> None:
    data = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"
    with pytest.raises(InputError) as caught:
        read_facts(over(data), len(data), "model.safetensors")
    assert "git lfs pull" in caught.value.hint


def test_content_beats_a_promising_name() -> None:
    assert format_of(GOOD, "model.safetensors") == "torch"


@given(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=8))
def test_every_zip_mutation_is_a_value_or_an_input_error(position: int, patch: bytes) -> None:
    data = GOOD[:position] + patch + GOOD[position + len(patch) :]
    for attempt in (lambda: storages(data), lambda: format_of(data)):
        with contextlib.suppress(InputError):
            attempt()


MAGICS = [
    b"GGUF",
    b"PK\3\4",
    b"\x80\x02}",
    b"\0\0\0\0TFL3",
    b"\x08\x01",
    b"\x02\0\0\0\0\0\0\0{}",
    b"",
]


@given(
    st.sampled_from(MAGICS),
    st.binary(max_size=200),
    st.sampled_from(["a", "a.safetensors", "a.gguf", "a.onnx"]),
)
def test_any_file_is_a_value_or_an_input_error(magic: bytes, rest: bytes, name: str) -> None:
    data = magic + rest
    try:
        read_facts(over(data), len(data), name)
    except InputError as error:
        assert str(error).startswith(f"{name}: ")
