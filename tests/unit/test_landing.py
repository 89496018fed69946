"""A blob's way into a file: any order, any interruption, never other bytes than its digest's."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import subprocess
import threading
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ocimodel.errors import IntegrityError, RegistryError, TargetError
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.digest import sha256
from ocimodel.store.copy import copy
from ocimodel.store.growing import GrowingFile
from ocimodel.store.landing import PART_BYTES, FileLanding
from ocimodel.store.layout import PARTIAL, Layout
from ocimodel.store.memory import MemoryStore
from tests.artifacts import MIB, Recorder, put_blob, put_model, random_bytes

FORK = multiprocessing.get_context("fork")
BIG = random_bytes(2 * PART_BYTES + 3 * MIB + 1, 11)
PARTS = [(0, PART_BYTES), (PART_BYTES, PART_BYTES), (2 * PART_BYTES, 3 * MIB + 1)]


class Place:
    """A folder to land in, and where the file is delivered."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "partial"
        self.final = root / "final"

    def land(self, what: Descriptor, source: Recorder) -> FileLanding:
        def deliver() -> None:
            file.seal()
            file.path.replace(self.final)
            file.delivered()

        file = GrowingFile(self.growing(what), what.size)
        return FileLanding(file, what, source, deliver)

    def growing(self, what: Descriptor) -> Path:
        return self.folder / what.digest.partition(":")[2]

    def journal(self, what: Descriptor) -> Path:
        return self.growing(what).with_suffix(".ranges")

    def left(self) -> list[str]:
        return sorted(p.name for p in self.folder.iterdir()) if self.folder.exists() else []


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def source() -> Recorder:
    return Recorder(MemoryStore())


def blob(source: Recorder, content: bytes) -> Descriptor:
    return Descriptor("application/x", put_blob(source.store, content), len(content))


def nothing(n_bytes: int) -> None:
    """Who does not care for progress."""


def transfer_all(landing: FileLanding) -> int:
    moved: list[int] = []
    for part in landing.parts:
        landing.transfer(*part, moved.append)
    return sum(moved)


# the whole way


def test_parts_cover_the_blob(place: Place, source: Recorder) -> None:
    landing = place.land(blob(source, BIG), source)
    assert list(landing.parts) == PARTS
    assert not landing.resumed
    assert transfer_all(landing) == len(BIG)
    assert not place.final.exists(), "visible before its commit"
    landing.commit()
    assert place.final.read_bytes() == BIG
    assert place.left() == []
    # the first answer was used, not thrown away
    assert [(start, length) for _, start, length in source.asked] == PARTS


@pytest.mark.parametrize("n_bytes", [0, 1, PART_BYTES, PART_BYTES + 1])
def test_sizes_at_the_edges(place: Place, source: Recorder, n_bytes: int) -> None:
    landing = place.land(blob(source, BIG[:n_bytes]), source)
    assert sum(length for _, length in landing.parts) == n_bytes
    transfer_all(landing)
    landing.commit()
    assert place.final.read_bytes() == BIG[:n_bytes]


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(order=st.permutations(range(len(PARTS))), n_threads=st.integers(1, 3))
def test_parts_in_any_order_from_any_thread(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], n_threads: int
) -> None:
    place, source = Place(tmp_path_factory.mktemp("order")), Recorder(MemoryStore())
    landing = place.land(blob(source, BIG), source)
    waiting = [landing.parts[i] for i in order]
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                if not waiting:
                    return
                part = waiting.pop()
            landing.transfer(*part, nothing)

    threads = [threading.Thread(target=work) for _ in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    landing.commit()
    assert place.final.read_bytes() == BIG
    place.final.unlink()


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), cuts=st.sets(st.integers(1, 99_999), max_size=12))
def test_stretches_of_any_length_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, cuts: set[int]
) -> None:
    content = BIG[:100_000]
    place, source = Place(tmp_path_factory.mktemp("cuts")), Recorder(MemoryStore())
    landing = place.land(blob(source, content), source)
    edges = [0, *sorted(cuts), len(content)]
    stretches = list(itertools.pairwise(edges))
    for start, end in data.draw(st.permutations(stretches)):
        landing.transfer(start, end - start, nothing)
    landing.commit()
    assert place.final.read_bytes() == content


# resuming


