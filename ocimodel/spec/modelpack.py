"""The CNCF ModelPack artifact: media types, annotations and the model configuration.

Source: github.com/modelpack/model-spec, docs/spec.md and docs/config.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ocimodel.errors import InputError
from ocimodel.spec import canonical
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.digest import sha256
from ocimodel.spec.manifest import MANIFEST, Manifest
from ocimodel.spec.paths import PRIVATE_PREFIX

ARTIFACT_TYPE = "application/vnd.cncf.model.manifest.v1+json"
CONFIG_TYPE = "application/vnd.cncf.model.config.v1+json"
IMAGE_CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"

FILEPATH = "org.cncf.model.filepath"
FILE_METADATA = "org.cncf.model.file.metadata+json"
TITLE = "org.opencontainers.image.title"
# oras marks the directories that it has packed
ORAS_UNPACK = "io.deis.oras.content.unpack"
# carries the artifact type where a registry refuses types that it does not know
COMPAT_TYPE = "dev.ocimodel.artifact-type"
# a JSON array of the directories in a tar layer that holds nothing else
DIRECTORIES = "dev.ocimodel.directories"

_FILEPATHS = (FILEPATH, "org.cnai.model.filepath", TITLE)
_METADATA = (FILE_METADATA, "org.cnai.model.file.metadata+json")

EXECUTABLE, REGULAR = 0o755, 0o644
_TARS = {
    ".tar": "tar",
    ".tar+gzip": "tar+gzip",
    ".tar.gzip": "tar+gzip",
    ".tar+zstd": "tar+zstd",
    ".tar.zstd": "tar+zstd",
}
# ModelPack writers give typeflags as numbers or as tar's characters
_DIRECTORY_FLAGS = (5, ord("5"))
_SYMLINK_FLAGS = (2, ord("2"))
EPOCH = "1970-01-01T00:00:00Z"

MAX_CONFIG_BYTES = 4 << 20
# the chunk index (ocimodel.spec.chunkindex), a document of ours
INDEX_PATH = PRIVATE_PREFIX + "index.json"


def layer_type(kind: str, codec: str = "raw") -> str:
    """`kind`: weight, weight.config, doc, code, dataset. `codec`: raw, tar, tar+gzip, tar+zstd."""
    return f"application/vnd.cncf.model.{kind}.v1.{codec}"


@dataclass(frozen=True, slots=True)
class ModelFile:
    """What layers say of the file, or of the tar of files, in them.

    `path`: below the model directory, unchecked. `layers`: one, or the segments in their order.
    `codec`: raw, tar, tar+gzip or tar+zstd. `directories`: what a tar of empty directories holds.
    """

    path: str
    layers: tuple[Descriptor, ...]
    kind: str
    codec: str
    mode: int = REGULAR
    is_directory: bool = False
    directories: tuple[str, ...] = ()

    @property
    def layer(self) -> Descriptor:
        """The first layer, which is the only one of a file that is not segmented."""
        return self.layers[0]

    @property
    def size(self) -> int:
        return sum(layer.size for layer in self.layers)

    @property
    def key(self) -> str:
        return content_key(self.layers)


def content_key(layers: Sequence[Descriptor]) -> str:
    """The same for equal bytes in equal segments: the digest of the only layer, or of all."""
    if len(layers) == 1:
        return layers[0].digest
    return "segments:" + sha256("".join(layer.digest for layer in layers).encode())[7:]


def file_layer(path: str, kind: str, digest: str, size: int, mode: int) -> Descriptor:
    """The layer of one file as it is. `mode`: REGULAR or EXECUTABLE.

    Owner and time are constants, or the same directory would not pack to the same digest.
    """
    metadata = {
        "name": path.rpartition("/")[2],
        "mode": mode,
        "uid": 0,
        "gid": 0,
        "size": size,
        "mtime": EPOCH,
        "typeflag": 0,
    }
    annotations = {
        FILEPATH: path,
        FILE_METADATA: canonical.encode(metadata).decode(),
        TITLE: path,
    }
    return Descriptor(layer_type(kind), digest, size, annotations)


def index_layer(manifest: Manifest) -> Descriptor | None:
    """The layer that holds the index, if the artifact has one."""
    for layer in manifest.layers:
        if INDEX_PATH in layer.annotations.values():
            return layer
    return None


def new_index_layer(digest: str, size: int) -> Descriptor:
    return file_layer(INDEX_PATH, "doc", digest, size, REGULAR)


def directories_layer(paths: Sequence[str], digest: str, size: int) -> Descriptor:
    """The layer of a tar with nothing but the empty directories of a model.

    The names are repeated in an annotation, so that ocimodel never needs to fetch the tar.
    """
    annotations = {FILEPATH: ".", DIRECTORIES: canonical.encode(list(paths)).decode()}
    return Descriptor(layer_type("doc", "tar"), digest, size, annotations)


def file_layers(manifest: Manifest) -> list[Descriptor]:
    """The layers that hold files, which is all but the one of empty directories."""
    return [layer for layer in manifest.layers if DIRECTORIES not in layer.annotations]


def read_layer(layer: Descriptor) -> ModelFile:
    """Any layer as a file: ours, other ModelPack tools', and plain `oras push` artifacts.

    A layer of unknown type with a title is a raw file, as oras has it. InputError where no name
    can be had, or for metadata that is no JSON.
    """
    path = next((v for k in _FILEPATHS if (v := layer.annotations.get(k))), "")
    kind, codec = _kind_and_codec(layer, named=bool(path))
    if not path:
        if codec == "raw":
            raise InputError(
                f"layer {layer.digest} ({layer.media_type}) has no file name",
                hint="it carries neither a ModelPack filepath nor a title annotation",
            )
        path = "."
    metadata = _metadata(layer)
    flag = metadata.get("typeflag")
    if flag in _SYMLINK_FLAGS:
        raise InputError(f"layer {path!r} is a symbolic link, which ocimodel does not create")
    mode = metadata.get("mode")
    executable = isinstance(mode, int) and bool(mode & 0o111)
    return ModelFile(
        path=path,
        layers=(layer,),
        kind=kind,
        codec=codec,
        mode=EXECUTABLE if executable else REGULAR,
        is_directory=codec == "raw" and flag in _DIRECTORY_FLAGS,
        directories=_directories(layer) if codec != "raw" else (),
    )


def check_codec(codec: str) -> None:
    """InputError for a layer that cannot be unpacked here, before it is fetched."""
    if codec == "tar+zstd":
        raise InputError(
            f"layers of type {codec} cannot be read here",
            hint="pull it with a tool that reads zstd, and pack the directory again",
        )


def _directories(layer: Descriptor) -> tuple[str, ...]:
    raw = layer.annotations.get(DIRECTORIES, "")
    document = (
        {"names": []}
        if not raw
        else canonical.decode(b'{"names":' + raw.encode() + b"}", DIRECTORIES)
    )
    names = canonical.sequence(document, "names", DIRECTORIES)
    if not all(isinstance(name, str) for name in names):
        raise InputError(f"{DIRECTORIES} must be an array of strings")
    return tuple(names)


def _kind_and_codec(layer: Descriptor, *, named: bool) -> tuple[str, str]:
    media_type = layer.media_type
    for prefix in ("application/vnd.cncf.model.", "application/vnd.cnai.model."):
        if media_type.startswith(prefix):
            kind, mark, codec = media_type.removeprefix(prefix).partition(".v1.")
            if not mark or codec not in ("raw", "tar", "tar+gzip", "tar+zstd"):
                raise InputError(
                    f"unknown ModelPack layer type {media_type!r}",
                    hint="it was written by a newer tool: upgrade ocimodel",
                )
            return kind, codec
    if layer.annotations.get(ORAS_UNPACK) == "true":
        return "", "tar+gzip"
    # oras calls each plain file an image layer, so that a named one is a file as it is
    if named and not media_type.startswith("application/vnd.kitops."):
        return "", "raw"
    return "", next((codec for end, codec in _TARS.items() if media_type.endswith(end)), "raw")


def _metadata(layer: Descriptor) -> Mapping[str, Any]:
    raw = next((v for k in _METADATA if (v := layer.annotations.get(k))), "")
    return canonical.decode(raw.encode(), "file metadata") if raw else {}


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The configuration document, by its three objects, each a JSON object without empty values."""

    descriptor: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    diff_ids: tuple[str, ...] = ()

    def encode(self) -> bytes:
        return canonical.encode(
            {
                "descriptor": without_empty(self.descriptor),
                "config": without_empty(self.config),
                "modelfs": {"type": "layers", "diffIds": list(self.diff_ids)},
            }
        )

    @classmethod
    def parse(cls, raw: bytes) -> ModelConfig:
        """InputError for what is no JSON object; unknown members are kept, absent ones empty."""
        document = canonical.decode(raw, "model configuration")
        modelfs = canonical.mapping(document, "modelfs", "model configuration")
        diff_ids = canonical.sequence(modelfs, "diffIds", "modelfs") or canonical.sequence(
            modelfs, "diff_ids", "modelfs"
        )
        return cls(
            descriptor=canonical.mapping(document, "descriptor", "model configuration"),
            config=canonical.mapping(document, "config", "model configuration"),
            diff_ids=tuple(str(d) for d in diff_ids),
        )


