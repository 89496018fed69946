"""Completion in the background: its order, what it leaves out, and what it survives."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocimodel.errors import RegistryError
from ocimodel.events import Event, Notice
from ocimodel.lazy.completion import (
    MAX_WAIT_S,
    MIN_WAIT_S,
    Completion,
    Progress,
    _parts,
)
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.profile import MAX_RANGES
from ocimodel.spec.tensor import Tensor
from ocimodel.store.protocol import Reader
from tests.artifacts import Recorder
from tests.cached import flip
from tests.indexed import Weights
from tests.lazy import CONFIG, MIB, Gate, Opened, content, opened, reopened

HOLD_S = 30
N_WEIGHTS = 40 * MIB
WEIGHTS = content(N_WEIGHTS)
TENSOR = Tensor("all", "U8", (N_WEIGHTS,), 0, N_WEIGHTS)
FILES = {"model.bin": Weights(WEIGHTS, "raw", {}, (TENSOR,)), "config.json": CONFIG}


@dataclass
class Later:
    """Time that passes when the test says so."""

    delays: list[float] = field(default_factory=list)
    actions: list[Callable[[], None]] = field(default_factory=list)
    asked: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    n_cancelled: int = 0

    def __call__(self, delay_s: float, action: Callable[[], None]) -> Callable[[], None]:
        self.delays.append(delay_s)
        self.actions.append(action)
        self.asked.release()
        return self.cancel

    def cancel(self) -> None:
        self.n_cancelled += 1

    def pass_by(self) -> None:
        assert self.asked.acquire(timeout=HOLD_S)
        self.actions.pop(0)()


@dataclass
class Mortal(Gate):
    """A source that is gone for the next `n_failures` streams."""

    n_failures: int = 0

    def open(self, what: Descriptor, start: int = 0, length: int | None = None) -> Reader:
        reader = super().open(what, start, length)
        if self.n_failures:
            self.n_failures -= 1
            raise RegistryError("the registry is gone")
        return reader


def model(cache: Path | None, **how: object) -> Opened:
    """Weights in ten chunks, and a configuration, over one stream."""
    chosen = {"cache": cache, "max_streams": 1, "source": Mortal, **how}
    return opened(FILES, **chosen)  # type: ignore[arg-type]


def digest_of(it: Opened, path: str) -> str:
    (file,) = [f for f in it.model.model_files if f.path == path]
    return file.layer.digest


def asked(it: Opened) -> list[tuple[str, int]]:
    """(path, MiB where it starts) of each request, in their order."""
    names = {f.layer.digest: f.path for f in it.model.model_files}
    return [(names[digest], start // MIB) for digest, start, _ in it.source.asked]


def finished(it: Opened, path: str) -> bytes:
    """The file as it lies in the cache."""
    fd = it.model.open_finished(path)
    assert fd is not None
    with os.fdopen(fd, "rb") as file:
        return file.read()


def finish(completion: Completion) -> None:
    completion.start()
    assert completion.done.wait(HOLD_S)


def test_all_of_it_configuration_first(tmp_path: Path) -> None:
    with model(tmp_path) as it:
        completion = Completion(it.model)
        total = N_WEIGHTS + len(CONFIG)
        assert completion.progress == Progress(0, total)
        finish(completion)
        assert asked(it) == [
            ("config.json", 0),
            ("model.bin", 0),
            ("model.bin", 16),
            ("model.bin", 32),
        ]
        assert completion.progress == Progress(total, total)
        assert it.source.n_bytes_read == total
        assert all(completion.has_finished(path) for path in FILES)
        assert finished(it, "model.bin") == WEIGHTS


def test_a_profile_says_what_comes_first(tmp_path: Path) -> None:
    ranges = [
        ("model.bin", 24 * MIB, 4 * MIB),
        ("absent", 0, 5),
        ("model.bin", 0, 4 * MIB),
        ("model.bin", 39 * MIB, 100 * MIB),
    ]
    with model(tmp_path) as it:
        completion = Completion(it.model, ranges)
        finish(completion)
        assert asked(it)[:3] == [("model.bin", 24), ("model.bin", 0), ("model.bin", 36)]
        assert it.source.n_bytes_read == N_WEIGHTS + len(CONFIG)
        assert completion.progress.n_done == completion.progress.n_total


def test_it_goes_on_from_where_somebody_waits(tmp_path: Path) -> None:
    with model(tmp_path) as it:
        source = it.source
        assert isinstance(source, Mortal)
        source.gate.clear()
        completion = Completion(it.model)
        completion.start()
        assert source.is_held.wait(HOLD_S)
        completion.touch("model.bin", 33 * MIB)
        completion.touch("absent", 0)
        source.gate.set()
        assert completion.done.wait(HOLD_S)
        assert asked(it) == [
            ("config.json", 0),
            ("model.bin", 32),
            ("model.bin", 0),
            ("model.bin", 16),
        ]
        # and after the end there is nothing to go on with
        completion.touch("model.bin", 0)


def test_what_is_here_is_not_fetched(tmp_path: Path) -> None:
    with model(tmp_path) as first:
        first.model.files["model.bin"].load(0, 16 * MIB)
        first.model.files["config.json"].load(0, len(CONFIG))
    with reopened(first.source, first.manifest, cache=tmp_path, max_streams=1) as it:
        finish(Completion(it.model))
        assert asked(it) == [("model.bin", 16), ("model.bin", 32)]
    with reopened(first.source, first.manifest, cache=tmp_path) as again:
        completion = Completion(again.model)
        finish(completion)
        assert asked(again) == []
        assert completion.progress.n_done == completion.progress.n_total


def test_an_outage_is_survived(tmp_path: Path) -> None:
    later, told = Later(), list[Event]()
    with model(tmp_path) as it:
        source = it.source
        assert isinstance(source, Mortal)
        source.n_failures = 7
        completion = Completion(it.model, later=later, observer=told.append)
        completion.start()
        for _ in range(7):
            later.pass_by()
        assert completion.done.wait(HOLD_S)
        assert later.delays == [1, 2, 4, 8, 16, 30, 30]
        assert (later.delays[0], later.delays[-1]) == (MIN_WAIT_S, MAX_WAIT_S)
        assert [type(event) for event in told] == [Notice]
        assert completion.progress.n_done == completion.progress.n_total


def test_the_wait_begins_anew_after_a_success(tmp_path: Path) -> None:
    later = Later()
    with model(tmp_path) as it:
        source = it.source
        assert isinstance(source, Mortal)
        source.n_failures = 2
        source.n_bytes_left = {digest_of(it, "model.bin"): 17 * MIB}
        completion = Completion(it.model, later=later)
        completion.start()
        later.pass_by()
        later.pass_by()
        assert later.asked.acquire(timeout=HOLD_S)
        assert later.delays == [1, 2, 1]
        source.n_bytes_left = {}
        later.actions.pop(0)()
        assert completion.done.wait(HOLD_S)


def test_wrong_bytes_are_said_once_and_left(tmp_path: Path) -> None:
    """All else is completed, and nothing of the wrong chunks is kept."""
    told: list[Event] = []
    with model(tmp_path) as it:
        bad = bytearray(WEIGHTS)
        for at in (5 * MIB, 39 * MIB):
            bad[at] ^= 1
        it.source.swapped[digest_of(it, "model.bin")] = bytes(bad)
        completion = Completion(it.model, observer=told.append)
        finish(completion)
        assert len(told) == 1
        assert isinstance(told[0], Notice)
        assert "model.bin" in told[0].message
        file = it.model.files["model.bin"]
        missing = [n for n in range(10) if not file.has(n * 4 * MIB, (n + 1) * 4 * MIB)]
        assert missing == [1, 9]
        assert not completion.has_finished("model.bin")
        assert completion.has_finished("config.json")
        assert completion.progress.n_done < completion.progress.n_total


def test_what_was_damaged_on_disk_is_fetched_again(tmp_path: Path) -> None:
    """The last look at the whole finds it."""
    with model(tmp_path) as it:
        it.model.files["model.bin"].load(0, 16 * MIB)
        partial = tmp_path / "partial" / digest_of(it, "model.bin")[7:]
        flip(partial, 9 * MIB)
        completion = Completion(it.model)
        finish(completion)
        assert completion.has_finished("model.bin")
        assert completion.progress.n_done == completion.progress.n_total
        assert finished(it, "model.bin") == WEIGHTS


def test_without_a_place_to_keep_it(tmp_path: Path) -> None:
    with model(None) as it:
        completion = Completion(it.model)
        finish(completion)
        assert completion.progress.n_done == 0
        assert not completion.has_finished("model.bin")


def test_closed_while_it_waits(tmp_path: Path) -> None:
    later = Later()
    with model(tmp_path) as it:
        source = it.source
        assert isinstance(source, Mortal)
        source.n_failures = 1
        completion = Completion(it.model, later=later)
        completion.start()
        assert later.asked.acquire(timeout=HOLD_S)
        completion.close()
        assert later.n_cancelled == 1
        # too late to be cancelled
        later.actions[0]()
        n_asked = len(it.source.asked)
        assert not completion.done.is_set()
        assert len(it.source.asked) == n_asked == 1


def test_a_model_without_bytes(tmp_path: Path) -> None:
    with opened({"empty": b""}, cache=tmp_path) as it:
        finish(Completion(it.model))


def test_a_blob_that_is_fetched_whole(tmp_path: Path) -> None:
    with opened(FILES, cache=tmp_path, layout={"has_index": False}) as it:
        completion = Completion(it.model)
        finish(completion)
        assert it.source.n_bytes_read == N_WEIGHTS + len(CONFIG)
        assert completion.progress.n_done == completion.progress.n_total
        assert completion.has_finished("model.bin")


def test_an_endpoint_that_ignores_ranges(tmp_path: Path) -> None:
    with opened(FILES, cache=tmp_path) as it:
        assert isinstance(it.source, Recorder)
        it.source.whole = True
        completion = Completion(it.model)
        finish(completion)
        assert completion.progress.n_done == completion.progress.n_total


RANGES = st.lists(st.tuples(st.integers(0, 120), st.integers(1, 60)), max_size=12)


@pytest.mark.parametrize("size", [1, 100])
@given(ranges=RANGES)
def test_the_parts_of_a_file(size: int, ranges: list[tuple[int, int]]) -> None:
    """Each byte is in one part, which has the rank of the first range that wants it."""
    wanted = [(start, start + length, rank) for rank, (start, length) in enumerate(ranges)]
    found = [(at, rank) for start, stop, rank in _parts(size, wanted) for at in range(start, stop)]
    assert found == [
        (at, min((r for low, high, r in wanted if low <= at < high), default=MAX_RANGES))
        for at in range(size)
    ]
