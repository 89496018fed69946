"""What differs between two artifacts, decided from their manifests and indexes alone."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

from ocimodel.spec.chunkindex import ChunkIndex
from ocimodel.spec.contents import Contents, Share, same_bytes, share
from ocimodel.spec.leaves import KeyPath, leaves
from ocimodel.spec.modelpack import ModelFile
from ocimodel.spec.tensor import Tensor


class Status(StrEnum):
    """UNKNOWN: nothing tells that they differ, and the digests at hand cannot tell either."""

    CHANGED = "changed"
    ADDED = "added"
    REMOVED = "removed"
    UNKNOWN = "unknown"
    SAME = "same"


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two. `files`: with segments joined. `index`: None where the artifact has none.

    `configuration`, `metadata`: JSON objects under the names of the documents they come from; what
    the weights files say of themselves comes from the index.
    """

    files: Sequence[ModelFile]
    index: ChunkIndex | None = None
    configuration: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    metadata: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FileDifference:
    """`path`: a directory's ends in a slash. `a`, `b`: what holds it there, None where nothing."""

    path: str
    status: Status
    a: ModelFile | None
    b: ModelFile | None


@dataclass(frozen=True, slots=True)
class NamedTensor:
    """`path`: the file that names it. `fingerprint`: the same for equal bytes; b"" if unknown."""

    path: str
    format: str
    tensor: Tensor
    fingerprint: bytes = b""


@dataclass(frozen=True, slots=True)
class TensorDifference:
    name: str
    status: Status
    a: NamedTensor | None
    b: NamedTensor | None


@dataclass(frozen=True, slots=True)
class ValueDifference:
    """`key`: the path of keys, with dots between. `a`, `b`: JSON, None too where it is absent."""

    document: str
    key: str
    status: Status
    a: Any
    b: Any


@dataclass(frozen=True, slots=True)
class Difference:
    """From A to B. Files and tensors: all of them, by name; values: only those that differ.

    `has_tensors`: whether each side has an index, or no weights; without, there are no tensors and
    nothing is known of the metadata of weights.
    """

    files: tuple[FileDifference, ...]
    tensors: tuple[TensorDifference, ...]
    configuration: tuple[ValueDifference, ...]
    metadata: tuple[ValueDifference, ...]
    share: Share
    has_tensors: bool

    @property
    def differs(self) -> bool:
        """Whether anything is not certainly the same."""
        statuses = {*(f.status for f in self.files), *(t.status for t in self.tensors)}
        return bool(self.configuration or self.metadata or statuses - {Status.SAME})


def compare(a: Side, b: Side) -> Difference:
    """InputError where a document is nested beyond all reason."""
    in_a, in_b = (Contents(side.files, side.index or ChunkIndex()) for side in (a, b))
    has_tensors = _tells_tensors(a) and _tells_tensors(b)
    said_a, said_b = (_weights_metadata(c.index) if has_tensors else {} for c in (in_a, in_b))
    return Difference(
        files=tuple(_files(a, in_a, b, in_b)),
        tensors=tuple(_tensors(in_a, in_b)) if has_tensors else (),
        configuration=tuple(_values(_flat(a.configuration), _flat(b.configuration))),
        metadata=tuple(_values(_flat(a.metadata) | said_a, _flat(b.metadata) | said_b)),
        share=share(in_a, in_b),
        has_tensors=has_tensors,
    )


def _tells_tensors(side: Side) -> bool:
    return side.index is not None or all(f.kind not in ("", "weight") for f in side.files)


# files


def _files(a: Side, in_a: Contents, b: Side, in_b: Contents) -> Iterator[FileDifference]:
    ours, theirs = _by_path(a.files), _by_path(b.files)
    for path in sorted(ours.keys() | theirs.keys()):
        one, other = ours.get(path), theirs.get(path)
        if not one or not other:
            yield FileDifference(path, Status.REMOVED if one else Status.ADDED, one, other)
            continue
        if path.endswith("/"):
            status = Status.SAME
        elif (one.kind, one.mode) != (other.kind, other.mode):
            status = Status.CHANGED
        else:
            status = _status(same_bytes(one, in_a, other, in_b))
        yield FileDifference(path, status, one, other)


def _by_path(files: Sequence[ModelFile]) -> dict[str, ModelFile]:
    """Files by name, directories and tars too; of tars there may be several of a name."""
    found: dict[str, ModelFile] = {}
    tars: Counter[str] = Counter()
    for file in files:
        folder = file.path.rstrip("/") + "/"
        if file.directories:
            found |= {f"{path}/": file for path in file.directories}
        elif file.is_directory:
            found[folder] = file
        elif file.codec == "raw":
            found[file.path] = file
        else:
            tars[folder] += 1
            found[f"{folder} ({file.codec} {tars[folder]})"] = file
    return found


