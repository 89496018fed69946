"""Models read lazily from real registries: by one and by many, pushed by us and by others."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import ocimodel
from ocimodel.errors import InputError, NotFoundError, PolicyError, RegistryError
from ocimodel.store.copy import copy
from ocimodel.store.memory import MemoryStore
from tests.artifacts import put_index, put_model
from tests.indexed import put_layout
from tests.lazy import CONFIG, MIB, SAMPLE, SAMPLE_FILE, array, file_of, same
from tests.servers.fault_proxy import FaultProxy
from tests.servers.registry import DockerRegistry
from tests.trees import Notices, patient, repository, write_tree

FILES = {"model.safetensors": SAMPLE_FILE.content, "config.json": CONFIG}


@pytest.fixture
def reference(docker_registry: DockerRegistry, repo: str, tmp_path: Path) -> str:
    """The sample, pushed."""
    name = f"{docker_registry.host}/{repo}:v1"
    ocimodel.push(write_tree(tmp_path / "sample", FILES), name, client=patient())
    return name


@pytest.fixture
def foreign(docker_registry: DockerRegistry, repo: str) -> str:
    """The same files as others push them: without an index of chunks."""
    store = MemoryStore()
    manifest = put_model(store, FILES)
    name = f"{docker_registry.host}/{repo}-foreign:v1"
    copy(store, repository(name), manifest, tag="v1")
    return name


def test_files_and_tensors_of_what_was_pushed(reference: str) -> None:
    with ocimodel.open(reference, require_lazy=True, client=patient()) as model:
        assert set(model.files) == set(FILES)
        assert json.load(model.open("config.json")) == json.loads(CONFIG)
        assert model.open("model.safetensors").read() == SAMPLE_FILE.content
        tensors = model.tensors("numpy")
        assert list(tensors) == list(SAMPLE)
        assert same(tensors["c.rows"][5:9], SAMPLE["c.rows"][1][5:9])
        for name, found in model.load(framework="numpy"):
            assert same(found, SAMPLE[name][1])
        assert model.mode == "lazy"


def test_layers_that_are_segments(
    docker_registry: DockerRegistry, repo: str, tmp_path: Path
) -> None:
    name = f"{docker_registry.host}/{repo}:v1"
    folder = write_tree(tmp_path / "m", FILES)
    ocimodel.push(folder, name, layering="tensor", client=patient())
    with ocimodel.open(name, require_lazy=True, client=patient()) as model:
        assert len(model.model_files) < len(model.root.layers) - 1
        assert model.open("model.safetensors").read() == SAMPLE_FILE.content
        assert all(same(a, SAMPLE[n][1]) for n, a in model.load(framework="numpy"))


def test_what_is_needed_and_no_more(
    reference: str, docker_registry: DockerRegistry, fault_proxy: Callable[..., FaultProxy]
) -> None:
    proxy = fault_proxy(docker_registry)
    with ocimodel.open(through(proxy, reference), client=patient()) as model:
        before = proxy.downloaded()
        wanted = ["b.big"]
        list(model.load(wanted))
        n_bytes = sum(SAMPLE[name][1].nbytes for name in wanted)
        assert n_bytes <= proxy.downloaded() - before <= 1.05 * n_bytes
        assert model.traffic.n_fetched == proxy.downloaded() - before


def test_the_second_time_nothing_is_fetched(
    reference: str,
    docker_registry: DockerRegistry,
    fault_proxy: Callable[..., FaultProxy],
    tmp_path: Path,
) -> None:
    proxy = fault_proxy(docker_registry)
    for is_first in (True, False):
        proxy.clear()
        with ocimodel.open(
            through(proxy, reference), cache=tmp_path / "cache", client=patient()
        ) as model:
            assert all(same(a, SAMPLE[n][1]) for n, a in model.load(framework="numpy"))
            assert model.open("config.json").read() == CONFIG
            assert (model.traffic.n_fetched > 0) == is_first
        big = [e for e in proxy.select("GET", "/blobs/") if e.response_bytes > MIB]
        assert bool(big) == is_first


def test_a_pull_finds_what_was_read_and_the_other_way_round(reference: str, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with ocimodel.open(reference, cache=cache, client=patient()) as model:
        list(model.load())
    ocimodel.pull(reference, tmp_path / "out", cache=cache, client=patient())
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == SAMPLE_FILE.content
    other = tmp_path / "other-cache"
    ocimodel.pull(reference, tmp_path / "out2", cache=other, client=patient())
    with ocimodel.open(reference, cache=other, client=patient()) as model:
        assert all(same(a, SAMPLE[n][1]) for n, a in model.load(framework="numpy"))
        assert model.traffic.n_fetched == 0


_WORKER = """
import sys, ocimodel
with ocimodel.open(sys.argv[1], cache=sys.argv[2] or None) as model:
    print("ready", flush=True)
    sys.stdin.readline()
    n = sum(int(a.sum(dtype="u8")) for _, a in model.load(framework="numpy"))
    print(n, model.traffic.n_fetched, flush=True)
