"""Fuzz a reader of weights files: a value or InputError, nothing else. Needs atheris.

python tests/fuzz/fuzz_weights.py safetensors|gguf|onnx -max_total_time=60
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports():
    from ocimodel.errors import InputError
    from ocimodel.weights import gguf, onnx, safetensors

READERS = {"safetensors": safetensors, "gguf": gguf, "onnx": onnx}


def main(program: str, name: str, *options: str) -> None:
    reader = READERS[name]

    def one_input(data: bytes) -> None:
        try:
            header = reader.read_header(lambda at, length: data[at : at + length], len(data))
        except InputError:
            return
        for tensor in header.tensors:
            inside = 0 <= tensor.offset <= tensor.offset + tensor.length <= len(data)
            if not tensor.file and not inside:
                raise AssertionError(f"{tensor} lies outside {len(data)} bytes")

    atheris.Setup([program, *options], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv)
