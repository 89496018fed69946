"""Lazy reading from a network that fails, and from disks that lie: right bytes, or an error."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import ocimodel
from ocimodel.errors import InputError, IntegrityError, OcimodelError, RegistryError
from ocimodel.lazy.model import LazyModel
from ocimodel.registry.blobs import STALL_S
from ocimodel.spec.chunkindex import parse_index
from ocimodel.spec.manifest import Manifest
from ocimodel.spec.modelpack import index_layer, new_index_layer
from ocimodel.store.copy import copy
from ocimodel.store.memory import MemoryStore
from tests.artifacts import put_blob, put_layers
from tests.faults.test_bad_targets import tmpfs
from tests.indexed import put_indexed, put_layout
from tests.lazy import CONFIG, MIB, SAMPLE, SAMPLE_FILE, array, file_of, same
from tests.servers.fault_proxy import FaultProxy
from tests.servers.faults import (
    Drop,
    FlipByte,
    Headers,
    IgnoreRange,
    Redirect,
    ReplaceBody,
    ShortBody,
    Stall,
    Status,
)
from tests.servers.registry import DockerRegistry
from tests.servers.token_server import TokenServer
from tests.trees import Notices, patient, repository, with_login, write_tree

FILES = {"model.safetensors": SAMPLE_FILE.content, "config.json": CONFIG}
RAW = SAMPLE_FILE.content
_numbers = itertools.count()


@dataclass
class Bench:
    """The sample in a registry, and a proxy before it. `weights`: matches the URL of its blob."""

    registry: DockerRegistry
    proxy: FaultProxy
    repo: str
    weights: str = ""
    notices: Notices = field(default_factory=Notices)

    @property
    def direct(self) -> str:
        return f"{self.registry.host}/{self.repo}:v1"

    def open(self, **how: Any) -> LazyModel:
        how = {"client": patient(), "observer": self.notices} | how
        return ocimodel.open(f"{self.proxy.host}/{self.repo}:v1", **how)


@pytest.fixture
def bench(
    docker_registry: DockerRegistry, fault_proxy: Callable[..., FaultProxy], tmp_path: Path
) -> Bench:
    made = Bench(docker_registry, fault_proxy(docker_registry), f"lazyfaults/n{next(_numbers)}")
    ocimodel.push(write_tree(tmp_path / "sample", FILES), made.direct, client=patient())
    manifest = repository(made.direct).manifest("v1")
    assert isinstance(manifest, Manifest)
    made.weights = f"/blobs/{max(manifest.layers, key=lambda layer: layer.size).digest}"
    return made


def load_all(model: LazyModel) -> int:
    """Checks each tensor that comes; how many did."""
    n = 0
    for name, found in model.load(framework="numpy"):
        assert same(found, SAMPLE[name][1]), name
        n += 1
    return n


PASSING = {
    "reset in the middle": Drop(5 * MIB),
    "end in the middle": ShortBody(3 * MIB),
    "500": Status(500),
    "503": Status(503, {"Retry-After": "1"}),
    "429": Status(429),
    "stall in the middle": Stall(threading.Event(), after_bytes=5 * MIB),
    "wrong byte": FlipByte(7 * MIB),
}


@pytest.mark.parametrize("fault", PASSING)
@pytest.mark.parametrize("is_cached", [False, True])
def test_passing_trouble_is_not_seen(
    bench: Bench, fault: str, is_cached: bool, tmp_path: Path
) -> None:
    added = bench.proxy.add(PASSING[fault], method="GET", path=bench.weights)
    with bench.open(cache=tmp_path / "cache" if is_cached else None) as model:
        assert load_all(model) == len(SAMPLE)
        assert model.mode == "lazy"
    assert added.hits > 0
    with bench.open() as model:
        assert model.open("model.safetensors").read() == RAW


def test_a_stall_is_given_up_long_before_the_timeout(bench: Bench) -> None:
    """The proxy lets go of a held stream only when its client leaves."""
    stall = Stall(threading.Event(), after_bytes=MIB)
    bench.proxy.add(stall, method="GET", path=bench.weights)
    patience = patient(timeout_s=1000.0)
    assert patience.timeout_s > STALL_S
    with bench.open(client=patience, window=MIB) as model:
        assert load_all(model) == len(SAMPLE)
    ranges = [e.headers["range"] for e in bench.proxy.select("GET", bench.weights)]
    starts = [int(r.removeprefix("bytes=").partition("-")[0]) for r in ranges]
    # from about where it was
    assert any(starts[0] + MIB // 2 <= start <= starts[0] + MIB for start in starts[1:])


LASTING = {
    "reset": Drop(0),
    "end": ShortBody(0),
    "500": Status(500),
    "503": Status(503),
}


@pytest.mark.parametrize("fault", LASTING)
@pytest.mark.parametrize("is_cached", [False, True])
def test_lasting_trouble_is_a_registry_error_and_passes(
    bench: Bench, fault: str, is_cached: bool, tmp_path: Path
) -> None:
    cache = tmp_path / "cache" if is_cached else None
    with bench.open(cache=cache) as model:
        bench.proxy.add(LASTING[fault], method="GET", path=bench.weights, times=None)
        for use in (
            lambda: load_all(model),
            lambda: model.open("model.safetensors").read(10),
            lambda: model.tensors("numpy")["b.norm"].numpy(),
        ):
            with pytest.raises(RegistryError) as caught:
                use()
            assert caught.value.exit_code == 5
        bench.proxy.clear()
        assert load_all(model) == len(SAMPLE)


def test_the_registry_dies_in_the_middle_of_a_load(
    tmp_path: Path, tool_path: Callable[[str], Path]
) -> None:
    tool_path("docker-registry")
    values = {f"t{i}": ("U8", array((4, 4 * MIB), "U8", i)) for i in range(6)}
    cache = tmp_path / "cache"
    with DockerRegistry(tmp_path / "registry") as registry:
        name = f"{registry.host}/m:v1"
        folder = write_tree(tmp_path / "m", {"m.safetensors": file_of(values).content})
        ocimodel.push(folder, name, client=patient())
        with ocimodel.open(name, cache=cache, window=16 * MIB, client=patient()) as model:
            loading = model.load(framework="numpy")
            assert same(next(loading)[1], values["t0"][1])
            registry.process.stop()
            with pytest.raises(RegistryError) as caught:
                list(loading)
            assert caught.value.exit_code == 5
            # what came before is here
            assert same(model.tensors("numpy")["t0"].numpy(), values["t0"][1])
            registry.process.start()
            assert all(same(a, values[n][1]) for n, a in model.load(framework="numpy"))


def test_a_presigned_url_that_expires_is_asked_for_again(
    bench: Bench, fault_proxy: Callable[..., FaultProxy]
) -> None:
    storage = fault_proxy(bench.registry)
    signed = Redirect(
        lambda path: f"{storage.url}{path}?X-Signature={bench.proxy.count('GET', bench.weights)}"
    )
    bench.proxy.add(signed, method="GET", path=bench.weights, times=None)
    storage.add(Status(403), path="X-Signature=1$", skip=1, times=None)
    with bench.open(window=MIB) as model:
        assert load_all(model) == len(SAMPLE)
        assert same(model.tensors("numpy")["a.big"].numpy(), SAMPLE["a.big"][1])
    assert storage.count("GET", "X-Signature=2$") > 0
    # and remembered
    assert bench.proxy.count("GET", bench.weights) < storage.count("GET")


def test_a_token_that_expires_is_fetched_again(
    registry_token: DockerRegistry,
    token_server: TokenServer,
    fault_proxy: Callable[..., FaultProxy],
    tmp_path: Path,
) -> None:
    proxy = fault_proxy(registry_token)
    logins = {proxy.host: ("alice", "secret"), registry_token.host: ("alice", "secret")}
    client = with_login(tmp_path / "auth.json", logins)
    folder = write_tree(tmp_path / "m", FILES)
    ocimodel.push(folder, f"{registry_token.host}/team/m:v1", client=client)
    with ocimodel.open(f"{proxy.host}/team/m:v1", client=client, window=MIB) as model:
        n_tokens = token_server.count()
        # as the registry has it when the token is too old
        gone = Headers({}, request={"authorization": None})
        proxy.add(gone, method="GET", path="/blobs/", skip=1)
        assert load_all(model) == len(SAMPLE)
        assert model.open("config.json").read() == CONFIG
        assert token_server.count() == n_tokens + 1
        assert 401 in {e.status for e in proxy.select("GET", "/blobs/")}


@pytest.mark.parametrize("is_cached", [False, True])
def test_an_endpoint_that_ignores_ranges(bench: Bench, is_cached: bool, tmp_path: Path) -> None:
    bench.proxy.add(IgnoreRange(), method="GET", path="/blobs/", times=None)
    with bench.open(cache=tmp_path / "cache" if is_cached else None) as model:
        tensors = model.tensors("numpy")
        assert same(tensors["b.big"][1:2], SAMPLE["b.big"][1][1:2])
        assert model.mode == "whole"
        assert sum("ignores ranges" in text for text in bench.notices.texts) == 1
        assert load_all(model) == len(SAMPLE)
        assert model.open("model.safetensors").read() == RAW
    with bench.open(require_lazy=True) as model:
        with pytest.raises(RegistryError, match="ignores ranges") as caught:
            model.tensors("numpy")["b.big"][1:2]
        assert caught.value.exit_code == 5


@pytest.mark.parametrize("is_whole", [False, True])
def test_the_cache_is_on_a_disk_that_is_full(bench: Bench, is_whole: bool, tmp_path: Path) -> None:
    if is_whole:
        bench.proxy.add(IgnoreRange(), method="GET", path="/blobs/", times=None)
    with tmpfs(tmp_path / "disk", "size=6m") as disk, bench.open(cache=disk / "cache") as model:
        assert load_all(model) == len(SAMPLE)
        assert any("not kept in the cache" in text for text in bench.notices.texts)
        file = model.open("model.safetensors")
        assert b"".join(iter(lambda: file.read(MIB), b"")) == RAW


def test_wrong_bytes_for_good_are_an_integrity_error(bench: Bench, tmp_path: Path) -> None:
    wrong = bytearray(RAW)
    wrong[len(RAW) // 2] ^= 1
    bench.proxy.add(ReplaceBody(bytes(wrong)), method="GET", path=bench.weights, times=None)
    with bench.open(cache=tmp_path / "cache") as model, pytest.raises(OcimodelError):
        load_all(model)
    bench.proxy.clear()
    with bench.open(cache=tmp_path / "cache") as model:
        assert load_all(model) == len(SAMPLE)


@pytest.mark.parametrize("layout", [{}, {"layering": "auto", "max_layer_bytes": 5 * MIB}])
def test_every_chunk_flipped_in_turn(layout: dict[str, Any], tmp_path: Path) -> None:
    """Whoever reads, in whatever way, gets the right bytes or an IntegrityError."""
    name = put_layout(
        tmp_path / "layout", "v1", {"model.safetensors": SAMPLE_FILE, "c": CONFIG}, **layout
    )
    blobs = tmp_path / "layout" / "blobs" / "sha256"
    with ocimodel.open(name) as model:
        root = model.root
    layer = index_layer(root)
    assert layer
    index = parse_index((blobs / layer.digest[7:]).read_bytes())
    n_flipped = 0
    for what in (x for x in root.layers if x != layer):
        chunks = index.chunks(what)
        assert chunks
        for chunk in chunks.at():
            path = blobs / what.digest[7:]
            good = path.read_bytes()
            middle = chunk.start + chunk.length // 2
            path.write_bytes(good[:middle] + bytes([good[middle] ^ 0x10]) + good[middle + 1 :])
            assert_no_wrong_byte(name)
            path.write_bytes(good)
            n_flipped += 1
    assert n_flipped > 8
    with ocimodel.open(name) as model:
        assert load_all(model) == len(SAMPLE)


def assert_no_wrong_byte(name: str) -> None:
    n_refused = 0
    contents = {"model.safetensors": RAW, "c": CONFIG}
    with ocimodel.open(name) as model:
        for path, content in contents.items():
            for start in range(0, len(content), MIB):
                expected = content[start : start + MIB]
                try:
                    out = bytearray(len(expected))
                    model.file(path).read_into(start, memoryview(out))
                    assert out == expected
                except IntegrityError:
                    n_refused += 1
            try:
                assert model.open(path).read() == content
            except IntegrityError:
                n_refused += 1
        try:
            load_all(model)
        except IntegrityError:
            n_refused += 1
        for tensor_name, tensor in model.tensors("numpy").items():
            expected = SAMPLE[tensor_name][1]
            for key in (..., slice(0, 1), slice(-1, None)) if expected.ndim else (...,):
                try:
                    assert same(tensor[key], expected[key])
                except IntegrityError:
                    n_refused += 1
    assert n_refused >= 2


@pytest.mark.parametrize("change", ["size", "digest", "length", "garbage"])
def test_an_index_that_contradicts_what_it_is_about(change: str, bench: Bench) -> None:
    """It is verified, so the packer lied: nothing is believed that does not fit."""
    store = MemoryStore()
    manifest = put_indexed(store, {"model.safetensors": SAMPLE_FILE, "c": CONFIG})
    layer = index_layer(manifest)
    assert layer
    document = json.loads(store.blobs[layer.digest])
    text = json.dumps(document)
    blob = max(manifest.layers, key=lambda x: x.size)
    if change == "garbage":
        text = text[:-10]
    elif change == "digest":
        text = text.replace(blob.digest, f"sha256:{'0' * 64}")
    elif change == "size":
        text = text.replace(f'"size": {blob.size}', f'"size": {blob.size + 1}')
    else:
        big = SAMPLE["a.big"][1].nbytes
        text = text.replace(str(big), str(big * 10), 1)
    raw = text.encode()
    assert raw != json.dumps(document).encode()
    layers = [x for x in manifest.layers if x != layer]
    lying = put_layers(store, [*layers, new_index_layer(put_blob(store, raw), len(raw))])
    copy(store, repository(bench.direct), lying, tag="v1")
    with pytest.raises((InputError, IntegrityError)), bench.open() as model:
        load_all(model)
    with pytest.raises((InputError, IntegrityError)), bench.open() as model:
        assert model.open("model.safetensors").read() != RAW


_WAITER = """
import sys, ocimodel
with ocimodel.open(sys.argv[1]) as model:
    print("ready", flush=True)
    for name, found in model.load(framework="numpy"):
        print(name, flush=True)
