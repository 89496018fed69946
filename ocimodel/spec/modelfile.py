"""`ocimodel.yaml`: what the author declares about a model. Everything in it is optional.

The document arrives as what a YAML or JSON parser made of it; this module knows no YAML. What the
author leaves out is read from the weights and config.json; what stands here wins.

Schema: schemas/modelfile.schema.json. The parser is stricter in what a schema cannot say: dates
must exist and patterns must compile.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ocimodel.errors import InputError
from ocimodel.spec import modelfile_values as values
from ocimodel.spec.modelfile_values import Where

FILENAME: Final = "ocimodel.yaml"
MODALITIES: Final = ("text", "image", "audio", "video", "embedding", "other")
MAX_TIMEOUT_S: Final = 86_400
LAYERINGS: Final = ("file", "tensor")
KINDS: Final = ("weight", "weight.config", "doc", "code", "dataset")


@dataclass(frozen=True, slots=True)
class Capabilities:
    """ModelPack's `capabilities`; None and () mean: not declared."""

    input_types: tuple[str, ...] = ()
    output_types: tuple[str, ...] = ()
    knowledge_cutoff: str = ""
    reasoning: bool | None = None
    tool_usage: bool | None = None
    reward: bool | None = None
    languages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Modelfile:
    """One parsed document; "" and () and {} mean: not declared.

    `created_at`, `capabilities.knowledge_cutoff`: RFC 3339. `include`, `exclude`: patterns as
    `ocimodel.spec.globs` reads them; no `include` takes everything. `kinds`: pattern → ModelPack
    kind, the first match in document order decides. `labels`: free annotations. `lineage`: the
    mapping as it stands, checked for size only. `settings`: of the command line when it runs in
    this directory, no part of the model. `raw`: the whole document.
    """

    name: str = ""
    version: str = ""
    family: str = ""
    title: str = ""
    description: str = ""
    authors: tuple[str, ...] = ()
    vendor: str = ""
    licenses: tuple[str, ...] = ()
    architecture: str = ""
    format: str = ""
    precision: str = ""
    quantization: str = ""
    param_size: str = ""
    doc_url: str = ""
    source_url: str = ""
    datasets_url: tuple[str, ...] = ()
    revision: str = ""
    created_at: str = ""
    capabilities: Capabilities = field(default_factory=Capabilities)
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    kinds: tuple[tuple[str, str], ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    lineage: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, float | str] = field(default_factory=dict)
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)


# Key → (attribute, reader of its value). The order is the one that `init` writes them in.
Fields = Mapping[str, tuple[str, Callable[[object, Where], Any]]]
_FIELDS: Final[Fields] = {
    "name": ("name", values.line),
    "version": ("version", values.line),
    "family": ("family", values.line),
    "title": ("title", values.line),
    "description": ("description", values.prose),
    "authors": ("authors", values.list_of(values.line)),
    "vendor": ("vendor", values.line),
    "licenses": ("licenses", values.list_of(values.line)),
    "architecture": ("architecture", values.line),
    "format": ("format", values.line),
    "precision": ("precision", values.line),
    "quantization": ("quantization", values.line),
    "paramSize": ("param_size", values.param_size),
    "docURL": ("doc_url", values.url),
    "sourceURL": ("source_url", values.url),
    "datasetsURL": ("datasets_url", values.list_of(values.url)),
    "revision": ("revision", values.line),
    "createdAt": ("created_at", values.date_time),
    "capabilities": ("capabilities", lambda value, where: _capabilities(value, where)),
    "include": ("include", values.list_of(values.pattern)),
    "exclude": ("exclude", values.list_of(values.pattern)),
    "kinds": ("kinds", lambda value, where: _kinds(value, where)),
    "labels": ("labels", values.labels),
    "lineage": ("lineage", values.opaque),
    "settings": ("settings", lambda value, where: parse_settings(value, where)),
}
# A directory may come from anywhere, so it can set how fast, never whom to trust.
SETTINGS: Final[Fields] = {
    "concurrency": ("concurrency", values.number(1, 64, whole=True)),
    "retries": ("retries", values.number(0, 20, whole=True)),
    "timeout": ("timeout", values.number(1, MAX_TIMEOUT_S)),
    "layering": ("layering", values.one_of(LAYERINGS)),
    "maxLayerSize": ("max_layer_size", values.line),
}
_CAPABILITIES: Final[Fields] = {
    "inputTypes": ("input_types", values.list_of(values.one_of(MODALITIES))),
    "outputTypes": ("output_types", values.list_of(values.one_of(MODALITIES))),
    "knowledgeCutoff": ("knowledge_cutoff", values.date_time),
    "reasoning": ("reasoning", values.truth),
    "toolUsage": ("tool_usage", values.truth),
    "reward": ("reward", values.truth),
    "languages": ("languages", values.list_of(values.language)),
}


def parse_modelfile(document: object, source: str) -> Modelfile:
    """The document as a value; `source` names its file in messages. An empty file is allowed.

    A key without a value (`name:`) counts as absent. Raises InputError naming file, key and what
    was expected: an unknown key (with the closest known one), a wrong type, an over-long value.
    """
    where = Where(source)
    if document is None:
        return Modelfile()
    mapping = values.mapping(document, where)
    return Modelfile(**read_fields(mapping, _FIELDS, where), raw=mapping)


def parse_settings(document: object, where: Where, known: Fields = SETTINGS) -> dict[str, Any]:
    """Settings of the command line: attribute to checked value, as `known` has them."""
    return read_fields(values.mapping(document, where), known, where)


def read_fields(mapping: Mapping[str, Any], known: Fields, where: Where) -> dict[str, Any]:
    """Attribute to value, for the keys that have one; InputError for a key that is not `known`."""
    found = {}
    for key, value in mapping.items():
        if key not in known:
            raise _unknown(key, known, where)
        attribute, reader = known[key]
        if value is not None:
            found[attribute] = reader(value, where.key(key))
    return found


def _unknown(key: str, known: Mapping[str, object], where: Where) -> InputError:
    # Compared without case and separators, so that created_at finds createdAt.
    plain = {name.lower(): name for name in known}
    wanted = key[:100].lower().replace("_", "").replace("-", "")
    close = difflib.get_close_matches(wanted, plain, n=1)
    hint = f"did you mean {plain[close[0]]}?" if close else f"known keys: {', '.join(known)}"
    return where.key(key).error("unknown key", hint=hint)


def _capabilities(value: object, where: Where) -> Capabilities:
    return Capabilities(**read_fields(values.mapping(value, where), _CAPABILITIES, where))


def _kinds(value: object, where: Where) -> tuple[tuple[str, str], ...]:
    kind = values.one_of(KINDS)
    found = values.mapping(value, where)
    return tuple(
        (values.pattern(key, where.key(key)), kind(item, where.key(key)))
        for key, item in found.items()
    )