def _status(same: bool | None) -> Status:
    if same is None:
        return Status.UNKNOWN
    return Status.SAME if same else Status.CHANGED


# tensors


def _tensors(a: Contents, b: Contents) -> Iterator[TensorDifference]:
    ours, theirs = _by_name(a), _by_name(b)
    for name in sorted(ours.keys() | theirs.keys()):
        for one, other in _pairs(ours.get(name, []), theirs.get(name, [])):
            if one and other:
                status = _tensor_status(one, a, other, b)
            else:
                status = Status.REMOVED if one else Status.ADDED
            yield TensorDifference(name, status, one, other)


def _by_name(contents: Contents) -> dict[str, list[NamedTensor]]:
    found: dict[str, list[NamedTensor]] = defaultdict(list)
    for file in contents.index.files.values():
        prints = file.fingerprints or (b"",) * len(file.tensors)
        for tensor, stored in zip(file.tensors, prints, strict=True):
            known = contents.fingerprint(file.path, tensor) or stored
            found[tensor.name].append(NamedTensor(file.path, file.format, tensor, known))
    return found


_Pair = tuple[NamedTensor | None, NamedTensor | None]


def _pairs(a: Sequence[NamedTensor], b: Sequence[NamedTensor]) -> Iterator[_Pair]:
    """Tensors of one name: those in the same file first, then those in the same format."""
    keys: tuple[Callable[[NamedTensor], Hashable], ...] = (
        lambda t: t.path,
        lambda t: t.format,
        lambda t: "",
    )
    if len(a) == len(b) == 1:
        keys = keys[-1:]
    for key in keys:
        waiting: dict[Hashable, list[NamedTensor]] = defaultdict(list)
        for tensor in reversed(b):
            waiting[key(tensor)].append(tensor)
        left = []
        for tensor in a:
            if partners := waiting.get(key(tensor)):
                yield tensor, partners.pop()
            else:
                left.append(tensor)
        a = left
        b = [tensor for partners in waiting.values() for tensor in reversed(partners)]
    yield from ((tensor, None) for tensor in a)
    yield from ((None, tensor) for tensor in b)


def _tensor_status(a: NamedTensor, in_a: Contents, b: NamedTensor, in_b: Contents) -> Status:
    one, other = a.tensor, b.tensor
    if (one.dtype, one.shape, one.length) != (other.dtype, other.shape, other.length):
        return Status.CHANGED
    if not one.length:
        return Status.SAME
    if a.fingerprint and b.fingerprint:
        return _status(a.fingerprint == b.fingerprint)
    place = in_a.place(a.path, one)
    return _status(True if place and place == in_b.place(b.path, other) else None)


# values

_Documents = dict[str, dict[KeyPath, Any]]


def _flat(documents: Mapping[str, Mapping[str, Any]]) -> _Documents:
    return {name: leaves(document, name) for name, document in documents.items()}


def _weights_metadata(index: ChunkIndex) -> _Documents:
    """What the files of each format say, wherever they are cut; where they disagree, a list."""
    found: dict[str, dict[KeyPath, dict[str, Any]]] = defaultdict(lambda: defaultdict(dict))
    for file in index.files.values():
        for key, value in leaves(file.metadata, f"the metadata of {file.path!r}").items():
            found[file.format or file.path][key][_text(value)] = value
    return {
        name: {key: _one_or_all(values) for key, values in document.items()}
        for name, document in found.items()
    }


def _one_or_all(values: Mapping[str, Any]) -> Any:
    ordered = [values[text] for text in sorted(values)]
    return ordered[0] if len(ordered) == 1 else ordered


def _values(a: _Documents, b: _Documents) -> Iterator[ValueDifference]:
    for name in _united(a, b):
        ours, theirs = a.get(name, {}), b.get(name, {})
        for key in _united(ours, theirs):
            one, other = ours.get(key), theirs.get(key)
            shown = ".".join(key)
            if key not in ours:
                yield ValueDifference(name, shown, Status.ADDED, None, other)
            elif key not in theirs:
                yield ValueDifference(name, shown, Status.REMOVED, one, None)
            elif _text(one) != _text(other):
                yield ValueDifference(name, shown, Status.CHANGED, one, other)


_K = TypeVar("_K")


def _united(a: Mapping[_K, Any], b: Mapping[_K, Any]) -> list[_K]:
    """The keys of both, each once, in their order."""
    return list({**dict.fromkeys(a), **dict.fromkeys(b)})


def _text(value: object) -> str:
    """Tells true from 1, which are equal to Python."""
    return json.dumps(value)
