"""What kind a file is: content first, then the name."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocimodel.weights.kinds import LARGE, Kind, classify

SAFETENSORS = b'\x10\0\0\0\0\0\0\0{"a":0         }'


def torch_zip(first: str = "archive/data.pkl") -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr(first, b"x")
    return target.getvalue()


BY_CONTENT = [
    ("notes.md", b"GGUF\3\0\0\0", Kind.WEIGHT),
    ("notes.md", pickle.dumps({"a": 1}, protocol=2), Kind.WEIGHT),
    ("x", pickle.dumps([1], protocol=4), Kind.WEIGHT),
    ("x.txt", b"\x89HDF\r\n\x1a\n", Kind.WEIGHT),
    ("x.txt", b"\x93NUMPY\1\0", Kind.WEIGHT),
    ("x.txt", b"\x1c\0\0\0TFL3", Kind.WEIGHT),
    ("x.txt", SAFETENSORS, Kind.WEIGHT),
    ("training_args.doc", torch_zip(), Kind.WEIGHT),
    ("report.docx", torch_zip("[Content_Types].xml"), Kind.DOC),
    ("kernel", b"\x7fELF\2\1\1", Kind.CODE),
    ("libx.bin", b"\x7fELF\2\1\1", Kind.CODE),
    ("run", b"#!/bin/sh\n", Kind.CODE),
    ("setup.exe", b"MZ" + b"\0" * 58 + b"\x40\0\0\0PE\0\0", Kind.CODE),
    ("x.bin", b"PAR1\x15\x04", Kind.DATASET),
    ("x", b"ARROW1\0\0", Kind.DATASET),
    ("x.bin", b"\x89PNG\r\n\x1a\n", Kind.DOC),
    ("x", b"%PDF-1.7", Kind.DOC),
    ("tokenizer.model", b"\x0a\x0e\x0a\x05<unk>", Kind.WEIGHT_CONFIG),
    ("m.model", b"\x0a\x0e\x0a\x05<unk>", Kind.WEIGHT_CONFIG),
]
BY_NAME = [
    ("config.json", Kind.WEIGHT_CONFIG),
    ("1_Pooling/config.json", Kind.WEIGHT_CONFIG),
    ("model.safetensors.index.json", Kind.WEIGHT_CONFIG),
    ("vocab.txt", Kind.WEIGHT_CONFIG),
    ("merges.txt", Kind.WEIGHT_CONFIG),
    ("tokenizer.json", Kind.WEIGHT_CONFIG),
    ("tokenizer_config.json", Kind.WEIGHT_CONFIG),
    ("qwen.tiktoken", Kind.WEIGHT_CONFIG),
    ("spiece.model", Kind.WEIGHT_CONFIG),
    ("chat_template.jinja", Kind.WEIGHT_CONFIG),
    ("params.yaml", Kind.WEIGHT_CONFIG),
    ("README.md", Kind.DOC),
    ("README", Kind.DOC),
    ("LICENSE", Kind.DOC),
    ("LICENSE.txt", Kind.DOC),
    ("NOTICE", Kind.DOC),
    ("notes.txt", Kind.DOC),
    ("USE_POLICY.md", Kind.DOC),
    ("figures/loss.svg", Kind.DOC),
    ("modeling_x.py", Kind.CODE),
    ("tokenizer.py", Kind.CODE),
    ("demo.ipynb", Kind.CODE),
    ("requirements.txt", Kind.CODE),
    ("requirements-dev.txt", Kind.CODE),
    ("Dockerfile", Kind.CODE),
    ("Makefile", Kind.CODE),
    ("package.json", Kind.CODE),
    ("train.csv", Kind.DATASET),
    ("data/train.jsonl", Kind.DATASET),
    ("data/train-00000.parquet", Kind.DATASET),
    ("pytorch_model.bin", Kind.WEIGHT),
    ("pytorch_model.bin.index.json", Kind.WEIGHT_CONFIG),
    ("model.SAFETENSORS", Kind.WEIGHT),
    ("model.onnx_data", Kind.WEIGHT),
    ("variables/variables.data-00000-of-00001", Kind.WEIGHT),
    ("variables/variables.index", Kind.WEIGHT),
    ("saved_model.pb", Kind.WEIGHT),
    ("flax_model.msgpack", Kind.WEIGHT),
    ("unknown", Kind.DOC),
    (".gitattributes", Kind.CODE),
]


@pytest.mark.parametrize(("path", "head", "kind"), BY_CONTENT)
def test_content_decides_first(path: str, head: bytes, kind: Kind) -> None:
    assert classify(path, len(head), head) is kind


@pytest.mark.parametrize(("path", "kind"), BY_NAME)
def test_then_the_name(path: str, kind: Kind) -> None:
    assert classify(path, 5, b"text\n") is kind
    assert classify(path, 0, b"") is kind


def test_then_size_and_text() -> None:
    binary = b"\xfe\xff\0\1" * 100
    assert classify("blob", LARGE, binary) is Kind.WEIGHT
    assert classify("blob", LARGE - 1, binary) is Kind.WEIGHT_CONFIG
    assert classify("blob", LARGE, b"plain text " * 100) is Kind.DOC
    assert classify("fast.model", LARGE, binary) is Kind.WEIGHT
    # A head that ends inside a character is still text.
    assert classify("blob", LARGE, ("x" * 4095 + "é").encode()[:4096]) is Kind.DOC


def test_the_real_model(minilm_dir: Path) -> None:
    kinds = {}
    for path in minilm_dir.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                head = file.read(4096)
            relative = path.relative_to(minilm_dir).as_posix()
            kinds[relative] = classify(relative, path.stat().st_size, head)
    assert kinds["model.safetensors"] is Kind.WEIGHT
    assert kinds["README.md"] is Kind.DOC
    configs = {path for path, kind in kinds.items() if kind is Kind.WEIGHT_CONFIG}
    assert configs >= {"config.json", "1_Pooling/config.json", "tokenizer.json", "vocab.txt"}


@given(st.text(max_size=40), st.integers(0, 2**40), st.binary(max_size=200))
def test_every_file_has_a_kind(path: str, size: int, head: bytes) -> None:
    assert isinstance(classify(path, size, head), Kind)
