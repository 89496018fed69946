"""`ocimodel diff`: what it tells of real relatives, and that it reads no weights for it."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ocimodel
from ocimodel.spec.modelpack import INDEX_PATH, ModelConfig
from ocimodel.store.copy import copy
from ocimodel.store.layout import Layout
from ocimodel.store.memory import MemoryStore
from tests.artifacts import put_index, random_bytes
from tests.e2e.conftest import Cli
from tests.indexed import Values, put_indexed, put_layout, safetensors
from tests.servers.finetunes import WEIGHTS, WORDS, Finetunes, Variant
from tests.servers.registry import DockerRegistry

KIB = 1024
Fails = Callable[..., dict[str, Any]]


def rows(document: dict[str, Any], of: str) -> dict[str, str]:
    """Name → status of the files or tensors that are not the same."""
    name = {"files": "path", "tensors": "name"}[of]
    return {row[name]: row["status"] for row in document[of] if row["status"] != "same"}


def values_of(document: dict[str, Any], of: str) -> dict[tuple[str, str], tuple[Any, Any]]:
    return {(v["document"], v["key"]): (v.get("a"), v.get("b")) for v in document[of]}


# artifacts made by hand


def layers(n: int, n_bytes: int, seed: int) -> Values:
    return {
        f"encoder.layer.{i}.{part}.weight": (
            "U8",
            (n_bytes,),
            random_bytes(n_bytes, 100 * seed + i),
        )
        for i in range(n)
        for part in ("query", "value")
    }


@pytest.fixture
def pair(work: Path) -> tuple[str, str]:
    """Two versions in one layout, the second in segments."""
    before = {**layers(12, 300 * KIB, 1), "head": ("F32", (2, 3), random_bytes(24, 2))}
    after = {**before, **{k: v for k, v in layers(12, 300 * KIB, 3).items() if "query" in k}}
    after["head"] = ("F32", (3, 3), random_bytes(36, 2))
    after["head.bias"] = ("F16", (3,), random_bytes(6, 2))
    a = put_layout(
        work / "models",
        "v1",
        {
            "config.json": b'{"hidden": 384, "rope": {"theta": 1e4}, "gone": [1]}',
            "README.md": b"v1\n",
            WEIGHTS: safetensors(before, {"format": "pt"}),
        },
        annotations={"org.opencontainers.image.version": "1"},
        config=ModelConfig({"name": "m", "version": "1"}, {"precision": "float32"}),
    )
    b = put_layout(
        work / "models",
        "v2",
        {
            "config.json": b'{"hidden": 384, "rope": {"theta": 1e6}, "new": null}',
            "LICENSE": b"free\n",
            WEIGHTS: safetensors(after, {"format": "pt", "step": "7"}),
        },
        layering="tensor",
        annotations={"org.opencontainers.image.version": "2"},
        config=ModelConfig({"name": "m", "version": "2"}, {"precision": "float32"}),
    )
    return a, b


def test_a_person_reads_what_changed(cli: Cli, pair: tuple[str, str]) -> None:
    told = cli("diff", *pair)
    summary, *blocks = told.out.split("\n\n")
    assert summary.startswith(
        "files: 2 changed, 1 added, 1 removed; tensors: 13 changed, 1 added, 12 same; 49.9 % of "
    )
    assert summary.endswith(" to fetch")
    assert blocks == [
        "LICENSE            added    5 B\n"
        "README.md          removed  3 B\n"
        "config.json        changed  52 B\n"
        "model.safetensors  changed  7.4 MB",
        "encoder.layer.{0..11}.query.weight  changed  U8 [307200]\n"
        "head                                changed  F32 [2, 3] → F32 [3, 3]\n"
        "head.bias                           added    F16 [3]",
        'modelpack\n  descriptor.version: "1" → "2"',
        "config.json\n"
        "  rope.theta: 10000.0 → 1000000.0\n"
        "  gone: [1] → absent\n"
        "  new: absent → null",
        'annotations\n  org.opencontainers.image.version: "1" → "2"',
        'safetensors\n  step: absent → "7"\n',
    ]
    assert told.err == ""


def test_a_machine_reads_all_of_it(cli: Cli, pair: tuple[str, str], work: Path) -> None:
    document = cli("diff", *pair, "--json").document
    assert document["schema"] == "ocimodel.diff/v1"
    for side, reference in zip(("a", "b"), pair, strict=True):
        digest = Layout(work / "models").resolve(reference.rpartition(":")[2]).digest
        assert document[side] == {
            "reference": reference,
            "digest": digest,
            "pinned": f"oci:{work}/models@{digest}",
            "indexed": True,
        }
    assert document["differs"] and document["tensorsCompared"]
    assert Counter(t["status"] for t in document["tensors"]) == {
        "changed": 13,
        "added": 1,
        "same": 12,
    }
    (head,) = (t for t in document["tensors"] if t["name"] == "head")
    assert head["a"] == {"file": WEIGHTS, "dtype": "F32", "shape": [2, 3], "length": 24}
    assert head["b"]["shape"] == [3, 3]
    files = {f["path"]: f for f in document["files"]}
    assert list(files) == sorted(files)
    assert "a" not in files["LICENSE"] and "b" not in files["README.md"]
    assert len(files[WEIGHTS]["a"]["layers"]) == 1 < len(files[WEIGHTS]["b"]["layers"])
    assert values_of(document, "configuration") == {
        ("modelpack", "descriptor.version"): ("1", "2"),
        ("config.json", "rope.theta"): (1e4, 1e6),
        ("config.json", "gone"): ([1], None),
        ("config.json", "new"): (None, None),
    }
    assert values_of(document, "metadata") == {
        ("annotations", "org.opencontainers.image.version"): ("1", "2"),
        ("safetensors", "step"): (None, "7"),
    }
    assert document["sharedBytes"] + document["fetchBytes"] == document["totalBytes"]


def test_the_exit_code_is_one_only_when_it_is_asked_for(cli: Cli, pair: tuple[str, str]) -> None:
    a, b = pair
    assert cli("diff", a, b, "-q").out == "different\n"
    assert cli("diff", a, b, "-q", "--exit-code", code=1).out == "different\n"
    assert cli("diff", a, b, "--exit-code", "--json", code=1).document["differs"]
    assert cli("diff", a, a, "--exit-code").out == "no difference\n"
    assert cli("diff", a, a, "--exit-code", "-q").out == "same\n"
    same = cli("diff", a, a, "--exit-code", "--json").document
    assert not same["differs"] and same["fetchBytes"] == 0


def test_no_weights_are_needed(cli: Cli, pair: tuple[str, str], work: Path) -> None:
    whole = cli("diff", *pair, "--json").document
    layout = Layout(work / "models")
    n_removed = 0
    for reference in pair:
        for layer in ocimodel.inspect(reference).files:
            if layer.kind == "weight":
                n_removed += len(layer.layers)
                for blob in layer.layers:
                    layout.blob_path(blob.digest).unlink(missing_ok=True)
    assert n_removed > 10
    assert cli("diff", *pair, "--json").document == whole


def test_an_artifact_without_an_index_is_compared_by_file(cli: Cli, work: Path) -> None:
    weights = safetensors(layers(2, 300 * KIB, 1))
    other = safetensors(layers(2, 300 * KIB, 2))
    a = put_layout(work / "a", "v1", {WEIGHTS: weights, "x": b"1"}, has_index=False)
    b = put_layout(work / "b", "v1", {WEIGHTS: other, "x": b"1"})
    told = cli("diff", a, b).out
    summary = f"files: 1 changed, 1 same; tensors: not compared, no index in {a}; 0.0 % of 1.2 MB"
    assert told.startswith(summary)
    document = cli("diff", a, b, "--json").document
    assert not document["tensorsCompared"] and document["tensors"] == []
    assert not document["a"]["indexed"] and document["b"]["indexed"]
    same = put_layout(work / "c", "v1", {WEIGHTS: weights, "x": b"1"})
    told = cli("diff", a, same, "--exit-code").out
    assert told == "no difference, though the manifests are not the same\n"


def test_long_lists_are_cut_off_for_people_only(cli: Cli, work: Path) -> None:
    a = put_layout(work / "a", "v1", {f"{i:03}.txt": b"1" for i in range(60)})
    b = put_layout(work / "b", "v1", {f"{i:03}.txt": b"2" for i in range(60)})
    lines = cli("diff", a, b).out.splitlines()
    assert lines[-1] == "… and 10 more: --json has them all"
    assert sum(".txt" in line for line in lines) == 50
    assert len(cli("diff", a, b, "--json").document["files"]) == 60


def test_what_is_no_configuration_is_not_read_as_one(cli: Cli, work: Path) -> None:
    contents = [b"[1]", b"{", b'{"a": NaN, "b": 1e999}', b'{"x": "' + b"y" * (1 << 20) + b'"}']
    references = [
        put_layout(work / f"l{i}", "v1", {"config.json": content})
        for i, content in enumerate(contents)
    ]
    for reference in references:
        document = cli("diff", references[0], reference, "--json").document
        keys = {v["key"]: v["b"] for v in document["configuration"]}
        # by name: JSON cannot say them
        assert keys == ({"a": "nan", "b": "inf"} if reference == references[2] else {})


def test_an_index_that_lies_is_refused(error: Fails, work: Path) -> None:
    reference = put_layout(work / "a", "v1", {WEIGHTS: safetensors(layers(2, 300 * KIB, 1))})
    layout = Layout(work / "a")
    manifest = layout.manifest("v1")
    assert hasattr(manifest, "layers")
    (layer,) = (x for x in manifest.layers if INDEX_PATH in x.annotations.values())
    path = layout.blob_path(layer.digest)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"U8", b"I8"))
    assert error(6, "diff", reference, reference)["kind"] == "integrity"


def test_what_cannot_be_compared(cli: Cli, error: Fails, pair: tuple[str, str], work: Path) -> None:
    assert error(3, "diff", pair[0], "oci:models:v3")["kind"] == "not-found"
    assert "there is no directory nowhere" in cli("diff", pair[0], "./nowhere", code=3).err
    cli("diff", pair[0], code=2)
    store = MemoryStore()
    several = put_index(store, [put_indexed(store, {"x": b"1"})])
    layout = Layout(work / "several", create=True)
    copy(store, layout, several)
    layout.tag("all", several.descriptor)
    told = error(10, "diff", pair[0], "oci:several:all")
    assert told["message"] == "oci:several:all is an index of several artifacts, not one model"


# the real model and its relatives


@pytest.fixture(scope="module")
def relatives(minilm_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Finetunes:
    return Finetunes(minilm_dir, tmp_path_factory.mktemp("relatives"))


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layout for all of them: what they share is written once."""
    return tmp_path_factory.mktemp("packs") / "layout"