def test_a_rerun_asks_for_what_is_missing(place: Place, source: Recorder) -> None:
    what = blob(source, BIG)
    first = place.land(what, source)
    first.transfer(*PARTS[1], nothing)
    first.close()
    assert len(place.left()) == 2

    source.asked.clear()
    again = place.land(what, source)
    assert again.resumed
    assert list(again.parts) == [PARTS[0], PARTS[2]]
    transfer_all(again)
    again.commit()
    assert place.final.read_bytes() == BIG
    assert [(start, length) for _, start, length in source.asked] == [PARTS[0], PARTS[2]]
    assert place.left() == []


def test_all_but_the_commit_was_done(place: Place, source: Recorder) -> None:
    what = blob(source, BIG)
    first = place.land(what, source)
    transfer_all(first)
    first.close()
    source.asked.clear()
    again = place.land(what, source)
    assert (list(again.parts), source.asked) == ([], [])
    again.commit()
    assert place.final.read_bytes() == BIG


@pytest.mark.parametrize(
    "journal",
    [
        b"",
        b"garbage",
        b"\xff\xfe",
        b"0 10\n5 10\n",
        b"-5 10\n",
        b"0 -1\n",
        b"0 0\n",
        b"0 99999999999\n",
        b"1\n",
        b"1 2 3\n",
        b"0 1677" + b"7216" * 400 + b"\n",
    ],
)
def test_an_odd_journal_is_not_believed(place: Place, source: Recorder, journal: bytes) -> None:
    content = BIG[: PART_BYTES + 5]
    what = blob(source, content)
    place.folder.mkdir()
    place.growing(what).write_bytes(b"\0" * len(content))
    place.journal(what).write_bytes(journal)
    landing = place.land(what, source)
    assert not landing.resumed
    transfer_all(landing)
    landing.commit()
    assert place.final.read_bytes() == content


def lie(folder: Path, what: Descriptor) -> None:
    folder.mkdir(exist_ok=True)
    growing = folder / what.digest.partition(":")[2]
    growing.write_bytes(b"\0" * what.size)
    growing.with_suffix(".ranges").write_text(f"0 {PART_BYTES}\n")


def test_a_lying_journal_costs_time_and_no_more(place: Place, source: Recorder) -> None:
    what = blob(source, BIG)
    lie(place.folder, what)
    landing = place.land(what, source)
    assert landing.resumed
    transfer_all(landing)
    with pytest.raises(IntegrityError):
        landing.commit()
    assert not place.final.exists()
    assert place.left() == []


def test_copy_recovers_from_a_lying_journal(tmp_path: Path) -> None:
    origin = MemoryStore()
    root = put_model(origin, {"big": BIG})
    layout = Layout(tmp_path / "layout", create=True)
    lie(layout.path / PARTIAL, root.layers[0])
    report = copy(origin, layout, root)
    assert layout.blob_path(root.layers[0].digest).read_bytes() == BIG
    assert report.bytes_transferred == sum(b.size for b in root.blobs())
    assert list((layout.path / PARTIAL).iterdir()) == []


def test_a_longer_file_from_a_wrong_size_leaves_no_tail(place: Place, source: Recorder) -> None:
    content = BIG[: PART_BYTES + 5]
    what = blob(source, content)
    place.folder.mkdir()
    place.growing(what).write_bytes(content + b"tail")
    place.journal(what).write_text(f"0 {len(content)}\n")
    landing = place.land(what, source)
    transfer_all(landing)
    landing.commit()
    assert place.final.read_bytes() == content


# sources that misbehave


@pytest.mark.parametrize("resume", [False, True])
def test_a_source_without_ranges_is_read_once(place: Place, source: Recorder, resume: bool) -> None:
    what = blob(source, BIG)
    if resume:
        first = place.land(what, source)
        first.transfer(*PARTS[0], nothing)
        first.close()
    source.whole, source.n_bytes_read = True, 0
    landing = place.land(what, source)
    assert list(landing.parts) == [(0, len(BIG))]
    assert not landing.resumed
    assert transfer_all(landing) == len(BIG)
    landing.commit()
    assert place.final.read_bytes() == BIG
    assert source.n_bytes_read == len(BIG)


def test_one_answer_without_a_range_among_others(place: Place, source: Recorder) -> None:
    what = blob(source, BIG)
    landing = place.land(what, source)
    landing.transfer(*PARTS[0], nothing)
    source.whole = True
    landing.transfer(*PARTS[1], nothing)
    source.whole = False
    landing.transfer(*PARTS[2], nothing)
    landing.commit()
    assert place.final.read_bytes() == BIG


