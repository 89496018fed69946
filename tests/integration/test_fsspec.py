"""fsspec and what is built on it, over artifacts in a registry and in a layout."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import safetensors.numpy

import ocimodel
from ocimodel.errors import PolicyError, RegistryError, UsageError
from ocimodel.store.copy import copy
from ocimodel.store.memory import MemoryStore
from tests.artifacts import put_model
from tests.lazy import CONFIG, SAMPLE, SAMPLE_FILE
from tests.servers.registry import DockerRegistry
from tests.trees import patient, repository, write_tree

fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")
from ocimodel.integrations.fsspec import OcimodelFileSystem, split  # noqa: E402

FILES = {
    "config.json": CONFIG,
    "data/a.csv": b"x,y\n1,2\n3,4\n",
    "data/deep/b.jsonl": b'{"x": 1}\n{"x": 2}\n',
    "model.safetensors": SAMPLE_FILE.content,
    "empty": b"",
}


@pytest.fixture(autouse=True)
def known() -> None:
    """As the entry point does it."""
    fsspec.register_implementation("ocimodel", OcimodelFileSystem, clobber=True)
    OcimodelFileSystem.clear_instance_cache()


@pytest.fixture(params=["registry", "layout"])
def root(
    request: pytest.FixtureRequest, docker_registry: DockerRegistry, repo: str, tmp_path: Path
) -> str:
    where = {"registry": f"{docker_registry.host}/{repo}:v1", "layout": f"oci:{tmp_path}/l:v1"}
    name = where[request.param]
    ocimodel.push(write_tree(tmp_path / "m", FILES), name, client=patient())
    return name


DIGEST = f"sha256:{'0' * 64}"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("h/r:t", ("h/r:t", "")),
        ("h/r:t/", ("h/r:t", "")),
        ("h:5000/a/b:t/c/d:e", ("h:5000/a/b:t", "c/d:e")),
        (f"h/r@{DIGEST}/c", (f"h/r@{DIGEST}", "c")),
        (f"h/r:t@{DIGEST}/c", (f"h/r:t@{DIGEST}", "c")),
        ("oci:l:t/c", ("oci:l:t", "c")),
        ("oci:/a/l:t/c", ("oci:/a/l:t", "c")),
        ("oci:a/l:t", ("oci:a/l:t", "")),
    ],
)
def test_where_the_reference_ends(path: str, expected: tuple[str, str]) -> None:
    assert split(path) == expected


@pytest.mark.parametrize(
    "path", ["", "h", "h:5000", "h:5000/repo", "h/repo/config.json", "oci:l/c"]
)
def test_a_reference_needs_an_end(path: str) -> None:
    with pytest.raises(UsageError) as caught:
        split(path)
    assert "ocimodel://" in caught.value.hint


def test_opening_files(root: str) -> None:
    with fsspec.open(f"ocimodel://{root}/config.json") as file:
        assert json.load(file) == json.loads(CONFIG)
    with fsspec.open(f"ocimodel://{root}/data/a.csv", "r") as file:
        assert file.read() == FILES["data/a.csv"].decode()
    with fsspec.open(f"ocimodel://{root}/model.safetensors") as file:
        file.seek(-10, 2)
        assert file.read() == SAMPLE_FILE.content[-10:]
    with pytest.raises(UsageError, match="read-only"):
        fsspec.open(f"ocimodel://{root}/new", "wb").open()
    with pytest.raises(FileNotFoundError):
        fsspec.open(f"ocimodel://{root}/gone").open()


def test_looking_around(root: str) -> None:
    fs, path = fsspec.url_to_fs(f"ocimodel://{root}")
    assert path == root
    names = [f"{root}/{name}" for name in ("config.json", "data", "empty", "model.safetensors")]
    assert fs.ls(path, detail=False) == names
    assert {e["name"]: e["type"] for e in fs.ls(path)}[f"{root}/data"] == "directory"
    assert fs.ls(f"{root}/config.json", detail=False) == [f"{root}/config.json"]
    assert fs.info(f"ocimodel://{root}/data/a.csv")["size"] == len(FILES["data/a.csv"])
    assert fs.isdir(f"{root}/data")
    assert fs.isdir(root)
    assert fs.isfile(f"{root}/empty")
    assert not fs.exists(f"{root}/dat")
    assert fs.find(root) == sorted(f"{root}/{name}" for name in FILES)
    assert fs.glob(f"{root}/data/**/*.jsonl") == [f"{root}/data/deep/b.jsonl"]
    assert fs.glob(f"ocimodel://{root}/*.json") == [f"{root}/config.json"]
    assert fs.du(root) == sum(map(len, FILES.values()))
    with pytest.raises(FileNotFoundError):
        fs.ls(f"{root}/gone")


@pytest.mark.parametrize(
    ("start", "end"),
    [(None, None), (0, 10), (5, None), (None, -5), (-10, None), (-10, -5), (10, 5), (100, 10**9)],
)
def test_ranges(root: str, start: int | None, end: int | None) -> None:
    fs = fsspec.filesystem("ocimodel")
    for name, content in FILES.items():
        assert fs.cat_file(f"{root}/{name}", start, end) == content[start:end]
    with pytest.raises(IsADirectoryError):
        fs.cat_file(f"{root}/data")
    with pytest.raises(FileNotFoundError):
        fs.cat_file(f"{root}/gone")


def test_one_model_an_instance(root: str, tmp_path: Path) -> None:
    fs = fsspec.filesystem("ocimodel", cache=str(tmp_path / "cache"), require_lazy=True)
    assert fs.model(f"{root}/config.json") is fs.model(root)
    assert fs.cat([f"{root}/config.json", f"{root}/empty"]) == {
        f"{root}/config.json": CONFIG,
        f"{root}/empty": b"",
    }
    assert fs.get_file(f"{root}/data/a.csv", str(tmp_path / "a.csv")) is None
    assert (tmp_path / "a.csv").read_bytes() == FILES["data/a.csv"]
    other = pickle.loads(pickle.dumps(fs))
    assert other.cat_file(f"{root}/config.json") == CONFIG
    assert (tmp_path / "cache" / "partial").exists()
    fs.close()
    assert fs.cat_file(f"{root}/config.json") == CONFIG


def test_options_are_those_of_open(docker_registry: DockerRegistry, repo: str) -> None:
    store = MemoryStore()
    name = f"{docker_registry.host}/{repo}:foreign"
    copy(store, repository(name), put_model(store, FILES), tag="foreign")
    with pytest.raises(RegistryError, match="lazily"):
        fsspec.open(f"ocimodel://{name}/config.json", require_lazy=True).open()
    keys = ocimodel.keygen(Path("~/k").expanduser())
    with pytest.raises(PolicyError):
        fsspec.open(f"ocimodel://{name}/config.json", key=str(keys.public)).open()
    with fsspec.open(f"ocimodel://{name}/config.json") as file:
        assert file.read() == CONFIG


def test_pandas(root: str) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    assert pandas.read_csv(f"ocimodel://{root}/data/a.csv")["y"].tolist() == [2, 4]
    found = pandas.read_json(f"ocimodel://{root}/data/deep/b.jsonl", lines=True)
    assert found["x"].tolist() == [1, 2]


def test_safetensors(root: str) -> None:
    with fsspec.open(f"ocimodel://{root}/model.safetensors") as file:
        assert safetensors.numpy.load(file.read()).keys() == SAMPLE.keys()