def packed(cli: Cli, packs: Path, directory: Path, tag: str, layering: str = "tensor") -> str:
    reference = f"oci:{packs}:{tag}"
    cli("pack", directory, reference, "--layering", layering, "-q")
    return reference


@pytest.mark.parametrize("name", ["last_layers", "query_value", "vocabulary", "metadata_only"])
@pytest.mark.parametrize("layering", ["file", "tensor"])
def test_relatives_differ_in_what_was_changed(
    cli: Cli, relatives: Finetunes, packs: Path, name: str, layering: str
) -> None:
    variant: Variant = getattr(relatives, name)
    a = packed(cli, packs, relatives.original, "base")
    b = packed(cli, packs, variant.path, f"{name}-{layering}", layering)
    document = cli("diff", a, b, "--json").document
    assert rows(document, "tensors") == dict.fromkeys(variant.changed, "changed")
    assert len(document["tensors"]) == 104
    expected = {WEIGHTS: "changed"}
    if name == "vocabulary":
        expected["config.json"] = "changed"
        vocabulary = {("config.json", "vocab_size"): (30522, 30530)}
        assert values_of(document, "configuration") == vocabulary
        (words,) = (t for t in document["tensors"] if t["name"] == WORDS)
        assert (words["a"]["shape"], words["b"]["shape"]) == ([30522, 384], [30530, 384])
    assert rows(document, "files") == expected
    if name == "metadata_only":
        metadata = {key: b for (_, key), (_, b) in values_of(document, "metadata").items()}
        assert metadata == {"finetuned_from": "all-MiniLM-L6-v2", "step": "1000"}
    # the rest of the last chunk of a longer tensor, and the header
    assert document["fetchBytes"] <= 1.3 * variant.new_bytes + 768 * KIB
    assert document["sharedBytes"] + document["fetchBytes"] == document["totalBytes"]