"""


def test_four_processes_and_one_cache_fetch_one_copy(
    docker_registry: DockerRegistry,
    fault_proxy: Callable[..., FaultProxy],
    repo: str,
    tmp_path: Path,
) -> None:
    values = {f"t{i}": ("U8", array((5, MIB), "U8", i)) for i in range(20)}
    content = file_of(values).content
    name = f"{docker_registry.host}/{repo}:v1"
    ocimodel.push(write_tree(tmp_path / "m", {"m.safetensors": content}), name, client=patient())
    proxy = fault_proxy(docker_registry)
    command = [sys.executable, "-c", _WORKER, through(proxy, name), str(tmp_path / "cache")]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    try:
        for worker in workers:
            assert worker.stdout
            assert worker.stdout.readline() == "ready\n"
        proxy.clear()
        outputs = [worker.communicate("go\n", timeout=120)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    total = sum(int(a.sum(dtype="u8")) for _, a in values.values())
    found = [tuple(map(int, line.split())) for line in outputs]
    assert [n for n, _ in found] == [total] * 4
    fetched = sum(n for _, n in found)
    assert len(content) * 0.99 <= fetched <= 1.05 * len(content)
    # on the wire there may be more, where a stream was left before its end
    assert proxy.downloaded() <= 1.05 * len(content)


def test_foreign_artifacts_are_read_whole_and_it_is_said(foreign: str, tmp_path: Path) -> None:
    notices = Notices()
    with ocimodel.open(foreign, client=patient(), observer=notices) as model:
        assert model.mode == "whole"
        assert len(notices.texts) == 1
        assert "whole" in notices.texts[0]
        assert list(model.tensors("numpy")) == list(SAMPLE)
        assert all(same(a, SAMPLE[n][1]) for n, a in model.load(framework="numpy"))
        assert same(model.tensors("numpy")["a.big"][1:2], SAMPLE["a.big"][1][1:2])
        assert (
            safetensors.numpy.load(model.open("model.safetensors").read()).keys() == SAMPLE.keys()
        )
        assert model.traffic.n_fetched == sum(map(len, FILES.values()))
    cache = tmp_path / "cache"
    for is_first in (True, False):
        with ocimodel.open(foreign, cache=cache, client=patient()) as model:
            assert model.open("model.safetensors").read() == SAMPLE_FILE.content
            assert (model.traffic.n_fetched > 0) == is_first


def test_who_requires_lazy_gets_nothing_whole(foreign: str) -> None:
    with pytest.raises(RegistryError) as caught:
        ocimodel.open(foreign, require_lazy=True, client=patient())
    assert caught.value.exit_code == 5
    assert caught.value.hint


def test_what_another_tool_pushed(
    docker_registry: DockerRegistry, repo: str, tool_path: Callable[[str], Path], tmp_path: Path
) -> None:
    oras = tool_path("oras")
    folder = write_tree(tmp_path / "m", FILES)
    name = f"{docker_registry.host}/{repo}:oras"
    subprocess.run(
        [oras, "push", "--plain-http", name, *FILES], cwd=folder, check=True, capture_output=True
    )
    with ocimodel.open(name, client=patient()) as model:
        assert model.mode == "whole"
        assert {p: model.open(p).read() for p in model.files} == FILES


def test_what_lies_in_a_tar_is_told(docker_registry: DockerRegistry, repo: str) -> None:
    from ocimodel.spec.descriptor import Descriptor
    from ocimodel.spec.modelpack import FILEPATH, layer_type
    from tests.artifacts import put_blob, put_layers

    store = MemoryStore()
    raw = b"not looked into"
    layer = Descriptor(
        layer_type("weight", "tar"), put_blob(store, raw), len(raw), {FILEPATH: "weights"}
    )
    name = f"{docker_registry.host}/{repo}:tar"
    copy(store, repository(name), put_layers(store, [layer]), tag="tar")
    notices = Notices()
    with ocimodel.open(name, client=patient(), observer=notices) as model:
        assert dict(model.files) == {}
        assert any("weights" in text and "pull" in text for text in notices.texts)


def test_a_layout_on_disk(tmp_path: Path) -> None:
    name = put_layout(tmp_path / "layout", "v1", {"m.safetensors": SAMPLE_FILE})
    with ocimodel.open(name, require_lazy=True) as model:
        assert all(same(a, SAMPLE[n][1]) for n, a in model.load(framework="numpy"))


def test_an_index_of_artifacts_is_no_model(docker_registry: DockerRegistry, repo: str) -> None:
    store = MemoryStore()
    index = put_index(store, [put_model(store, {"a": b"1"}), put_model(store, {"a": b"2"})])
    name = f"{docker_registry.host}/{repo}:index"
    copy(store, repository(name), index, tag="index")
    with pytest.raises(InputError, match="index of several"):
        ocimodel.open(name, client=patient())


def test_no_such_artifact(docker_registry: DockerRegistry, repo: str) -> None:
    with pytest.raises(NotFoundError):
        ocimodel.open(f"{docker_registry.host}/{repo}:gone", client=patient())


def test_a_policy_is_asked_before_anything_is_read(
    reference: str,
    docker_registry: DockerRegistry,
    fault_proxy: Callable[..., FaultProxy],
    tmp_path: Path,
) -> None:
    proxy = fault_proxy(docker_registry)
    keys = ocimodel.keygen(tmp_path / "key")
    name = through(proxy, reference)
    with pytest.raises(PolicyError) as caught:
        ocimodel.open(name, key=str(keys.public), client=patient())
    assert caught.value.exit_code == 7
    layers = {layer.digest for layer in repository(reference).manifest("v1").layers}  # type: ignore[union-attr]
    assert not [e for e in proxy.log if any(digest in e.path for digest in layers)]
    ocimodel.sign(reference, key=str(keys.private), passphrase=lambda _: b"", client=patient())
    with ocimodel.open(name, key=str(keys.public), client=patient()) as model:
        assert model.open("config.json").read() == CONFIG


def test_minilm_as_its_tools_have_it(
    docker_registry: DockerRegistry, repo: str, minilm_dir: Path
) -> None:
    name = f"{docker_registry.host}/{repo}:minilm"
    ocimodel.push(minilm_dir, name, client=patient())
    with ocimodel.open(name, require_lazy=True, client=patient()) as model:
        for path in minilm_dir.rglob("*"):
            if path.is_file():
                assert (
                    model.open(path.relative_to(minilm_dir).as_posix()).read() == path.read_bytes()
                )
        for path in minilm_dir.rglob("*.safetensors"):
            expected = safetensors.numpy.load_file(path)
            loaded = dict(model.load(framework="numpy"))
            assert loaded.keys() == expected.keys()
            assert all(np.array_equal(loaded[name], expected[name]) for name in expected)


def through(proxy: FaultProxy, reference: str) -> str:
    return f"{proxy.host}/{reference.partition('/')[2]}"