def test_a_source_that_ends_early(place: Place, source: Recorder) -> None:
    what = blob(source, BIG)
    source.short.add(what.digest)
    landing = place.land(what, source)
    with pytest.raises(IntegrityError, match="ended"):
        transfer_all(landing)
    landing.close()
    source.short.clear()
    again = place.land(what, source)
    assert list(again.parts) == PARTS[2:]
    transfer_all(again)
    again.commit()
    assert place.final.read_bytes() == BIG


def test_a_commit_without_all_parts_is_refused(place: Place, source: Recorder) -> None:
    landing = place.land(blob(source, BIG), source)
    landing.transfer(*PARTS[0], nothing)
    landing.transfer(*PARTS[2], nothing)
    with pytest.raises(IntegrityError):
        landing.commit()
    assert not place.final.exists()


def test_wrong_bytes_are_not_delivered(place: Place, source: Recorder) -> None:
    what = blob(source, BIG)
    source.swapped[what.digest] = BIG[:-1] + bytes([BIG[-1] ^ 1])
    landing = place.land(what, source)
    transfer_all(landing)
    with pytest.raises(IntegrityError) as caught:
        landing.commit()
    assert what.digest in str(caught.value)
    assert caught.value.hint
    assert (place.final.exists(), place.left()) == (False, [])


def test_an_answer_longer_than_the_blob_is_refused_before_it_is_written(
    place: Place, source: Recorder
) -> None:
    what = blob(source, BIG[:MIB])

    class Flood(Recorder):
        def open(self, what: Descriptor, start: int = 0, length: int | None = None):  # type: ignore[no-untyped-def]
            reader = super().open(what, start, length)
            reader.start, reader.length = 0, 1 << 50
            return reader

    with pytest.raises(IntegrityError):
        place.land(what, Flood(source.store))
    assert not any(p.stat().st_size for p in place.folder.iterdir())


def test_an_abandoned_landing_leaves_nothing(place: Place, source: Recorder) -> None:
    landing = place.land(blob(source, BIG), source)
    landing.transfer(*PARTS[0], nothing)
    landing.abandon()
    assert place.left() == []


def test_a_source_that_fails_at_once_holds_no_lock(place: Place, source: Recorder) -> None:
    what = blob(source, BIG)
    dying = Recorder(MemoryStore())
    with pytest.raises(KeyError):
        place.land(what, dying)
    # would wait for ever, were the file still locked
    landing = place.land(what, source)
    transfer_all(landing)
    landing.commit()
    assert place.final.read_bytes() == BIG


def test_a_failed_delivery_holds_no_lock(tmp_path: Path) -> None:
    origin = MemoryStore()
    root = put_model(origin, {"big": BIG[:MIB]})
    layout = Layout(tmp_path / "layout", create=True)
    blobs = layout.path / "blobs"
    (blobs / "sha256").rmdir()
    blobs.rmdir()
    blobs.write_text("in the way")
    with pytest.raises(TargetError):
        copy(origin, layout, root)
    blobs.unlink()
    (blobs / "sha256").mkdir(parents=True)
    copy(origin, layout, root)
    assert layout.blob_path(root.layers[0].digest).read_bytes() == BIG[:MIB]


# several processes, and their death


def _copy_in_child(path: Path, gate: Connection) -> None:
    origin = MemoryStore()
    root = put_model(origin, {"big": BIG})
    layout = Layout(path, create=True)
    gate.send("ready")
    gate.recv()
    copy(origin, layout, root, tag=f"t{os.getpid()}")
    gate.send("done")


def test_two_processes_land_the_same_blob(tmp_path: Path) -> None:
    path = tmp_path / "layout"
    children, gates = [], []
    for _ in range(2):
        here, there = FORK.Pipe()
        child = FORK.Process(target=_copy_in_child, args=(path, there))
        child.start()
        children.append(child)
        gates.append(here)
    for gate in gates:
        assert gate.recv() == "ready"
    for gate in gates:
        gate.send("go")
    for child in children:
        child.join(30)
    assert [child.exitcode for child in children] == [0, 0]
    layout = Layout(path)
    root = layout.manifest(layout.tags()[0])
    assert layout.blob_path(root.blobs()[1].digest).read_bytes() == BIG
    assert list(layout.tags()) == sorted(f"t{child.pid}" for child in children)
    assert list((path / PARTIAL).iterdir()) == []


def _land_two_parts_and_wait(folder: Path, gate: Connection) -> None:
    source = Recorder(MemoryStore())
    landing = Place(folder).land(blob(source, BIG), source)
    landing.transfer(*PARTS[2], nothing)

    def half_way(n_bytes: int) -> None:
        gate.send(n_bytes)
        gate.recv()

    landing.transfer(*PARTS[0], nothing)
    landing.transfer(*PARTS[1], half_way)