def test_a_pull_fetches_what_diff_says(cli: Cli, relatives: Finetunes, packs: Path) -> None:
    a = packed(cli, packs, relatives.original, "base")
    b = packed(cli, packs, relatives.query_value.path, "query_value-tensor")
    cli("pull", a, "-o", "model", "-q")
    pulled = cli("pull", b, "-o", "model", "--json").document
    manifest = json.loads(cli("inspect", b, "--raw").out)
    (index,) = (x for x in manifest["layers"] if INDEX_PATH in x["annotations"].values())
    told = cli("diff", a, b, "--json").document
    assert pulled["bytesFetched"] == told["fetchBytes"] + index["size"]


def test_a_person_sees_layers_as_one(cli: Cli, relatives: Finetunes, packs: Path) -> None:
    a = packed(cli, packs, relatives.original, "base")
    b = packed(cli, packs, relatives.query_value.path, "query_value-tensor")
    assert cli("diff", a, b).out == (
        "files: 1 changed, 12 same; tensors: 12 changed, 92 same; 92.2 % of 91.6 MB shared, "
        "7.1 MB to fetch\n\n"
        "model.safetensors  changed  90.9 MB\n\n"
        "encoder.layer.{0..5}.attention.self.query.weight  changed  F32 [384, 384]\n"
        "encoder.layer.{0..5}.attention.self.value.weight  changed  F32 [384, 384]\n"
    )


