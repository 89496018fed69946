"""A model directory as an artifact: which files, of which kind, described how, hashed once."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from ocimodel.errors import InputError, UsageError
from ocimodel.events import HashStarted, Observer, ignore
from ocimodel.ops.indexing import Hashed, Plan, Surveyed, build_index, hash_planned, plan
from ocimodel.ops.yamlfile import load_yaml
from ocimodel.spec import modelpack
from ocimodel.spec.chunkindex import MAX_CHUNK_BYTES, MAX_INDEX_BYTES, ChunkIndex
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.digest import sha256
from ocimodel.spec.globs import compile_globs
from ocimodel.spec.manifest import Manifest, parse_manifest
from ocimodel.spec.modelfile import FILENAME, LAYERINGS, Modelfile, parse_modelfile
from ocimodel.spec.modelpack import new_index_layer
from ocimodel.spec.moment import format_time
from ocimodel.spec.profile import Range
from ocimodel.spec.segments import is_segment_path, segment_path
from ocimodel.spec.tensor import TensorMap
from ocimodel.store.archive import empty_directories
from ocimodel.store.directory import DirectoryView, FileSlice
from ocimodel.store.memo import Memo
from ocimodel.store.tree import Tree, TreeFile, scan
from ocimodel.store.workers import Workers
from ocimodel.weights import (
    Described,
    Kind,
    ReadAt,
    WeightFacts,
    classify,
    describe,
    facts_of,
    read_facts,
    read_tensor_map,
)
from ocimodel.weights.cuts import MAX_LAYER_BYTES

MAX_HF_CONFIG_BYTES = 16 << 20
_HEAD_BYTES = 4096
_HASH_THREADS = 4


Found = Callable[[Descriptor, FileSlice], None]


@dataclass(slots=True)
class Packed:
    """An artifact made of a directory. `left_out`: paths that do not belong to it."""

    view: DirectoryView
    index: ChunkIndex
    n_files: int
    modelfile: Modelfile
    described: Described
    left_out: list[str] = field(default_factory=list)

    @property
    def root(self) -> Manifest:
        return self.view.root


def pack_view(
    directory: Path,
    *,
    memo: Memo,
    environ: Mapping[str, str],
    compatible: bool = False,
    layering: str = "file",
    max_layer_bytes: int = MAX_LAYER_BYTES,
    profiles: Mapping[str, Sequence[Range]] = {},
    rehash: bool = False,
    observer: Observer = ignore,
    found: Found = lambda layer, place: None,
) -> Packed:
    """Read `directory` and its ocimodel.yaml into a manifest; no bytes are copied anywhere.

    Equal bytes and equal declarations give an equal digest: neither times, owners, umask, order
    nor place come in. `layering`: "file", one layer a file, or "tensor", weights cut at their
    tensors; a file over `max_layer_bytes` is cut in any case. `profiles`: in what order somebody
    has read it, to be kept in the index. `found` is told of each layer as soon
    as its digest is known, from several threads; what it raises ends the packing. Raises InputError
    for what cannot be packed, NotFoundError for a missing directory.
    """
    modelfile = load_modelfile(directory)
    tree = scan(directory, wanted_by(modelfile))
    if not tree.files:
        raise InputError(
            f"{directory} has no files to pack", hint=f"check include and exclude in {FILENAME}"
        )
    for file in tree.files:
        if is_segment_path(file.path):
            raise InputError(
                f"{file.path!r} has the name of a segment, and would be joined with others",
                hint=f"rename it, or exclude it in {FILENAME}",
            )
    reading = _Reading(tree, modelfile, memo, observer, found, rehash=rehash)
    files = reading.run(layering, max_layer_bytes)
    described = describe([f.facts for f in files if f.facts], _hf_config(tree))
    layers = [layer for f in files for layer in f.layers()]
    documents: dict[str, bytes] = {}
    if tree.empty_directories:
        tar = empty_directories(tree.empty_directories)
        documents[sha256(tar)] = tar
        layers.append(modelpack.directories_layer(tree.empty_directories, sha256(tar), len(tar)))
    index = build_index({f.file.path: f.hashed for f in files})
    if profiles:
        index = replace(
            index, profiles=_fitting(profiles, {f.file.path: f.file.size for f in files})
        )
    if index.files or index.blobs or index.profiles:
        raw_index = index.encode()
        if len(raw_index) > MAX_INDEX_BYTES:
            raise InputError(
                f"the chunk index would have {len(raw_index)} bytes, over the limit of "
                f"{MAX_INDEX_BYTES}",
                hint="pack the model in two artifacts",
            )
        documents[sha256(raw_index)] = raw_index
        layers.append(new_index_layer(sha256(raw_index), len(raw_index)))
    config = _config(modelfile, described, tuple(layer.digest for layer in layers), environ)
    documents[sha256(config)] = config
    media_type = modelpack.IMAGE_CONFIG_TYPE if compatible else modelpack.CONFIG_TYPE
    raw = modelpack.build_manifest(
        Descriptor(media_type, sha256(config), len(config)),
        tuple(layers),
        _annotations(modelfile),
        compatible=compatible,
    )
    manifest = parse_manifest(raw)
    assert isinstance(manifest, Manifest)
    places = {digest: place for f in files for digest, place in f.places()}
    memo.save()
    view = DirectoryView(directory, manifest, places, documents)
    return Packed(view, index, len(files), modelfile, described, tree.left_out)


def _fitting(
    profiles: Mapping[str, Sequence[Range]], sizes: Mapping[str, int]
) -> dict[str, tuple[Range, ...]]:
    """What of the profiles this model has: they may come from another version of it."""
    found = {}
    for name, ranges in profiles.items():
        found[name] = tuple(
            (path, start, min(length, sizes[path] - start))
            for path, start, length in ranges
            if start < sizes.get(path, 0)
        )
        if not found[name]:
            raise InputError(
                f"the access profile {name!r} is about none of the model's files",
                hint="record it with this model: ocimodel trace",
            )
    return found


def check_layering(layering: str, max_layer_bytes: int) -> None:
    """UsageError for what no artifact can be cut by."""
    if layering not in LAYERINGS:
        raise UsageError(f"layering is {layering[:40]!r}, not one of {', '.join(LAYERINGS)}")
    if max_layer_bytes < MAX_CHUNK_BYTES:
        raise UsageError(
            f"layers of at most {max_layer_bytes} bytes are too small",
            hint=f"a layer holds at least one chunk of {MAX_CHUNK_BYTES} bytes",
        )


def describe_directory(directory: Path) -> Described:
    """What the weights and config.json of a directory tell, without hashing anything."""
    tree = scan(directory, lambda _: True)
    facts = []
    for file in tree.files:
        with file.real.open("rb") as opened:
            head = opened.read(_HEAD_BYTES)
            if classify(file.path, file.size, head) is Kind.WEIGHT:
                facts.append(_facts(opened.fileno(), file))
    return describe([f for f in facts if f], _hf_config(tree))


def load_modelfile(directory: Path) -> Modelfile:
    """The directory's ocimodel.yaml, or one that declares nothing."""
    path = directory / FILENAME
    if not path.is_file():
        return Modelfile()
    return parse_modelfile(load_yaml(path), str(path))


