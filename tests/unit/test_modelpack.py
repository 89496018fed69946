"""What we write is ModelPack; what others write is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocimodel.errors import InputError
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.digest import sha256
from ocimodel.spec.manifest import MANIFEST, Manifest, parse_manifest
from ocimodel.spec.modelpack import (
    ARTIFACT_TYPE,
    COMPAT_TYPE,
    CONFIG_TYPE,
    DIRECTORIES,
    EXECUTABLE,
    FILE_METADATA,
    FILEPATH,
    IMAGE_CONFIG_TYPE,
    REGULAR,
    TITLE,
    ModelConfig,
    build_manifest,
    directories_layer,
    file_layer,
    is_model,
    layer_type,
    read_layer,
)

VECTORS = Path(__file__).parents[1] / "vectors"
D = sha256(b"x")

METADATA_SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name", "mode", "uid", "gid", "size", "mtime", "typeflag"],
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "mode": {"type": "integer", "minimum": 0, "maximum": 0o7777},
        "uid": {"const": 0},
        "gid": {"const": 0},
        "size": {"type": "integer", "minimum": 0},
        "mtime": {"type": "string", "format": "date-time"},
        "typeflag": {"const": 0},
    },
}


def check(document: bytes, schema: str | dict[str, Any]) -> None:
    if isinstance(schema, str):
        schema = json.loads((VECTORS / schema).read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(
        schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    ).validate(json.loads(document))


FULL = ModelConfig(
    descriptor={
        "createdAt": "2026-06-01T00:00:00Z",
        "authors": ["A <a@example.org>"],
        "family": "bert",
        "name": "MiniLM",
        "docURL": "",
        "sourceURL": "https://example.org/src",
        "datasetsURL": [],
        "version": "1.0",
        "revision": "abc",
        "vendor": "",
        "licenses": ["Apache-2.0"],
        "title": "MiniLM",
        "description": "ünïcode",
    },
    config={
        "architecture": "transformer",
        "format": "safetensors",
        "paramSize": "22.7M",
        "precision": "float16,float8_e4m3",
        "quantization": None,
        "capabilities": {
            "inputTypes": ["text"],
            "outputTypes": ["embedding"],
            "reasoning": False,
            "languages": ["en"],
        },
    },
    diff_ids=(D,),
)


@pytest.mark.parametrize("config", [FULL, ModelConfig(diff_ids=(D, D))], ids=["full", "bare"])
def test_the_configuration_follows_the_schema(config: ModelConfig) -> None:
    raw = config.encode()
    check(raw, "modelpack-config.schema.json")
    parsed = ModelConfig.parse(raw)
    assert parsed.encode() == raw
    assert parsed.diff_ids == config.diff_ids


def test_the_schema_can_refuse() -> None:
    for wrong in (
        ModelConfig(diff_ids=()),
        ModelConfig(descriptor={"nom": "x"}, diff_ids=(D,)),
        ModelConfig(config={"capabilities": {"inputTypes": ["smell"]}}, diff_ids=(D,)),
    ):
        with pytest.raises(jsonschema.ValidationError):
            check(wrong.encode(), "modelpack-config.schema.json")


def test_nothing_is_said_by_absence_and_false_is_something() -> None:
    document = json.loads(FULL.encode())
    assert "docURL" not in document["descriptor"]
    assert "quantization" not in document["config"]
    assert document["config"]["capabilities"]["reasoning"] is False


@pytest.mark.parametrize("compatible", [False, True])
def test_the_manifest_follows_the_schema(compatible: bool) -> None:
    layers = (
        file_layer("a b/ü.bin", "weight", D, 1, REGULAR),
        file_layer("run.sh", "code", D, 1, EXECUTABLE),
        directories_layer(["empty", "x/y"], D, 1),
    )
    config = Descriptor(IMAGE_CONFIG_TYPE if compatible else CONFIG_TYPE, D, 1)
    raw = build_manifest(config, layers, {"k": "v"}, compatible=compatible)
    check(raw, "oci-manifest.schema.json")
    parsed = parse_manifest(raw, MANIFEST)
    assert isinstance(parsed, Manifest)
    assert is_model(parsed)
    assert parsed.layers == layers
    assert parsed.annotations["k"] == "v"
    assert (parsed.artifact_type == ARTIFACT_TYPE) is not compatible
    assert (parsed.annotations.get(COMPAT_TYPE) == ARTIFACT_TYPE) is compatible
    for layer in parsed.layers[:2]:
        check(layer.annotations[FILE_METADATA].encode(), METADATA_SCHEMA)


def test_the_same_input_gives_the_same_bytes() -> None:
    def build(annotations: dict[str, str]) -> bytes:
        layer = file_layer("a", "weight", D, 1, REGULAR)
        return build_manifest(Descriptor(CONFIG_TYPE, D, 1), (layer,), annotations)

    assert build({"a": "1", "b": "2"}) == build({"b": "2", "a": "1"})


KINDS = ["weight", "weight.config", "doc", "code", "dataset"]
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


@given(names, st.sampled_from(KINDS), st.integers(0, 2**62), st.sampled_from([REGULAR, EXECUTABLE]))
def test_files_round_trip(path: str, kind: str, size: int, mode: int) -> None:
    layer = file_layer(path, kind, D, size, mode)
    assert layer.media_type == f"application/vnd.cncf.model.{kind}.v1.raw"
    assert layer.annotations[TITLE] == path
    file = read_layer(layer)
    assert (file.path, file.kind, file.codec, file.size, file.mode) == (
        path,
        kind,
        "raw",
        size,
        mode,
    )
    assert not file.is_directory


@given(st.lists(names, max_size=5))
def test_directories_round_trip(paths: list[str]) -> None:
    file = read_layer(directories_layer(paths, D, 10240))
    assert (file.path, file.codec, file.directories) == (".", "tar", tuple(paths))


def foreign(media_type: str, **annotations: str) -> Descriptor:
    return Descriptor(media_type, D, 1, annotations)


RAW = layer_type("weight")


@pytest.mark.parametrize(
    ("layer", "path", "codec"),
    [
        (foreign(RAW, **{FILEPATH: "a"}), "a", "raw"),
        (foreign("application/vnd.cnai.model.weight.v1.tar", **{FILEPATH: "a"}), "a", "tar"),
        (foreign(layer_type("doc", "tar+gzip")), ".", "tar+gzip"),
        (foreign(layer_type("doc", "tar+zstd"), **{FILEPATH: "d"}), "d", "tar+zstd"),
        (foreign(RAW, **{"org.cnai.model.filepath": "b"}), "b", "raw"),
        (foreign(RAW, **{TITLE: "t", FILEPATH: "f"}), "f", "raw"),
        (foreign("application/vnd.oci.image.layer.v1.tar", **{TITLE: "t"}), "t", "raw"),
        (
            foreign("application/vnd.oci.image.layer.v1.tar+gzip", **{TITLE: "f.tgz"}),
            "f.tgz",
            "raw",
        ),
        (
            foreign("any/type", **{TITLE: "d", "io.deis.oras.content.unpack": "true"}),
            "d",
            "tar+gzip",
        ),
        (foreign("application/vnd.kitops.modelkit.model.v1.tar"), ".", "tar"),
        (foreign("application/vnd.kitops.modelkit.model.v1.tar+gzip"), ".", "tar+gzip"),
        (foreign("application/vnd.docker.image.rootfs.diff.tar.gzip"), ".", "tar+gzip"),
        (foreign("text/plain", **{TITLE: "t"}), "t", "raw"),
    ],
)
def test_layers_of_other_tools(layer: Descriptor, path: str, codec: str) -> None:
    file = read_layer(layer)
    assert (file.path, file.codec) == (path, codec)


@pytest.mark.parametrize(
    ("metadata", "is_directory", "mode"),
    [
        ({}, False, REGULAR),
        ({"typeflag": 48, "mode": 0o600}, False, REGULAR),
        ({"typeflag": 0, "mode": 0o700}, False, EXECUTABLE),
        ({"typeflag": 5}, True, REGULAR),
        ({"typeflag": 53}, True, REGULAR),
        ({"typeflag": "odd", "mode": "odd"}, False, REGULAR),
        ({"typeflag": [], "mode": None}, False, REGULAR),
    ],
)
def test_metadata_of_other_tools(metadata: dict[str, Any], is_directory: bool, mode: int) -> None:
    layer = foreign(RAW, **{FILEPATH: "a", FILE_METADATA: json.dumps(metadata)})
    file = read_layer(layer)
    assert (file.is_directory, file.mode) == (is_directory, mode)


@pytest.mark.parametrize(
    "layer",
    [
        foreign(RAW),
        foreign("text/plain"),
        foreign(RAW, **{FILEPATH: ""}),
        foreign("application/vnd.cncf.model.weight.v1.brotli", **{FILEPATH: "a"}),
        foreign("application/vnd.cncf.model.weight.v2.raw", **{FILEPATH: "a"}),
        foreign("application/vnd.cncf.model.weight", **{FILEPATH: "a"}),
        foreign(RAW, **{FILEPATH: "a", FILE_METADATA: "{"}),
        foreign(RAW, **{FILEPATH: "a", FILE_METADATA: "[]"}),
        foreign(RAW, **{FILEPATH: "a", FILE_METADATA: '{"typeflag":2}'}),
        foreign(RAW, **{FILEPATH: "a", FILE_METADATA: '{"typeflag":50}'}),
        foreign(layer_type("doc", "tar"), **{DIRECTORIES: "{}"}),
        foreign(layer_type("doc", "tar"), **{DIRECTORIES: "["}),
        foreign(layer_type("doc", "tar"), **{DIRECTORIES: "[1]"}),
        foreign(layer_type("doc", "tar"), **{DIRECTORIES: '[{"a":1}]'}),
    ],
)
def test_layers_that_are_refused(layer: Descriptor) -> None:
    with pytest.raises(InputError):
        read_layer(layer)


@given(
    st.sampled_from([RAW, layer_type("doc", "tar"), "text/plain"]) | st.text(max_size=20),
    st.dictionaries(
        st.sampled_from([FILEPATH, FILE_METADATA, TITLE, DIRECTORIES]),
        st.text(st.characters(exclude_categories=["Cs"])) | st.just('{"mode":[]}'),
    ),
)
def test_read_layer_gives_a_file_or_the_declared_error(
    media_type: str, annotations: dict[str, str]
) -> None:
    try:
        file = read_layer(Descriptor(media_type, D, 1, annotations))
    except InputError:
        return
    assert file.path
    assert file.codec in ("raw", "tar", "tar+gzip", "tar+zstd")


@given(st.binary(max_size=50) | st.text().map(lambda t: json.dumps({"modelfs": t}).encode()))
def test_config_parse_gives_a_config_or_the_declared_error(raw: bytes) -> None:
    try:
        config = ModelConfig.parse(raw)
    except InputError:
        return
    assert ModelConfig.parse(config.encode()).diff_ids == config.diff_ids


@pytest.mark.parametrize("key", ["diffIds", "diff_ids"])
def test_both_spellings_of_diff_ids(key: str) -> None:
    raw = json.dumps({"modelfs": {key: [D]}, "future": 1}).encode()
    assert ModelConfig.parse(raw).diff_ids == (D,)


@pytest.mark.parametrize(
    ("config_type", "artifact_type", "annotations", "expected"),
    [
        (CONFIG_TYPE, ARTIFACT_TYPE, {}, True),
        (CONFIG_TYPE, "", {}, True),
        ("application/vnd.cnai.model.config.v1+json", "", {}, True),
        (IMAGE_CONFIG_TYPE, "", {COMPAT_TYPE: ARTIFACT_TYPE}, True),
        (IMAGE_CONFIG_TYPE, "", {}, False),
        ("application/vnd.oci.empty.v1+json", "application/x", {}, False),
    ],
)
def test_what_is_a_model(
    config_type: str, artifact_type: str, annotations: dict[str, str], expected: bool
) -> None:
    manifest = Manifest(
        b"", D, MANIFEST, Descriptor(config_type, D, 1), (), artifact_type, None, annotations
    )
    assert is_model(manifest) is expected
