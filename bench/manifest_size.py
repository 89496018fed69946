"""How large manifest and index of a model would be, from the header of its weights file alone.

    python -m bench.manifest_size --tensors 90000 --bytes 100000000000 --layering tensor

What is written is what packing would write, with digests of names in place of those of bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path

from ocimodel.ops.indexing import Hashed, Surveyed, build_index, plan
from ocimodel.ops.packing import MAX_LAYER_BYTES
from ocimodel.spec.chunkindex import ChunkIndex
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.digest import sha256
from ocimodel.spec.modelpack import (
    CONFIG_TYPE,
    REGULAR,
    build_manifest,
    file_layer,
    new_index_layer,
)
from ocimodel.spec.segments import segment_path
from ocimodel.store.tree import TreeFile
from ocimodel.weights import read_tensor_map
from tests.servers.models import HeaderOnly, headers_only_model

NAME = "model.safetensors"


def sizes(model: HeaderOnly, layering: str) -> dict[str, int]:
    """In bytes, but for `layers` and `chunks`. `chunkBytes`: of an index of the chunks alone."""

    def read_at(offset: int, length: int) -> bytes:
        return model.header[offset : offset + length]

    tensors = read_tensor_map(read_at, model.n_bytes, NAME)
    file = TreeFile(NAME, Path(NAME), model.n_bytes, executable=False)
    planned = plan([Surveyed(file, True, tensors)], layering, MAX_LAYER_BYTES)[NAME]
    wanted = {*planned.cuts.segments, *planned.cuts.chunks, *planned.to_fingerprint()}
    hashed = Hashed(planned, {r: hashlib.sha256(repr(r).encode()).digest() for r in wanted})
    index = build_index({NAME: hashed})
    raw_index = index.encode()
    segments = planned.cuts.segments
    names = [NAME]
    if len(segments) > 1:
        names = [segment_path(NAME, i + 1, len(segments)) for i in range(len(segments))]
    layers = [
        file_layer(name, "weight", digest, length, REGULAR)
        for name, digest, (_, length) in zip(names, hashed.segments, segments, strict=True)
    ]
    layers.append(new_index_layer(sha256(raw_index), len(raw_index)))
    config = Descriptor(CONFIG_TYPE, sha256(b""), 100 * len(layers))
    chunks_alone = ChunkIndex(index.blobs).encode()
    return {
        "manifestBytes": len(build_manifest(config, tuple(layers), {})),
        "indexBytes": len(raw_index),
        "chunkBytes": len(chunks_alone) if index.blobs else 0,
        "chunks": sum(len(blob.lengths) for blob in index.blobs.values()),
        "layers": len(layers),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.manifest_size")
    parser.add_argument("--tensors", type=int, default=90_000)
    parser.add_argument("--bytes", type=int, default=100 * 10**9)
    parser.add_argument("--layering", choices=("file", "tensor"), default="tensor")
    args = parser.parse_args()
    json.dump(sizes(headers_only_model(args.tensors, args.bytes), args.layering), sys.stdout)


if __name__ == "__main__":
    main()