def wanted_by(modelfile: Modelfile) -> Callable[[str], bool]:
    included = compile_globs(modelfile.include) if modelfile.include else None
    excluded = compile_globs(modelfile.exclude)
    return lambda path: (included is None or included(path)) and not excluded(path)


@dataclass(slots=True)
class _ReadFile:
    file: TreeFile
    kind: Kind = Kind.DOC
    facts: WeightFacts | None = None
    map: TensorMap | None = None
    hashed: Hashed = field(init=False)

    def layers(self) -> list[Descriptor]:
        mode = modelpack.EXECUTABLE if self.file.executable else modelpack.REGULAR
        digests = self.hashed.segments
        cuts = self.hashed.plan.cuts.segments
        names = [self.file.path]
        if len(cuts) > 1:
            names = [segment_path(self.file.path, i + 1, len(cuts)) for i in range(len(cuts))]
        return [
            modelpack.file_layer(name, self.kind.value, digest, length, mode)
            for name, digest, (_, length) in zip(names, digests, cuts, strict=True)
        ]

    def places(self) -> list[tuple[str, FileSlice]]:
        return [
            (digest, FileSlice(self.file.real, start, self.file.size))
            for digest, (start, _) in zip(
                self.hashed.segments, self.hashed.plan.cuts.segments, strict=True
            )
        ]


