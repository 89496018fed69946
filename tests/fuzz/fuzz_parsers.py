"""Fuzz a parser of foreign bytes: a value or InputError, nothing else. Needs atheris.

python tests/fuzz/fuzz_parsers.py safetensors|gguf|onnx|torch|index -max_total_time=60

Begins from small valid files, which are made anew each time.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[2]))

with atheris.instrument_imports():
    from ocimodel.errors import InputError
    from ocimodel.spec.chunkindex import parse_index
    from ocimodel.weights import gguf, onnx, safetensors, torch_zip
    from ocimodel.weights.metadata import MAX_BYTES, bounded

from tests.weights import SEEDS

READERS = {"safetensors": safetensors, "gguf": gguf, "onnx": onnx, "torch": torch_zip}


def reads(name: str) -> Callable[[bytes], None]:
    """One run of a reader, and what holds for every map that it gives."""
    reader = READERS[name]

    def one(data: bytes) -> None:
        found = reader.read(lambda at, length: data[at : at + length], len(data))
        if found is None:
            return
        for tensor in found.tensors:
            inside = 0 <= tensor.offset <= tensor.offset + tensor.length <= len(data)
            if not tensor.file and not inside:
                raise AssertionError(f"{tensor} lies outside {len(data)} bytes")
            tensor.name.encode()
        if len(repr(bounded(found.metadata))) > 6 * MAX_BYTES:
            raise AssertionError("the metadata is not bounded")

    return one


def indexes(data: bytes) -> None:
    """What was accepted is written so that it is accepted again, as the same."""
    found = parse_index(data)
    if parse_index(found.encode()) != found:
        raise AssertionError("another index comes back")


def main(program: str, name: str, *options: str) -> None:
    one = indexes if name == "index" else reads(name)

    def one_input(data: bytes) -> None:
        try:
            one(data)
        except InputError:
            return

    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(SEEDS[name]()):
            Path(corpus, str(number)).write_bytes(seed)
        atheris.Setup([program, *options, corpus], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv)