def test_a_killed_process_is_resumed(place: Place, source: Recorder, tmp_path: Path) -> None:
    here, there = FORK.Pipe()
    child = FORK.Process(target=_land_two_parts_and_wait, args=(tmp_path, there))
    child.start()
    # it is in the middle of a part, its first bytes written
    assert here.recv() > 0
    assert child.pid
    os.kill(child.pid, signal.SIGKILL)
    child.join(30)
    assert child.exitcode == -signal.SIGKILL

    landing = place.land(blob(source, BIG), source)
    assert landing.resumed
    assert list(landing.parts) == [PARTS[1]]
    transfer_all(landing)
    landing.commit()
    assert place.final.read_bytes() == BIG
    assert source.n_bytes_read == PARTS[1][1]
    assert place.left() == []


def _hold(folder: Path, gate: Connection) -> None:
    source = Recorder(MemoryStore())
    landing = Place(folder).land(blob(source, BIG), source)
    gate.send("held")
    gate.recv()
    transfer_all(landing)
    landing.commit()


def test_the_second_waits_for_the_first(tmp_path: Path, place: Place, source: Recorder) -> None:
    here, there = FORK.Pipe()
    child = FORK.Process(target=_hold, args=(tmp_path, there))
    child.start()
    assert here.recv() == "held"
    what = blob(source, BIG)
    landings: list[FileLanding] = []
    waiter = threading.Thread(target=lambda: landings.append(place.land(what, source)))
    waiter.start()
    assert landings == []
    here.send("go on")
    waiter.join(30)
    child.join(30)
    # the first has delivered; the second has a fresh file and starts over
    assert place.final.read_bytes() == BIG
    assert not landings[0].resumed
    assert place.left() == [place.growing(what).name]
    landings[0].abandon()
    assert place.left() == []


# places that cannot be written to


def test_a_full_disk(small_disk: Path, source: Recorder) -> None:
    place = Place(small_disk)
    landing = place.land(blob(source, BIG), source)
    with pytest.raises(TargetError) as caught:
        landing.transfer(*PARTS[0], nothing)
    landing.close()
    assert "No space left" in str(caught.value)
    assert "free some space" in caught.value.hint
    for name in place.left():
        (place.folder / name).unlink()
    small = place.land(blob(source, BIG[:MIB]), source)
    transfer_all(small)
    small.commit()
    assert place.final.read_bytes() == BIG[:MIB]


def test_a_full_disk_ends_a_copy_with_the_declared_error(small_disk: Path) -> None:
    origin = MemoryStore()
    root = put_model(origin, {"small": BIG[:MIB], "big": BIG})
    layout = Layout(small_disk / "layout", create=True)
    with pytest.raises(TargetError):
        copy(origin, layout, root, tag="v1")
    assert list(layout.tags()) == []


def test_a_read_only_file_system(small_disk: Path, source: Recorder) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(TargetError) as caught:
        Place(small_disk).land(blob(source, BIG), source)
    assert "read-only" in caught.value.hint
    with pytest.raises(TargetError):
        Layout(small_disk / "layout", create=True)


def test_a_folder_that_is_a_file(place: Place, source: Recorder) -> None:
    place.folder.write_text("in the way")
    with pytest.raises(TargetError):
        place.land(blob(source, BIG), source)


@pytest.mark.parametrize("suffix", ["", ".ranges"])
def test_links_are_not_written_through(place: Place, source: Recorder, suffix: str) -> None:
    what = blob(source, BIG[:MIB])
    outside = place.final.with_name("outside")
    outside.write_text("precious")
    place.folder.mkdir()
    place.growing(what).with_suffix(suffix).symlink_to(outside)
    try:
        landing = place.land(what, source)
        transfer_all(landing)
        landing.commit()
    except TargetError:
        assert suffix == ""
    assert outside.read_text() == "precious"


def test_the_error_of_a_dying_source_is_passed_on(place: Place, source: Recorder) -> None:
    what = blob(source, BIG)
    source.n_bytes_left[what.digest] = PART_BYTES + MIB
    landing = place.land(what, source)
    landing.transfer(*PARTS[0], nothing)
    with pytest.raises(RegistryError):
        landing.transfer(*PARTS[1], nothing)
    landing.close()
    del source.n_bytes_left[what.digest]
    assert list(place.land(what, source).parts) == PARTS[1:]
    assert sha256(place.growing(what).read_bytes()[:PART_BYTES]) == sha256(BIG[:PART_BYTES])
