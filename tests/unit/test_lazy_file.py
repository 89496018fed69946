"""A file of an artifact as Python knows files; and several blobs that look like one."""

from __future__ import annotations

import errno
import io
import json
import os
import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from ocimodel.errors import IntegrityError, NotFoundError
from ocimodel.lazy.file import AHEAD_BYTES, STRETCH_BYTES
from ocimodel.lazy.recorder import Recorder as Profile
from ocimodel.spec.chunkindex import MAX_CHUNK_BYTES
from tests.lazy import CONFIG, MIB, SAMPLE, SAMPLE_FILE, content, opened, same
from tests.weights import TORCH, torch_files

LAYOUTS = {"one blob": {}, "segments": {"layering": "auto", "max_layer_bytes": 5 * MIB}}
RAW = SAMPLE_FILE.content


@pytest.fixture(params=["memory", "cache"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "cache" if request.param == "cache" else None


def test_it_is_a_binary_file() -> None:
    with opened() as it, it.model.open("config.json") as file:
        assert isinstance(file, io.BufferedReader)
        assert file.readable()
        assert file.seekable()
        assert not file.writable()
        assert file.name == "config.json"
        assert json.load(file) == json.loads(CONFIG)
        assert file.read() == file.read(5) == b""
        assert file.seek(0) == file.tell() == 0
        assert file.readline() == CONFIG
        assert file.seek(-3, os.SEEK_END) == len(CONFIG) - 3
        assert file.read(100) == CONFIG[-3:]
        assert file.seek(1000) == 1000
        assert file.read(5) == b""
        assert file.seek(2) + file.seek(3, os.SEEK_CUR) == 7
        with pytest.raises(io.UnsupportedOperation):
            file.write(b"x")
        with pytest.raises(OSError) as caught:
            file.seek(-len(CONFIG) - 1, os.SEEK_END)
        assert caught.value.errno == errno.EINVAL
    with pytest.raises(ValueError, match="closed"):
        file.read()


def test_each_reader_has_a_position_of_its_own() -> None:
    with opened() as it, it.model.open("config.json") as one, it.model.open("config.json") as two:
        one.read(5)
        assert two.read() == CONFIG
        assert one.read() == CONFIG[5:]


def test_no_such_file() -> None:
    with opened() as it, pytest.raises(NotFoundError) as caught:
        it.model.open("model.bin")
    assert "config.json" in caught.value.hint


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_part_of_a_file(layout: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    size = len(RAW)
    steps = st.lists(st.tuples(st.integers(0, size + 10), st.integers(0, size)), max_size=5)

    @settings(max_examples=15, deadline=None)
    @given(steps, st.booleans())
    def check(steps: list[tuple[int, int]], is_cached: bool) -> None:
        folder = tmp_path_factory.mktemp("cache") if is_cached else None
        with opened(layout=LAYOUTS[layout], cache=folder) as it:
            file = it.model.open("model.safetensors")
            for start, length in steps:
                file.seek(start)
                assert file.read(length) == RAW[start : start + length]

    check()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("n_bytes", [100_000, 3 * MIB, -1])
def test_reading_on_to_the_end(cache: Path | None, layout: str, n_bytes: int) -> None:
    """What is fetched ahead is the same, comes once, and is not too much."""
    with opened(layout=LAYOUTS[layout], cache=cache) as it:
        file = it.model.open("model.safetensors")
        found = b"".join(iter(lambda: file.read(n_bytes), b""))
        assert found == RAW
        n_blobs = len(it.model.model_files[0].layers)
        assert n_blobs == 1 or layout == "segments"
        assert it.source.n_bytes_read <= len(RAW)


def test_who_jumps_about_gets_nothing_fetched_ahead() -> None:
    big = content(80 * MIB)
    with opened({"big.bin": big}) as it:
        file = it.model.open("big.bin")
        positions = (60 * MIB, 20 * MIB, 40 * MIB, 50)
        for position in positions:
            file.seek(position)
            assert file.read(10) == big[position : position + 10]
        assert it.source.n_bytes_read == len(positions) * MAX_CHUNK_BYTES


def test_what_is_ahead_fits_into_memory() -> None:
    big = content(80 * MIB)
    with opened({"big.bin": big}, window=64 * MIB) as it:
        file = it.model.open("big.bin")
        assert b"".join(iter(lambda: file.read(MIB), b"")) == big
        # nothing had to be fetched again
        assert it.source.n_bytes_read == len(big)
    assert AHEAD_BYTES == 64 * MIB


def test_one_big_read_is_shared_out() -> None:
    big = content(3 * STRETCH_BYTES + 5)
    with opened({"big.bin": big}) as it:
        out = bytearray(len(big) + 10)
        assert it.model.open("big.bin").readinto(out) == len(big)
        assert out == big + bytes(10)
        assert it.source.n_bytes_read == len(big)
        assert len(it.source.asked) > 1


def test_a_zip_over_it() -> None:
    raw = torch_files()[0]
    with opened({"model.pt": raw, "tiny": b"PK"}) as it:
        with zipfile.ZipFile(it.model.open("model.pt")) as archive:
            assert {name: archive.read(name) for name in archive.namelist()} == TORCH
        assert not zipfile.is_zipfile(it.model.open("tiny"))


def test_numpy_over_it() -> None:
    expected = np.arange(600_000, dtype="f4").reshape(1000, -1)
    saved = io.BytesIO()
    np.save(saved, expected)
    with opened({"a.npy": saved.getvalue()}) as it:
        assert same(np.load(it.model.open("a.npy")), expected)


def test_safetensors_over_it() -> None:
    with opened() as it:
        found = safetensors.numpy.load(it.model.open("model.safetensors").read())
    assert {name: same(found[name], a) for name, (_, a) in SAMPLE.items()} == dict.fromkeys(
        SAMPLE, True
    )


def test_text_over_it() -> None:
    lines = "\n".join(f"line {i} ü" for i in range(10_000))
    with opened({"merges.txt": lines.encode()}) as it:
        text = io.TextIOWrapper(it.model.open("merges.txt"), encoding="utf-8")
        assert [line.rstrip("\n") for line in text] == lines.split("\n")


@pytest.mark.parametrize("raw", [b"", b"x"])
def test_a_tiny_file(raw: bytes) -> None:
    with opened({"tiny": raw, "other": b"yes"}) as it:
        assert it.model.open("tiny").read() == raw
        assert it.model.file("tiny").size == len(raw)


def test_an_error_in_what_was_fetched_ahead_comes_when_it_is_read() -> None:
    big = content(40 * MIB)
    with opened({"big.bin": big}) as it:
        place = 30 * MIB
        wrong = big[:place] + bytes([big[place] ^ 1]) + big[place + 1 :]
        it.source.swapped[it.model.model_files[0].layer.digest] = wrong
        file = it.model.open("big.bin")
        good = place - place % MAX_CHUNK_BYTES
        assert b"".join(file.read(MIB) for _ in range(good // MIB)) == big[:good]
        with pytest.raises(IntegrityError):
            file.read(MIB)
        file.seek(good + MAX_CHUNK_BYTES)
        assert file.read(5) == big[good + MAX_CHUNK_BYTES :][:5]


def test_nothing_is_read_after_close() -> None:
    with opened() as it:
        file: BinaryIO = it.model.open("config.json")
        loading = it.model.load(framework="numpy")
        tensor = it.model.tensors("numpy")["a.bias"]
    for read in (file.read, lambda: next(loading), tensor.numpy, lambda: tensor[0:2]):
        with pytest.raises(ValueError, match="closed"):
            read()


def test_what_is_read_is_noted() -> None:
    profile = Profile()
    with opened(recorder=profile) as it:
        it.model.open("config.json").read(5)
        _ = it.model.tensors("numpy")["b.norm"][1:2]
        bias, norm = it.model._all_tensors()["a.bias"][0], it.model._all_tensors()["b.norm"][0]
        list(it.model.load(["a.bias"]))
    assert profile.ranges() == (
        ("config.json", 0, len(CONFIG)),
        ("model.safetensors", norm.offset + 20, 20),
        ("model.safetensors", bias.offset, bias.length),
    )
