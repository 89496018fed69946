"""Files that several layers hold: each layer is a segment, `PATH.segments/000001-of-000230`.

The names alone say which file a segment is of, and any other tool gets parts that `cat` joins. They
mean so only in an artifact that carries our chunk index; elsewhere they are files of their own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ocimodel.errors import InputError
from ocimodel.spec.manifest import Manifest
from ocimodel.spec.modelpack import ModelFile, index_layer, read_layer
from ocimodel.spec.paths import PRIVATE_PREFIX, check_path, check_tree

if TYPE_CHECKING:
    from ocimodel.spec.chunkindex import ChunkIndex

_SEGMENT = re.compile(r"(.+)\.segments/([0-9]{6})-of-([0-9]{6})", re.DOTALL)


def segment_path(path: str, number: int, n_segments: int) -> str:
    """The filepath of a segment's layer; `number` counts from 1."""
    return f"{path}.segments/{number:06}-of-{n_segments:06}"


def is_segment_path(path: str) -> bool:
    """Whether a file of this name would be taken for a segment."""
    return _SEGMENT.fullmatch(path) is not None


def files_of(manifest: Manifest) -> list[ModelFile]:
    """The files of the model: our own documents left out, the segments of each file joined.

    Names are unchecked. InputError where a layer has none, or a file lacks a segment.
    """
    files = [read_layer(layer) for layer in manifest.layers]
    files = [f for f in files if not f.path.startswith(PRIVATE_PREFIX)]
    return join_segments(files) if index_layer(manifest) else files


def model_files(manifest: Manifest) -> list[ModelFile]:
    """The files of an artifact, checked against each other; InputError for hostile names."""
    files = files_of(manifest)
    check_tree(
        [f.path for f in files if f.codec == "raw" and not f.is_directory],
        [f.path for f in files if f.is_directory] + [d for f in files for d in f.directories],
    )
    for file in files:
        if file.codec != "raw" and file.path != ".":
            check_path(file.path.rstrip("/"))
    return files


def join_segments(files: Sequence[ModelFile]) -> list[ModelFile]:
    """Each segmented file as one, where its first segment stands."""
    segments: dict[str, list[tuple[int, int, ModelFile]]] = {}
    for file in files:
        if (match := _SEGMENT.fullmatch(file.path)) and file.codec == "raw":
            path, number, n = match.groups()
            segments.setdefault(path, []).append((int(number), int(n), file))
    joined: list[ModelFile] = []
    for file in files:
        match = _SEGMENT.fullmatch(file.path) if file.codec == "raw" else None
        if not match:
            joined.append(file)
        elif found := segments.pop(match[1], []):
            joined.append(_whole(match[1], found))
    return joined


def _whole(path: str, found: list[tuple[int, int, ModelFile]]) -> ModelFile:
    found.sort(key=lambda segment: segment[0])
    if [(number, n) for number, n, _ in found] != [
        (i + 1, len(found)) for i in range(len(found))
    ] or any(file.is_directory for *_, file in found):
        raise InputError(
            f"{path!r} lacks one of its segments, or has one twice",
            hint="the artifact is damaged or hostile: push it again",
        )
    if len(found) > 1 and not all(file.size for *_, file in found):
        # it would stand where the next one stands
        raise InputError(
            f"{path!r} has a segment without bytes",
            hint="the artifact is damaged or hostile: push it again",
        )
    first = found[0][2]
    return replace(first, path=path, layers=tuple(file.layer for *_, file in found))


def check_index(index: ChunkIndex, files: Sequence[ModelFile]) -> ChunkIndex:
    """`index` itself; InputError where it contradicts the layers of `files`."""
    by_path = {f.path: f for f in files}
    sizes = {layer.digest: layer.size for f in files for layer in f.layers}
    for entry in index.files.values():
        file = by_path.get(entry.path)
        if file is None or tuple(layer.digest for layer in file.layers) != entry.segments:
            raise InputError(f"the index gives {entry.path!r} other layers than the manifest")
        if file.size != entry.size:
            raise InputError(f"the index gives {entry.path!r} {entry.size} bytes, not {file.size}")
    for digest, blob in index.blobs.items():
        if sizes.get(digest) != blob.size:
            raise InputError(f"the index cuts {digest} into {blob.size} bytes, no such layer")
    return index
