"""Killed in the middle: what was finished is not moved again, and the result is the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from ocimodel.ops.pull import pull
from ocimodel.ops.push import pack, push
from ocimodel.spec.manifest import Manifest
from ocimodel.spec.paths import PARTIAL
from ocimodel.spec.segments import files_of
from tests.faults.conftest import Bench
from tests.servers.faults import Action, Reply, Request, Reset
from tests.servers.models import GeneratedModel, generated, generated_model
from tests.trees import MIB, noise, patient, read_tree, settled, write_tree

BIG = 64 * MIB
HOLD_S = 60
ROOT = Path(__file__).resolve().parents[2]
PULL = """
import sys
import ocimodel.store.copy
# a fast link would have one request for all the rest
ocimodel.store.copy.LONG_PART_BYTES = 0
from ocimodel.events import Notice
from ocimodel.ops.pull import pull
def tell(event):
    if isinstance(event, Notice):
        print(event.message, flush=True)
pull(sys.argv[1], sys.argv[2], concurrency=int(sys.argv[3]), observer=tell)
"""
PUSH = """
import sys
from ocimodel.ops.push import push
push(sys.argv[1], sys.argv[2], concurrency=1)
"""
PACK = """
import sys, threading
from ocimodel.events import BlobStarted
from ocimodel.ops.push import pack
begun = []
def hold(event):
    # with one stream the first blob is in place when the second one begins
    if isinstance(event, BlobStarted) and (begun.append(event) or len(begun) == 2):
        print("reached", flush=True)
        threading.Event().wait()