def test_resharded_is_the_same_in_every_tensor(cli: Cli, relatives: Finetunes, packs: Path) -> None:
    a = packed(cli, packs, relatives.original, "base")
    b = packed(cli, packs, relatives.resharded.path, "resharded")
    document = cli("diff", a, b, "--json").document
    assert rows(document, "tensors") == {}
    assert document["metadata"] == []
    assert Counter(rows(document, "files").values()) == {"added": 4, "removed": 1}
    assert document["fetchBytes"] < document["totalBytes"] / 1000
    assert document["differs"]


def test_directories_are_compared_as_they_would_be_pushed(
    cli: Cli, relatives: Finetunes, packs: Path, work: Path
) -> None:
    a = packed(cli, packs, relatives.original, "base", "tensor")
    document = cli("diff", relatives.original, a, "--json").document
    assert not document["differs"]
    assert "pinned" not in document["a"] and document["a"]["indexed"]
    shutil.copytree(relatives.original, work / "mine")
    (work / "mine" / "config.json").write_text('{"vocab_size": 1}')
    told = cli("diff", a, "./mine").out
    assert "vocab_size: 30522 → 1\n" in told
    assert 'model_type: "bert" → absent\n' in told


def test_formats_are_compared_by_the_names_of_tensors(cli: Cli, relatives: Finetunes) -> None:
    folders = relatives.gguf.path.parent, relatives.gguf_finetune.path.parent
    tuned = cli("diff", *folders, "--json").document
    assert rows(tuned, "tensors") == dict.fromkeys(relatives.gguf_finetune.changed, "changed")
    converted = cli("diff", folders[0], relatives.original, "--json").document
    assert rows(converted, "tensors") == {"embeddings.position_ids": "added"}
    documents = {document for document, _ in values_of(converted, "metadata")}
    assert documents == {"gguf", "safetensors"}


def test_only_documents_are_fetched_from_a_registry(
    cli: Cli,
    relatives: Finetunes,
    docker_registry: DockerRegistry,
    fault_proxy: Callable[..., Any],
    repo: str,
) -> None:
    proxy = fault_proxy(docker_registry)
    name = repo.partition("/")[2]
    for tag, path in (("v1", relatives.original), ("v2", relatives.last_layers.path)):
        cli("push", path, f"{repo}:{tag}", "--layering", "tensor", "-q")
    told = cli("diff", f"{proxy.host}/{name}:v1", f"{proxy.host}/{name}:v2", "--json").document
    assert len(rows(told, "tensors")) == len(relatives.last_layers.changed)
    # two indexes, two configurations, two config.json
    assert proxy.downloaded("/blobs/") < 70_000
    assert proxy.count("GET", "/blobs/") == 6
