"""Inputs of the benchmarks: model directories of incompressible bytes and their OCI layouts.

The bytes are an AES-CTR key stream: nothing compresses or deduplicates them, every run
makes the same ones, and they cost about as much as copying memory. The layout hard-links
its blobs to the model directory, so a gigabyte of input takes a gigabyte of tmpfs.

    python -m bench.inputs --out DIR --files 4 --size 256        # MiB a file
    python -m bench.inputs --out DIR --files 1 --size 2048 --tensor 86
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MIB = 1 << 20
TENSOR_BYTES = 16 * MIB
HIDDEN = 4096  # F16 columns: a row is 8 KiB
TAG = "bench"
MODEL = "application/vnd.cncf.model"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"


@dataclass(frozen=True, slots=True)
class Model:
    """A model directory, and the same content as an image layout under the tag `bench`."""

    directory: Path
    layout: Path
    n_files: int
    n_bytes: int

    @property
    def weight_files(self) -> list[Path]:
        return sorted(self.directory.glob("*.safetensors"))


def tensor_header(n_bytes: int, tensor_bytes: int) -> bytes:
    """The safetensors header for n_bytes of F16 data, cut into tensors of at most that size."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for number, start in enumerate(range(0, n_bytes, tensor_bytes)):
        end = min(start + tensor_bytes, n_bytes)
        shape = [(end - start) // (2 * HIDDEN), HIDDEN]
        tensor = {"dtype": "F16", "shape": shape, "data_offsets": [start, end]}
        header[f"model.layers.{number}.weight"] = tensor
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def write_weights(path: Path, n_bytes: int, seed: str, tensor_bytes: int = TENSOR_BYTES) -> str:
    """Write a valid safetensors file with n_bytes of tensor data; gives its digest."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    key = hashlib.sha256(seed.encode()).digest()
    stream = Cipher(algorithms.AES(key[:16]), modes.CTR(key[16:])).encryptor()
    zeros = bytes(MIB)
    hasher = hashlib.sha256()
    with path.open("wb", buffering=0) as file:
        header = tensor_header(n_bytes, tensor_bytes)
        file.write(header)
        hasher.update(header)
        for _ in range(n_bytes // MIB):
            block = stream.update(zeros)
            file.write(block)
            hasher.update(block)
    return "sha256:" + hasher.hexdigest()


def make_model(root: Path, n_files: int, mib_each: int, tensor_bytes: int = TENSOR_BYTES) -> Model:
    """Make the directory and the layout under `root`, which must not exist yet."""
    directory, layout = root / "model", root / "layout"
    directory.mkdir(parents=True)
    digests = {}
    for number in range(1, n_files + 1):
        name = f"model-{number:05}-of-{n_files:05}.safetensors"
        if n_files == 1:
            name = "model.safetensors"
        seed = f"{name}/{mib_each}"
        digests[name] = write_weights(directory / name, mib_each * MIB, seed, tensor_bytes)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN}
    (directory / "config.json").write_text(json.dumps({**config, "torch_dtype": "float16"}))
    make_layout(directory, layout, digests)
    return describe(root)


def describe(root: Path) -> Model:
    """The model that make_model left under `root`."""
    files = list((root / "model").iterdir())
    n_files = sum(1 for path in files if path.suffix == ".safetensors")
    return Model(root / "model", root / "layout", n_files, sum(p.stat().st_size for p in files))


def make_layout(directory: Path, layout: Path, digests: dict[str, str]) -> None:
    """A ModelPack artifact of the directory, written by hand: one raw layer a file."""
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    small = directory / "config.json"
    digests = {small.name: digest_of(small.read_bytes()), **digests}
    layers = [layer_of(directory / name, digest) for name, digest in digests.items()]
    for name, digest in digests.items():
        os.link(directory / name, blobs / digest.removeprefix("sha256:"))
    diff_ids = [layer["digest"] for layer in layers]
    config = {
        "descriptor": {"name": "bench"},
        "config": {"format": "safetensors", "precision": "float16"},
        "modelfs": {"type": "layers", "diffIds": diff_ids},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": f"{MODEL}.manifest.v1+json",
        "config": put_json(blobs, config, f"{MODEL}.config.v1+json"),
        "layers": layers,
    }
    entry = put_json(blobs, manifest, MANIFEST_TYPE)
    entry["annotations"] = {"org.opencontainers.image.ref.name": TAG}
    index = {"schemaVersion": 2, "manifests": [entry]}
    (layout / "index.json").write_text(json.dumps(index))
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')


def layer_of(path: Path, digest: str) -> dict[str, Any]:
    kind = "weight" if path.suffix == ".safetensors" else "weight.config"
    names = ("org.cncf.model.filepath", "org.opencontainers.image.title")
    return {
        "mediaType": f"{MODEL}.{kind}.v1.raw",
        "digest": digest,
        "size": path.stat().st_size,
        "annotations": dict.fromkeys(names, path.name),
    }


def put_json(blobs: Path, document: dict[str, Any], media_type: str) -> dict[str, Any]:
    body = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    digest = digest_of(body)
    (blobs / digest.removeprefix("sha256:")).write_bytes(body)
    return {"mediaType": media_type, "digest": digest, "size": len(body)}


def digest_of(body: bytes) -> str:
    return "sha256:" + hashlib.sha256(body).hexdigest()


def make_model_apart(
    root: Path, n_files: int, mib_each: int, tensor_bytes: int = TENSOR_BYTES
) -> Model:
    """make_model in a child: whoever measures children's peak memory must stay small."""
    argv = [sys.executable, str(Path(__file__).resolve()), "--out", str(root)]
    argv += ["--files", str(n_files), "--size", str(mib_each)]
    subprocess.run([*argv, "--tensor", str(tensor_bytes // MIB)], check=True)
    return describe(root)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.inputs")
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument("--files", type=int, default=4)
    parser.add_argument("--size", type=int, default=256, help="MiB a file")
    parser.add_argument("--tensor", type=int, default=TENSOR_BYTES // MIB, help="MiB a tensor")
    args = parser.parse_args()
    make_model(args.out, args.files, args.size, args.tensor * MIB)


if __name__ == "__main__":
    main()
