"""Fuzz the gguf reader: a value or InputError, nothing else. Needs atheris.

python tests/fuzz/fuzz_gguf.py -max_total_time=60
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports():
    from ocimodel.errors import InputError
    from ocimodel.weights.gguf import read_header


def one_input(data: bytes) -> None:
    try:
        header = read_header(lambda offset, length: data[offset : offset + length], len(data))
    except InputError:
        return
    for tensor in header.tensors:
        inside = 0 <= tensor.offset <= tensor.offset + tensor.length <= len(data)
        if not tensor.file and not inside:
            raise AssertionError(f"{tensor} lies outside {len(data)} bytes")


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