def without_empty(document: Mapping[str, Any]) -> dict[str, Any]:
    """Absent is how ModelPack says nothing; `false` says something."""
    return {k: v for k, v in document.items() if v not in (None, "", [], {}, ())}


def build_manifest(
    config: Descriptor,
    layers: tuple[Descriptor, ...],
    annotations: Mapping[str, str],
    *,
    compatible: bool = False,
) -> bytes:
    """The manifest's bytes. `compatible`: for registries that refuse types they do not know.

    Then there is no artifactType, the caller's `config` has the image configuration's media type,
    and an annotation carries the artifact type.
    """
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config.to_json(),
        "layers": [layer.to_json() for layer in layers],
    }
    marks = dict(annotations)
    if compatible:
        marks[COMPAT_TYPE] = ARTIFACT_TYPE
    else:
        document["artifactType"] = ARTIFACT_TYPE
    if marks:
        document["annotations"] = marks
    return canonical.encode(document)


def is_model(manifest: Manifest) -> bool:
    """Whether the manifest calls itself a ModelPack artifact, in any of the known ways."""
    known = {
        manifest.artifact_type,
        manifest.config.media_type,
        manifest.annotations.get(COMPAT_TYPE, ""),
    }
    return any(
        t.startswith(("application/vnd.cncf.model.", "application/vnd.cnai.")) for t in known
    )
