"""diff: how two artifacts, or model directories, differ. No weights are fetched."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ocimodel.events import Observer, ignore
from ocimodel.ops.access import (
    IndexOf,
    as_model,
    client_options,
    find,
    open_memo,
    open_store,
    parse_local,
)
from ocimodel.ops.packing import pack_view
from ocimodel.registry.transport import ClientOptions
from ocimodel.spec.compare import Difference, Side, compare
from ocimodel.spec.manifest import Manifest
from ocimodel.spec.modelpack import MAX_CONFIG_BYTES, ModelConfig, ModelFile, is_model
from ocimodel.spec.reference import parse_reference
from ocimodel.spec.segments import model_files
from ocimodel.store.protocol import Source
from ocimodel.store.streams import read_blob

# the model's own configuration, as Hugging Face and others have it; a larger one is data
CONFIG_FILE = "config.json"
MAX_CONFIG_FILE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Compared:
    """One of the two. `pinned`: by digest; empty for a directory, whose `digest` is what it would
    be pushed as. `indexed`: whether it tells what lies where inside its blobs."""

    reference: str
    pinned: str
    digest: str
    indexed: bool
    side: Side = field(repr=False)


@dataclass(frozen=True, slots=True)
class DiffResult:
    a: Compared
    b: Compared
    difference: Difference


def diff(
    a: Path | str,
    b: Path | str,
    *,
    client: ClientOptions | None = None,
    observer: Observer = ignore,
) -> DiffResult:
    """Compare two artifacts from their manifests, indexes and configurations alone.

    Either may be a model directory, which is read as for a push. Raises InputError for what is no
    single model, and for an index that contradicts itself or its manifest.
    """
    options = client_options(client)
    first, second = (_compared(text, options, observer) for text in (a, b))
    return DiffResult(first, second, compare(first.side, second.side))


def _compared(what: Path | str, options: ClientOptions, observer: Observer) -> Compared:
    directory = what if isinstance(what, Path) else parse_local(what)
    if directory is not None:
        packed = pack_view(
            directory, memo=open_memo(options), environ=options.environ, observer=observer
        )
        side = _side(packed.view, packed.root)
        return Compared(str(what), "", packed.root.digest, side.index is not None, side)
    name = parse_reference(str(what))
    store = open_store(name, options, observer=observer)
    root = as_model(find(store, name), name)
    side = _side(store, root)
    pinned = str(name.at(root.digest))
    return Compared(str(name), pinned, root.digest, side.index is not None, side)


def _side(source: Source, root: Manifest) -> Side:
    files = model_files(root)
    configuration: dict[str, Mapping[str, Any]] = {}
    if is_model(root):
        raw = read_blob(source.open(root.config), root.config, MAX_CONFIG_BYTES)
        config = ModelConfig.parse(raw)
        configuration["modelpack"] = {"descriptor": config.descriptor, "config": config.config}
    configuration[CONFIG_FILE] = _config_file(source, files)
    return Side(files, IndexOf(source, root)(), configuration, {"annotations": root.annotations})


def _config_file(source: Source, files: Sequence[ModelFile]) -> Mapping[str, Any]:
    """What the model's config.json says; nothing where it is none that a person would call so."""
    for file in files:
        if file.path == CONFIG_FILE and file.codec == "raw" and len(file.layers) == 1:
            if file.size > MAX_CONFIG_FILE_BYTES:
                return {}
            raw = read_blob(source.open(file.layer), file.layer, MAX_CONFIG_FILE_BYTES)
            try:
                document = json.loads(raw)
            except (ValueError, RecursionError):
                return {}
            return document if isinstance(document, dict) else {}
    return {}