class _Reading:
    """Classifies and describes all files, then cuts and hashes them, a few at a time."""

    def __init__(
        self,
        tree: Tree,
        modelfile: Modelfile,
        memo: Memo,
        observer: Observer,
        found: Found,
        *,
        rehash: bool,
    ) -> None:
        self._found = found
        self._files = [_ReadFile(f) for f in tree.files]
        self._overrides = [(compile_globs([p]), Kind(k)) for p, k in modelfile.kinds]
        self._memo = memo
        self._observer = observer
        self._rehash = rehash

    def run(self, layering: str, max_layer_bytes: int) -> list[_ReadFile]:
        self._observer(HashStarted(sum(f.file.size for f in self._files)))
        # the biggest first, or its thread would still be at it when the others are done
        by_size = sorted(self._files, key=lambda f: -f.file.size)
        n_threads = min(_HASH_THREADS, os.cpu_count() or 1)
        Workers((partial(self._survey, f) for f in by_size), n_threads).run()
        surveyed = [Surveyed(f.file, f.kind is Kind.WEIGHT, f.map) for f in self._files]
        plans = plan(surveyed, layering, max_layer_bytes)
        Workers((partial(self._hash, f, plans[f.file.path]) for f in by_size), n_threads).run()
        return self._files

    def _survey(self, read: _ReadFile) -> None:
        with _opened(read.file.real) as fd:
            head = os.pread(fd, _HEAD_BYTES, 0)
            read.kind = self._kind(read.file, head)
            if read.kind is Kind.WEIGHT:
                read.map = read_tensor_map(_reader(fd), read.file.size, read.file.path)
                read.facts = facts_of(read.map) if read.map else _facts(fd, read.file)

    def _hash(self, read: _ReadFile, wanted: Plan) -> None:
        with _opened(read.file.real) as fd:
            read.hashed = hash_planned(fd, wanted, self._memo, self._observer, rehash=self._rehash)
        for layer, (_, place) in zip(read.layers(), read.places(), strict=True):
            self._found(layer, place)

    def _kind(self, file: TreeFile, head: bytes) -> Kind:
        for matches, kind in self._overrides:
            if matches(file.path):
                return kind
        return classify(file.path, file.size, head)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    try:
        yield fd
    finally:
        os.close(fd)


def _reader(fd: int) -> ReadAt:
    return lambda offset, length: os.pread(fd, length, offset)


def _facts(fd: int, file: TreeFile) -> WeightFacts | None:
    return read_facts(_reader(fd), file.size, file.path)


def _hf_config(tree: Tree) -> Mapping[str, Any] | None:
    """The top-level config.json, if it is one that a person would call so."""
    for file in tree.files:
        if file.path == "config.json" and file.size <= MAX_HF_CONFIG_BYTES:
            try:
                document = json.loads(file.real.read_bytes())
            except (ValueError, RecursionError):
                return None
            return document if isinstance(document, dict) else None
    return None


def _config(
    modelfile: Modelfile,
    described: Described,
    diff_ids: tuple[str, ...],
    environ: Mapping[str, str],
) -> bytes:
    capabilities = modelfile.capabilities
    return modelpack.ModelConfig(
        descriptor={
            "createdAt": modelfile.created_at or _source_date(environ),
            "authors": list(modelfile.authors),
            "family": modelfile.family or described.family,
            "name": modelfile.name,
            "docURL": modelfile.doc_url,
            "sourceURL": modelfile.source_url,
            "datasetsURL": list(modelfile.datasets_url),
            "version": modelfile.version,
            "revision": modelfile.revision,
            "vendor": modelfile.vendor,
            "licenses": list(modelfile.licenses),
            "title": modelfile.title,
            "description": modelfile.description,
        },
        config={
            "architecture": modelfile.architecture or described.architecture,
            "format": modelfile.format or described.format,
            "paramSize": modelfile.param_size or described.param_size,
            "precision": modelfile.precision or described.precision,
            "quantization": modelfile.quantization or described.quantization,
            "capabilities": modelpack.without_empty(
                {
                    "inputTypes": list(capabilities.input_types or described.input_types),
                    "outputTypes": list(capabilities.output_types or described.output_types),
                    "knowledgeCutoff": capabilities.knowledge_cutoff,
                    "reasoning": capabilities.reasoning,
                    "toolUsage": capabilities.tool_usage,
                    "reward": capabilities.reward,
                    "languages": list(capabilities.languages),
                }
            ),
        },
        diff_ids=diff_ids,
    ).encode()


def _annotations(modelfile: Modelfile) -> dict[str, str]:
    """What registries' pages show, where it was declared. Source: OCI image-spec, annotations."""
    prefix = "org.opencontainers.image."
    declared = {
        f"{prefix}title": modelfile.title or modelfile.name,
        f"{prefix}version": modelfile.version,
        f"{prefix}description": modelfile.description,
        f"{prefix}authors": ", ".join(modelfile.authors),
        f"{prefix}vendor": modelfile.vendor,
        f"{prefix}licenses": " AND ".join(modelfile.licenses),
        f"{prefix}source": modelfile.source_url,
        f"{prefix}revision": modelfile.revision,
        f"{prefix}url": modelfile.doc_url,
    }
    return {**{k: v for k, v in declared.items() if v}, **modelfile.labels}


def _source_date(environ: Mapping[str, str]) -> str:
    """Source: reproducible-builds.org, SOURCE_DATE_EPOCH; without it there is no time at all."""
    text = environ.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return ""
    if not text.isdecimal() or int(text) > 253402300799:
        raise InputError(f"SOURCE_DATE_EPOCH is {text[:40]!r}, not a number of seconds")
    return format_time(datetime.fromtimestamp(int(text), UTC))
