"""A model directory as an artifact: which files, of which kind, described how, hashed once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from ocimodel.errors import InputError, IntegrityError
from ocimodel.events import HashAdvanced, HashStarted, Observer, ignore
from ocimodel.spec import modelpack
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.digest import sha256
from ocimodel.spec.globs import compile_globs
from ocimodel.spec.manifest import Manifest, parse_manifest
from ocimodel.spec.modelfile import FILENAME, Modelfile, parse_modelfile
from ocimodel.store.archive import empty_directories
from ocimodel.store.directory import DirectoryView
from ocimodel.store.memo import Memo, identity
from ocimodel.store.streams import hash_file
from ocimodel.store.tree import Tree, TreeFile, scan
from ocimodel.store.workers import Workers
from ocimodel.weights import Described, Kind, WeightFacts, classify, describe, read_facts

MAX_MODELFILE_BYTES = 1 << 20
MAX_HF_CONFIG_BYTES = 16 << 20
_HEAD_BYTES = 4096
_HASH_THREADS = 4


Found = Callable[[Descriptor, Path], None]


@dataclass(slots=True)
class Packed:
    """An artifact made of a directory. `left_out`: paths that do not belong to it."""

    view: DirectoryView
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
    rehash: bool = False,
    observer: Observer = ignore,
    found: Found = lambda layer, path: None,
) -> Packed:
    """Read `directory` and its ocimodel.yaml into a manifest; no bytes are copied anywhere.

    Equal bytes and equal declarations give an equal digest: neither times, owners, umask, order
    nor place come in. `found` is told of each file as soon as its digest is known, from several
    threads; what it raises ends the packing. Raises InputError for what cannot be packed,
    NotFoundError for a missing directory.
    """
    modelfile = load_modelfile(directory)
    tree = scan(directory, _wanted(modelfile))
    if not tree.files:
        raise InputError(
            f"{directory} has no files to pack", hint=f"check include and exclude in {FILENAME}"
        )
    files = _Reading(tree, modelfile, memo, observer, found, rehash=rehash).run()
    described = describe([f.facts for f in files if f.facts], _hf_config(tree))
    layers = [f.layer() for f in files]
    documents: dict[str, bytes] = {}
    if tree.empty_directories:
        tar = empty_directories(tree.empty_directories)
        documents[sha256(tar)] = tar
        layers.append(modelpack.directories_layer(tree.empty_directories, sha256(tar), len(tar)))
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
    paths = {f.digest: f.file.real for f in files}
    memo.save()
    return Packed(
        DirectoryView(directory, manifest, paths, documents), modelfile, described, tree.left_out
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


def load_yaml(path: Path) -> object:
    """A small YAML document; InputError where it is none."""
    import yaml

    with path.open("rb") as file:
        raw = file.read(MAX_MODELFILE_BYTES + 1)
    if len(raw) > MAX_MODELFILE_BYTES:
        raise InputError(f"{path} is over the limit of {MAX_MODELFILE_BYTES} bytes")
    try:
        return yaml.safe_load(raw)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(
            f"{path}, line {line}: {error.problem or 'not valid YAML'}",
            hint="quote what is no plain word or number, and indent with spaces",
        ) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path} is not valid YAML: {reason}") from error


def _wanted(modelfile: Modelfile) -> Callable[[str], bool]:
    included = compile_globs(modelfile.include) if modelfile.include else None
    excluded = compile_globs(modelfile.exclude)
    return lambda path: (included is None or included(path)) and not excluded(path)


@dataclass(slots=True)
class _ReadFile:
    file: TreeFile
    digest: str = ""
    kind: Kind = Kind.DOC
    facts: WeightFacts | None = None

    def layer(self) -> Descriptor:
        mode = modelpack.EXECUTABLE if self.file.executable else modelpack.REGULAR
        return modelpack.file_layer(
            self.file.path, self.kind.value, self.digest, self.file.size, mode
        )


class _Reading:
    """Hashes, classifies and describes the files, a few at a time."""

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

    def run(self) -> list[_ReadFile]:
        self._observer(HashStarted(sum(f.file.size for f in self._files)))
        # the biggest first, or its thread would still be at it when the others are done
        by_size = sorted(self._files, key=lambda f: -f.file.size)
        n_threads = min(_HASH_THREADS, os.cpu_count() or 1)
        Workers((partial(self._read, f) for f in by_size), n_threads).run()
        return self._files

    def _read(self, read: _ReadFile) -> None:
        path = read.file.real
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from error
        try:
            head = os.pread(fd, _HEAD_BYTES, 0)
            read.kind = self._kind(read.file, head)
            if read.kind is Kind.WEIGHT:
                read.facts = _facts(fd, read.file)
            read.digest = self._digest(fd, read.file)
            self._found(read.layer(), path)
        finally:
            os.close(fd)

    def _kind(self, file: TreeFile, head: bytes) -> Kind:
        for matches, kind in self._overrides:
            if matches(file.path):
                return kind
        return classify(file.path, file.size, head)

    def _digest(self, fd: int, file: TreeFile) -> str:
        before = os.fstat(fd)
        if not self._rehash and (known := self._memo.recall(before)):
            self._observer(HashAdvanced(file.size))
            return known
        try:
            digest = hash_file(fd, file.size, lambda n: self._observer(HashAdvanced(n)))
        except IntegrityError as error:
            raise InputError(f"{file.path}: {error}", hint=error.hint) from error
        if identity(os.fstat(fd)) != identity(before):
            raise InputError(
                f"{file.path} changed while it was read",
                hint="wait for its writer to finish, then try again",
            )
        self._memo.note(before, digest)
        return digest


def _facts(fd: int, file: TreeFile) -> WeightFacts | None:
    return read_facts(lambda offset, length: os.pread(fd, length, offset), file.size, file.path)


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
    return datetime.fromtimestamp(int(text), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
