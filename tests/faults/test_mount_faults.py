"""Registries that die, bytes that lie and processes that are killed under a mount."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path

import pytest

from ocimodel.ops.open import open as open_model
from ocimodel.ops.push import pack, push
from ocimodel.spec.descriptor import Descriptor
from tests.cached import flip
from tests.conftest import need
from tests.mounts import mounted, need_fuse, until
from tests.servers.fault_proxy import FaultProxy
from tests.servers.faults import Stall
from tests.servers.models import generated_model
from tests.servers.registry import DockerRegistry
from tests.trees import MIB, patient, read_tree, write_tree

WEIGHTS = "model.safetensors"
STEP, PAGE = 64 << 10, os.sysconf("SC_PAGE_SIZE")
# fails soon where nobody answers
FAST = ("--retries", 0, "--timeout", 5)


@pytest.fixture(scope="module", autouse=True)
def fuse() -> None:
    need_fuse()


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[DockerRegistry]:
    """A registry of its own, to be stopped and started."""
    need("docker-registry")
    with DockerRegistry(tmp_path / "registry") as registry:
        yield registry


@pytest.fixture
def model(tmp_path: Path) -> Path:
    root = write_tree(tmp_path / "model", {"config.json": b"{}", "tokenizer.json": b"[]" * 999})
    generated_model(root / WEIGHTS, 24 * MIB, 12, seed=3)
    return root


def test_a_registry_that_dies_after_completion(
    mortal: DockerRegistry, model: Path, tmp_path: Path
) -> None:
    name = f"{mortal.host}/m:v1"
    push(model, name, client=patient())
    with mounted(name, tmp_path / "work", *FAST) as mount:
        mount.complete()
        mortal.process.stop()
        assert read_tree(mount.path) == read_tree(model)
        mount.end()


def test_a_registry_that_dies_before_and_comes_back(
    mortal: DockerRegistry, model: Path, tmp_path: Path
) -> None:
    """An I/O error meanwhile; afterwards all is well, and completion goes on by itself."""
    name = f"{mortal.host}/m:v1"
    push(model, name, client=patient())
    with mounted(name, tmp_path / "work", *FAST, "--no-complete") as mount:
        mortal.process.stop()
        for path in (WEIGHTS, "config.json"):
            with pytest.raises(OSError) as caught:
                (mount.path / path).read_bytes()
            assert caught.value.errno == errno.EIO
        assert WEIGHTS in mount.errors
        mortal.process.start()
        assert read_tree(mount.path) == read_tree(model)
        mount.end()


def test_completion_survives_an_outage(
    mortal: DockerRegistry,
    fault_proxy: Callable[..., FaultProxy],
    model: Path,
    tmp_path: Path,
) -> None:
    push(model, f"{mortal.host}/m:v1", client=patient())
    proxy = fault_proxy(mortal)
    release = threading.Event()
    proxy.add(Stall(release), path="/blobs/", times=None, skip=2)
    with mounted(f"{proxy.host}/m:v1", tmp_path / "work", *FAST) as mount:
        until(lambda: proxy.count("GET", "/blobs/") >= 3, "completion under way")
        mortal.process.stop()
        proxy.clear()
        release.set()
        until(lambda: "held up" in mount.errors, "a notice")
        mortal.process.start()
        mount.complete()
        mortal.process.stop()
        assert read_tree(mount.path) == read_tree(model)
        assert mount.errors.count("held up") == 1
        mount.end()


def chunks(layout: str, path: str) -> tuple[Descriptor, list[int]]:
    """The blob of a file, and where its chunks begin, with the end."""
    with open_model(layout) as opened:
        (file,) = [f for f in opened.model_files if f.path == path]
        cut = opened._index.chunks(file.layer)
    assert cut is not None
    return file.layer, [0, *accumulate(cut.lengths)]


@pytest.mark.parametrize("complete", [False, True], ids=["on demand", "completing"])
def test_every_chunk_flipped_in_turn(model: Path, tmp_path: Path, complete: bool) -> None:
    """EIO for what has a wrong byte, the right bytes for all else."""
    layout = f"oci:{tmp_path / 'layout'}:v1"
    pack(model, layout, client=patient())
    layer, edges = chunks(layout, WEIGHTS)
    assert len(edges) > 6
    blob = tmp_path / "layout/blobs/sha256" / layer.digest[7:]
    blob.chmod(0o644)
    wanted = (model / WEIGHTS).read_bytes()
    for number in range(len(edges) - 1):
        start, stop = edges[number : number + 2]
        at = start + (stop - start) * number // len(edges)
        flip(blob, at)
        options = () if complete else ("--no-complete",)
        with mounted(layout, tmp_path / f"work{number}", *options) as mount:
            fd = os.open(mount.path / WEIGHTS, os.O_RDONLY)
            try:
                for low in range(0, len(wanted), STEP):
                    # the kernel reads whole pages, and ends a read before one that it cannot have
                    high = min(low + STEP, len(wanted))
                    is_near = start - PAGE < high and low < stop + PAGE
                    try:
                        found = os.pread(fd, STEP, low)
                    except OSError as error:
                        assert error.errno == errno.EIO
                        found = b""
                    assert found == wanted[low : low + len(found)], (number, low)
                    assert len(found) == high - low or is_near, (number, low)
                with pytest.raises(OSError) as caught:
                    os.pread(fd, 1, at)
                assert caught.value.errno == errno.EIO
            finally:
                os.close(fd)
            assert layer.digest in mount.errors
            mount.end()
        flip(blob, at)
    assert hashlib.sha256(blob.read_bytes()).hexdigest() == layer.digest[7:]


def test_wrong_bytes_on_disk_are_fetched_again(
    mortal: DockerRegistry, model: Path, tmp_path: Path
) -> None:
    """Of a finished blob that somebody wrote to after it was verified."""
    name = f"{mortal.host}/m:v1"
    push(model, name, client=patient())
    cache = tmp_path / "cache"
    with mounted(name, tmp_path / "a", "--cache", cache) as mount:
        mount.complete()
        until(lambda: len(list((cache / "blobs/sha256").iterdir())) == 3, "published")
        mount.end()
    for blob in (cache / "blobs/sha256").iterdir():
        flip(blob, 1)
    with mounted(name, tmp_path / "b", "--cache", cache) as mount:
        assert read_tree(mount.path) == read_tree(model)
        mount.end()


def test_after_a_kill_the_next_mount_works(
    mortal: DockerRegistry, model: Path, tmp_path: Path
) -> None:
    name = f"{mortal.host}/m:v1"
    push(model, name, client=patient())
    options = (*FAST, "--cache", tmp_path / "cache")
    with mounted(name, tmp_path / "work", *options) as mount:
        mount.complete()
        mount.process.send_signal(signal.SIGKILL)
        mount.process.wait()
        with pytest.raises(OSError) as caught:
            (mount.path / "config.json").read_bytes()
        assert caught.value.errno == errno.ENOTCONN
        mount.ready.unlink()
        with mounted(name, tmp_path / "work", *options) as again:
            assert "whose process is gone" in again.errors
            mortal.process.stop()
            assert read_tree(again.path) == read_tree(model)
            again.end()


def test_killed_while_it_completes(
    mortal: DockerRegistry,
    fault_proxy: Callable[..., FaultProxy],
    model: Path,
    tmp_path: Path,
) -> None:
    """What another process with the same cache had begun is taken over."""
    push(model, f"{mortal.host}/m:v1", client=patient())
    proxy = fault_proxy(mortal)
    name = f"{proxy.host}/m:v1"
    release = threading.Event()
    proxy.add(Stall(release, after_bytes=5 * MIB), path="/blobs/", times=1, skip=3)
    cache = tmp_path / "cache"
    with (
        mounted(name, tmp_path / "a", "--cache", cache) as first,
        mounted(name, tmp_path / "b", "--cache", cache) as second,
    ):
        until(lambda: proxy.count("GET", "/blobs/") >= 4, "completion under way")
        first.process.send_signal(signal.SIGKILL)
        release.set()
        assert read_tree(second.path) == read_tree(model)
        second.complete()
        second.end()