"""


def test_ctrl_c_ends_a_load_that_waits(bench: Bench) -> None:
    release = threading.Event()
    stall = Stall(release)
    bench.proxy.add(stall, method="GET", path=bench.weights, times=None)
    command = [sys.executable, "-c", _WAITER, f"{bench.proxy.host}/{bench.repo}:v1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        while not bench.proxy.count("GET", bench.weights):
            pass
        process.send_signal(signal.SIGINT)
        try:
            _, stderr = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode != 0
    assert b"KeyboardInterrupt" in stderr


def test_kill_of_one_of_several_that_share_a_cache(bench: Bench, tmp_path: Path) -> None:
    """The one that fetches is killed; another one goes on, and believes nothing unproven."""
    bench.proxy.add(Stall(threading.Event(), after_bytes=6 * MIB), method="GET", path=bench.weights)
    command = [sys.executable, "-c", _WAITER.replace("argv[1])", "argv[1], cache=sys.argv[2])")]
    command += [f"{bench.proxy.host}/{bench.repo}:v1", str(tmp_path / "cache")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        while not any(e.response_bytes for e in bench.proxy.select("GET", bench.weights)):
            pass
        with bench.open(cache=tmp_path / "cache") as model:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            assert load_all(model) == len(SAMPLE)
    with bench.open(cache=tmp_path / "cache") as model:
        assert load_all(model) == len(SAMPLE)
        assert model.traffic.n_fetched == 0