pack(sys.argv[1], sys.argv[2], concurrency=1, observer=hold)
"""


@dataclass(frozen=True)
class Hold(Action):
    """Tell the test after so many bytes of a body, and hold it until the test says so.

    `upload`: of the request's body, which then goes nowhere.
    """

    after_bytes: int
    upload: bool = False
    reached: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)

    def before(self, request: Request) -> Reply | None:
        if not self.upload:
            return None
        request.read(self.after_bytes)
        self.reached.set()
        self.release.wait(HOLD_S)
        raise Reset

    def after(self, request: Request, reply: Reply) -> Reply:
        return replace(reply, blocks=self._held(reply.blocks))

    def _held(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        n_bytes = 0
        for block in blocks:
            if n_bytes >= self.after_bytes and not self.reached.is_set():
                self.reached.set()
                self.release.wait(HOLD_S)
            n_bytes += len(block)
            yield block


@contextmanager
def child(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Python code in a process of its own, ended whatever happens."""
    argv = [sys.executable, "-c", code, *map(str, arguments)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            yield process
        finally:
            process.kill()


def kill(process: subprocess.Popen[str], hold: Hold) -> None:
    """kill -9 once the transfer has come to where it is held."""
    assert hold.reached.wait(HOLD_S)
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    hold.release.set()


@pytest.fixture
def big(empty: Bench) -> Bench:
    """One big file beside the small ones, pushed."""
    generated(empty.model / "big.bin", BIG, seed=17)
    push(empty.model, empty.direct, client=patient())
    return empty


def test_a_killed_pull_resumes_inside_a_blob(big: Bench) -> None:
    hold = Hold(MIB)
    # one stream: when the third range is under way, two are in the journal
    big.proxy.add(hold, method="GET", path=big.blob("big.bin"), skip=2)
    with child(PULL, big.reference, big.target, 1) as process:
        kill(process, hold)
    assert "big.bin" not in settled(big.target)
    assert (big.target / PARTIAL).is_dir()
    big.assert_nothing_wrong()
    first = sum(e.response_bytes for e in big.proxy.select("GET", big.blob("big.bin")))
    result = big.assert_heals()
    second = big.proxy.downloaded()
    total = sum(f.size for f in result.files)
    assert second <= total - 32 * MIB
    assert first + second < 1.5 * total
    assert result.bytes_reused >= 32 * MIB
    assert not (big.target / PARTIAL).exists()


def test_a_killed_pull_resumes_at_finished_blobs(bench: Bench) -> None:
    hold = Hold(2 * MIB)
    bench.proxy.add(hold, method="GET", path=bench.blob("b.bin"))
    with child(PULL, bench.reference, bench.target, 1) as process:
        kill(process, hold)
    assert settled(bench.target) == {"a.bin"}
    result = bench.assert_heals()
    assert bench.proxy.count("GET", bench.blob("a.bin")) == 0
    assert bench.proxy.downloaded() == result.bytes_fetched < 4 * MIB


def test_a_killed_push_sends_only_what_is_missing(empty: Bench) -> None:
    write_tree(empty.model, {"c.bin": noise(5 * MIB, 31)})
    hold = Hold(MIB, upload=True)
    # three blobs of six are through when the fourth is held
    empty.proxy.add(hold, method="PUT", path="/blobs/uploads/", skip=3)
    with child(PUSH, empty.model, empty.reference) as process:
        kill(process, hold)
    sent = {e.path for e in empty.proxy.select("PUT", "/blobs/uploads/") if e.status == 201}
    assert len(sent) == 3
    assert empty.proxy.count("PUT", "/manifests/") == 0
    empty.proxy.clear()
    result = push(empty.model, empty.reference, client=patient())
    assert empty.proxy.count("PUT", "/blobs/uploads/") == 3
    assert empty.proxy.uploaded() == result.bytes_pushed
    assert result.bytes_skipped > 0
    empty.pull()
    assert read_tree(empty.target) == read_tree(empty.model)


def test_a_killed_pack_leaves_a_layout_that_packs(bench: Bench, tmp_path: Path) -> None:
    reference = f"oci:{tmp_path / 'layout'}:v1"
    with child(PACK, bench.model, reference) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "reached\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
    result = pack(bench.model, reference, client=patient())
    assert result.digest == bench.digest
    assert 0 < result.bytes_pushed < result.size
    pull(reference, bench.target, client=patient())
    assert read_tree(bench.target) == read_tree(bench.model)


def test_two_pulls_into_one_directory(bench: Bench) -> None:
    """The second waits for the first, and then has nothing left to fetch."""
    hold = Hold(MIB)
    bench.proxy.add(hold, method="GET", path=bench.blob("b.bin"))
    with (
        child(PULL, bench.reference, bench.target, 4) as first,
        child(PULL, bench.reference, bench.target, 4) as second,
    ):
        assert hold.reached.wait(HOLD_S)
        # whichever came second says that it waits
        waiting = _first_line(first, second)
        assert "another pull" in waiting
        hold.release.set()
        assert first.wait(HOLD_S) == 0
        assert second.wait(HOLD_S) == 0
    assert read_tree(bench.target) == read_tree(bench.model)
    assert bench.proxy.count("GET", bench.blob("b.bin")) == 1
    assert not (bench.target / PARTIAL).exists()


def _first_line(*processes: subprocess.Popen[str]) -> str:
    """The first line that any of these prints."""
    lines: list[str] = []
    there = threading.Event()

    def read(process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        lines.append(process.stdout.readline())
        there.set()

    for process in processes:
        threading.Thread(target=read, args=(process,), daemon=True).start()
    assert there.wait(HOLD_S)
    return lines[0]


def test_an_interrupt_ends_soon_and_resumes(bench: Bench) -> None:
    """Ctrl-C while the network is silent: exit 130, at once, and a rerun goes on."""
    hold = Hold(2 * MIB)
    bench.proxy.add(hold, method="GET", path=bench.blob("b.bin"))
    argv = [sys.executable, "-m", "ocimodel", "pull", bench.reference, "-o", str(bench.target)]
    with subprocess.Popen(
        argv, stderr=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, "NO_COLOR": "1"}
    ) as process:
        try:
            assert hold.reached.wait(HOLD_S / 4), f"exit {process.poll()}"
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            assert process.wait(HOLD_S) == 130
            assert time.monotonic() - began < 3
            assert process.stderr is not None
            assert "Traceback" not in process.stderr.read()
        finally:
            process.kill()
            hold.release.set()
    assert "b.bin" not in settled(bench.target)
    bench.assert_nothing_wrong()
    bench.assert_heals()


# files that several layers make, and files of which a part was here

N_BYTES = 48 * MIB
N_TENSORS = 60


def put_model(bench: Bench, changed: Callable[[str], bool] = lambda _: False) -> GeneratedModel:
    made = generated_model(
        bench.model / "model.safetensors", N_BYTES, N_TENSORS, seed=5, changed=changed
    )
    push(bench.model, bench.direct, layering="tensor", client=patient())
    return made


def weights_of(bench: Bench) -> str:
    """A regex for the URLs of all segments of the weights."""
    manifest = bench.direct_manifest()
    assert isinstance(manifest, Manifest)
    (file,) = [f for f in files_of(manifest) if f.path == "model.safetensors"]
    assert len(file.layers) > 20
    return "|".join(f"/blobs/{layer.digest}" for layer in file.layers)


def test_a_killed_pull_resumes_among_segments(empty: Bench) -> None:
    """What has come of the one file stays, whichever segments it is."""
    put_model(empty)
    segments = weights_of(empty)
    hold = Hold(1)
    n_before = 12
    empty.proxy.add(hold, method="GET", path=segments, skip=n_before)
    with child(PULL, empty.reference, empty.target, 1) as process:
        kill(process, hold)
    assert "model.safetensors" not in settled(empty.target)
    empty.assert_nothing_wrong()
    asked = {e.path for e in empty.proxy.select("GET", segments)}
    first = sum(e.response_bytes for e in empty.proxy.select("GET", segments))
    result = empty.assert_heals()
    again = empty.proxy.select("GET", segments)
    second = sum(e.response_bytes for e in again)
    # of the segments that had come none was asked for again, but for the one that was held
    assert len({e.path for e in again} & asked) <= 1
    assert first + second <= N_BYTES + 5 * MIB
    assert result.bytes_reused >= 4 * MIB
    assert not (empty.target / PARTIAL).exists()


@pytest.mark.parametrize("layering", ["file", "tensor"])
def test_a_killed_delta_pull_resumes(empty: Bench, layering: str) -> None:
    """What was taken from the old version counts, and so does what was fetched since."""
    made = generated_model(empty.target / "model.safetensors", N_BYTES, N_TENSORS, seed=5)
    old = (empty.target / "model.safetensors").read_bytes()
    names = {n for n in made.shapes if ".mlp." in n}
    changed = generated_model(
        empty.model / "model.safetensors", N_BYTES, N_TENSORS, seed=5, changed=names
    )
    push(empty.model, empty.direct, layering=layering, client=patient())
    path = weights_of(empty) if layering == "tensor" else empty.blob("model.safetensors")
    hold = Hold(1)
    empty.proxy.add(hold, method="GET", path=path, skip=4)
    with child(PULL, empty.reference, empty.target, 1) as process:
        kill(process, hold)
    # the old version stands as it was
    assert (empty.target / "model.safetensors").read_bytes() == old
    first = sum(e.response_bytes for e in empty.proxy.select("GET", path))
    assert 0 < first < changed.changed_bytes
    empty.proxy.clear()
    result = empty.pull()
    assert read_tree(empty.target) == read_tree(empty.model)
    second = sum(e.response_bytes for e in empty.proxy.select("GET", path))
    assert second < changed.changed_bytes - MIB
    assert first + second <= 1.3 * changed.changed_bytes
    assert result.bytes_reused >= N_BYTES - changed.changed_bytes
    assert not (empty.target / PARTIAL).exists()
