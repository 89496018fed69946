"""Formats told by content: zips, pickles and the rest; torch storages."""

from __future__ import annotations

import contextlib
import io
import pickle
import struct
import zipfile
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocimodel.errors import InputError
from ocimodel.weights.facts import read_facts
from ocimodel.weights.torch_zip import storages
from ocimodel.weights.zip_directory import data_offset, read_entries


def over(data: bytes) -> Any:
    return lambda offset, length: data[offset : offset + length]


def format_of(data: bytes, name: str = "file") -> str | None:
    facts = read_facts(over(data), len(data), name)
    return facts.format if facts else None


def zipped(entries: dict[str, bytes], compress: bool = False, comment: bytes = b"") -> bytes:
    target = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(target, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
        archive.comment = comment
    return target.getvalue()


TORCH = {"m/data.pkl": b"\x80\x02}.", "m/data/0": b"abcd", "m/data/1": b"efghij", "m/version": b"3"}
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
    found = storages(over(GOOD), len(GOOD))
    assert [(item.name, item.length) for item in found] == [("data/0", 4), ("data/1", 6)]
    assert [GOOD[item.offset : item.offset + item.length] for item in found] == [b"abcd", b"efghij"]
    facts = read_facts(over(GOOD), len(GOOD), "m.pt")
    assert facts is not None
    assert (facts.n_parameters, facts.n_bytes) == (None, 10)


def test_zip64_directories() -> None:
    target = io.BytesIO()
    with (
        zipfile.ZipFile(target, "w") as archive,
        archive.open("m/data/0", "w", force_zip64=True) as f,
    ):
        f.write(b"abcd")
    data = target.getvalue()
    # As a writer of 70,000 entries ends it: the real numbers in the zip64 record.
    end = data.rindex(b"PK\x05\x06")
    _, _, _, _, n, length, start, _ = struct.unpack("<4s4H2IH", data[end:])
    record = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, n, n, length, start)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, end, 1)
    small = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 65535, 65535, 2**32 - 1, 2**32 - 1, 0)
    data = data[:end] + record + locator + small
    (entry,) = read_entries(over(data), len(data))
    at = data_offset(over(data), entry, len(data))
    assert data[at : at + entry.size] == b"abcd"


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
        storages(over(data), len(data))


def test_compressed_and_overlapping_storages_are_refused() -> None:
    data = zipped({name: content * 99 for name, content in TORCH.items()}, compress=True)
    with pytest.raises(InputError, match="compressed"):
        storages(over(data), len(data))
    central = GOOD.index(b"PK\x01\x02")
    offsets = [i for i in range(central, len(GOOD)) if GOOD.startswith(b"PK\x01\x02", i)]
    twice = bytearray(GOOD)
    twice[offsets[2] + 42 : offsets[2] + 46] = twice[offsets[1] + 42 : offsets[1] + 46]
    with pytest.raises(InputError, match="overlaps"):
        storages(over(bytes(twice)), len(twice))


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
    for read in (lambda: storages(over(data), len(data)), lambda: format_of(data)):
        with contextlib.suppress(InputError):
            read()


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
