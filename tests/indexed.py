"""Artifacts with a chunk index, made by hand: weights in memory, cut as real ones are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ocimodel.spec.chunkindex import BlobChunks, ChunkIndex, IndexedFile, fingerprint
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.manifest import MANIFEST, Manifest, parse_manifest
from ocimodel.spec.modelpack import (
    CONFIG_TYPE,
    REGULAR,
    ModelConfig,
    build_manifest,
    file_layer,
    new_index_layer,
)
from ocimodel.spec.segments import segment_path
from ocimodel.spec.tensor import Tensor
from ocimodel.store.copy import copy
from ocimodel.store.layout import Layout
from ocimodel.store.memory import MemoryStore
from ocimodel.weights.cuts import MAX_LAYER_BYTES, Content, cut, pieces
from tests.artifacts import put_blob


@dataclass(frozen=True)
class Weights:
    """A file and what it holds."""

    content: bytes
    format: str = "raw"
    metadata: Mapping[str, Any] = field(default_factory=dict)
    tensors: tuple[Tensor, ...] = ()


Values = Mapping[str, tuple[str, Sequence[int], bytes]]  # name → dtype, shape, bytes


def safetensors(values: Values, metadata: Mapping[str, str] | None = None) -> Weights:
    """A real safetensors file."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, (dtype, shape, content) in values.items():
        header[name] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [end, end + len(content)],
        }
        end += len(content)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    tensors = []
    offset = 8 + len(text)
    for name, (dtype, shape, content) in values.items():
        tensors.append(Tensor(name, dtype, tuple(shape), offset, len(content)))
        offset += len(content)
    bodies = b"".join(content for _, _, content in values.values())
    raw = len(text).to_bytes(8, "little") + text + bodies
    return Weights(raw, "safetensors", metadata or {}, tuple(tensors))


def put_indexed(
    store: MemoryStore,
    files: Mapping[str, bytes | Weights],
    *,
    layering: str = "file",
    max_layer_bytes: int = MAX_LAYER_BYTES,
    config: ModelConfig | None = None,
    annotations: Mapping[str, str] | None = None,
    has_index: bool = True,
) -> Manifest:
    """An artifact of these files, as push makes it. `has_index`: as we do, or as others do."""
    made = {p: f if isinstance(f, Weights) else Weights(f) for p, f in files.items()}
    cuts = cut(
        {p: Content(len(f.content), f.tensors, bool(f.tensors)) for p, f in made.items()},
        layering,
        max_layer_bytes,
    )
    layers: list[Descriptor] = []
    blobs: dict[str, BlobChunks] = {}
    entries = {}
    for path, file in made.items():
        segments = []
        n = len(cuts[path].segments)
        for number, (start, length) in enumerate(cuts[path].segments, 1):
            content = file.content[start : start + length]
            digest = put_blob(store, content)
            name = segment_path(path, number, n) if n > 1 else path
            kind = "weight" if file.tensors else "weight.config"
            layers.append(file_layer(name, kind, digest, length, REGULAR))
            segments.append(digest)
            inner = [c for c in cuts[path].chunks if start <= c[0] < start + length]
            if len(inner) > 1:
                blobs[digest] = BlobChunks(
                    tuple(size for _, size in inner),
                    b"".join(_hash(file.content, *stretch) for stretch in inner),
                )
        whole = {start for start, _ in cuts[path].chunks}
        prints = tuple(
            b""
            if t.offset in whole and t.offset + t.length in whole | {len(file.content)}
            else fingerprint([_hash(file.content, *piece) for piece in pieces(t)])
            for t in file.tensors
        )
        if file.tensors or n > 1:
            entries[path] = IndexedFile(
                path,
                len(file.content),
                tuple(segments),
                file.format,
                file.metadata,
                file.tensors,
                prints,
            )
    if has_index:
        raw = ChunkIndex(blobs, dict(sorted(entries.items()))).encode()
        layers.append(new_index_layer(put_blob(store, raw), len(raw)))
    diff_ids = tuple(layer.digest for layer in layers)
    stated = config or ModelConfig()
    document = ModelConfig(stated.descriptor, stated.config, diff_ids).encode()
    described = Descriptor(CONFIG_TYPE, put_blob(store, document), len(document))
    manifest = parse_manifest(build_manifest(described, tuple(layers), annotations or {}), MANIFEST)
    assert isinstance(manifest, Manifest)
    store.put_manifest(manifest)
    return manifest


def put_layout(path: Path, tag: str, files: Mapping[str, bytes | Weights], **how: Any) -> str:
    """The same in a layout on disk; its reference."""
    store = MemoryStore()
    manifest = put_indexed(store, files, **how)
    layout = Layout(path, create=True)
    copy(store, layout, manifest)
    layout.tag(tag, manifest.descriptor)
    return f"oci:{path}:{tag}"


def _hash(content: bytes, start: int, length: int) -> bytes:
    return hashlib.sha256(content[start : start + length]).digest()
