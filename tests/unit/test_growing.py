"""A file that takes shape: what its journal says, what is forgotten, who may write when."""

from __future__ import annotations

import hashlib
import os
import random
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocimodel.errors import TargetError
from ocimodel.spec.chunkindex import BlobChunks
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.digest import sha256
from ocimodel.store.assembly import take_chunks
from ocimodel.store.growing import GrowingFile, Stretch, clip, copy_range
from ocimodel.store.landing import FileLanding
from ocimodel.store.memory import MemoryStore
from ocimodel.store.workers import Workers
from tests.artifacts import MIB, Recorder, random_bytes

SIZE = 1000
CONTENT = random_bytes(SIZE, 5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "partial" / ("ab" * 32)


def journal(path: Path) -> Path:
    return path.with_suffix(".ranges")


def left_behind(path: Path, lines: str | bytes, content: bytes = CONTENT) -> None:
    """What a killed process leaves."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    journal(path).write_bytes(lines.encode() if isinstance(lines, str) else lines)


def done(path: Path, start: int = 0, length: int = SIZE) -> list[Stretch]:
    file = GrowingFile(path, SIZE)
    try:
        return file.done(start, length)
    finally:
        file.close()


def test_what_was_noted_is_done_for_the_next_one(path: Path) -> None:
    file = GrowingFile(path, SIZE)
    file.resize()
    file.write(memoryview(CONTENT)[100:300], 100)
    file.note(100, 200)
    assert file.done(0, SIZE) == [], "this attempt has its own account of what it writes"
    file.keep(500, 10)
    assert file.done(0, SIZE) == [(500, 10)]
    file.close()
    assert done(path) == [(100, 200), (500, 10)]
    assert done(path, 150, 355) == [(150, 150), (500, 5)]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("0 100\n100 -50\n", [(0, 100)]),
        ("0 100\n0 -100\n", []),
        ("0 100\n50 -10\n", [(0, 50), (60, 40)]),
        ("0 100\n200 100\n50 -200\n", [(0, 50), (250, 50)]),
        ("0 100\n0 -100\n0 40\n", [(0, 40)]),
        ("0 100\n0 -1000\n", []),
        ("200 100\n0 100\n", [(0, 100), (200, 100)]),
        ("5 -5\n0 10\n", [(0, 10)]),
        ("0 1000\n", [(0, 1000)]),
        ("", []),
    ],
)
def test_a_journal_remembers_and_forgets_in_its_order(
    path: Path, lines: str, expected: list[Stretch]
) -> None:
    left_behind(path, lines)
    assert done(path) == expected


@pytest.mark.parametrize(
    "lines",
    [
        "0 100\n50 100\n",  # overlapping
        "0 100\n0 100\n",
        "0 0\n",
        "-5 10\n",
        "0 1001\n",  # more than there is
        "990 11\n",
        "0 100\nx y\n",
        "0 100\n5\n",
        "0 100\n5 5 5\n",
        "0 100 \n1e3 5\n",
        b"0 100\n\xff\n",
        b"\0" * 50,
        "0 " + "9" * 5000 + "\n",
    ],
)
def test_an_odd_journal_says_nothing(path: Path, lines: str | bytes) -> None:
    left_behind(path, lines)
    assert done(path) == []


def test_a_journal_beyond_the_file_says_nothing(path: Path) -> None:
    left_behind(path, "0 600\n", CONTENT[:500])
    assert done(path) == []


def test_a_longer_file_is_cut(path: Path) -> None:
    left_behind(path, "0 10\n", CONTENT + b"more")
    assert done(path) == [(0, 10)]
    assert path.stat().st_size == SIZE


@given(
    st.lists(st.tuples(st.integers(0, 90), st.integers(-100, 100).filter(bool)), max_size=8),
    st.integers(0, 100),
    st.integers(0, 100),
)
def test_any_history_is_counted_right_or_not_believed(
    tmp_path_factory: pytest.TempPathFactory, history: list[Stretch], start: int, length: int
) -> None:
    """Byte by byte: nothing is done that was not written, or was forgotten since."""
    path = tmp_path_factory.mktemp("history") / "f"
    left_behind(path, "".join(f"{a} {n}\n" for a, n in history), CONTENT[:100])
    written: set[int] = set()
    for at, n in history:
        touched = set(range(at, at + abs(n)))
        written = written | touched if n > 0 else written - touched
    file = GrowingFile(path, 100)
    found = file.done(0, 100)
    inside = file.done(start, length)
    file.close()
    assert bytes_of(found) in (written, set())
    assert bytes_of(inside) == bytes_of(found) & set(range(start, start + length))


def bytes_of(stretches: list[Stretch]) -> set[int]:
    return {position for at, n in stretches for position in range(at, at + n)}


def test_clip() -> None:
    stretches = [(0, 10), (20, 10), (40, 10)]
    assert clip(stretches, 5, 20) == [(5, 5), (20, 5)]
    assert clip(stretches, 10, 10) == []
    assert clip(stretches, 0, 100) == stretches
    assert clip(stretches, 22, 3) == [(22, 3)]


def test_what_turned_out_wrong_is_forgotten_for_good(path: Path) -> None:
    left_behind(path, "0 500\n600 100\n")
    file = GrowingFile(path, SIZE)
    file.forget(100, 550)
    assert file.done(0, SIZE) == [(0, 100), (650, 50)]
    file.keep(200, 100)
    file.close()
    assert done(path) == [(0, 100), (200, 100), (650, 50)]
    file = GrowingFile(path, SIZE)
    file.forget(0, SIZE)
    assert file.done(0, SIZE) == []
    assert not journal(path).exists()
    file.close()
    assert done(path) == []


def test_it_goes_with_its_journal(path: Path) -> None:
    left_behind(path, "0 500\n")
    GrowingFile(path, SIZE).remove()
    assert list(path.parent.iterdir()) == []


def test_a_delivered_file_leaves_no_journal_and_no_lock(path: Path, tmp_path: Path) -> None:
    left_behind(path, "0 500\n")
    file = GrowingFile(path, SIZE)
    file.seal()
    path.replace(tmp_path / "final")
    file.delivered()
    assert list(path.parent.iterdir()) == []
    # the next one gets a new file, not the delivered one
    assert done(path) == []
    assert (tmp_path / "final").read_bytes() == CONTENT


def test_a_journal_that_cannot_be_written_is_no_error(path: Path) -> None:
    file = GrowingFile(path, SIZE)
    journal(path).mkdir()
    file.keep(0, 10)
    assert file.done(0, SIZE) == [(0, 10)]
    file.close()
    assert done(path) == []


def test_bytes_are_taken_from_another_file(path: Path, tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(CONTENT)
    file = GrowingFile(path, SIZE)
    file.resize()
    with (tmp_path / "old").open("rb") as old:
        assert file.take(old.fileno(), 300, 700, 200)
        assert not file.take(old.fileno(), 900, 0, 200), "the origin ends early"
    file.close()
    assert path.read_bytes()[700:900] == CONTENT[300:500]


def test_bytes_are_taken_across_file_systems(small_disk: Path, tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(CONTENT)
    with (tmp_path / "old").open("rb") as old, (small_disk / "new").open("w+b") as new:
        assert copy_range(old.fileno(), 10, new.fileno(), 5, 900)
        assert not copy_range(old.fileno(), 990, new.fileno(), 0, 20)
        new.seek(5 + 10)
        assert new.read() == CONTENT[20:910]


def test_a_full_disk_is_named(small_disk: Path) -> None:
    path = small_disk / "growing"
    file = GrowingFile(path, 8 * MIB)
    with pytest.raises(TargetError, match="growing") as caught:
        file.write(memoryview(bytes(8 * MIB)), 0)
    assert "free some space" in caught.value.hint
    file.close()


def test_many_threads_keep_and_forget(path: Path) -> None:
    """What each does to its own stretch is what holds, whatever the others do."""
    n_threads, n_rounds = 8, 50
    file = GrowingFile(path, n_threads * n_rounds * 10)
    file.resize()

    def work(number: int) -> None:
        base = number * n_rounds * 10
        for i in range(n_rounds):
            file.keep(base + 10 * i, 10)
            if i % 2:
                file.forget(base + 10 * i, 10)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(n_threads)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    expected = [(20 * i, 10) for i in range(n_threads * n_rounds // 2)]
    assert file.done(0, file.size) == expected
    file.close()
    again = GrowingFile(path, file.size)
    assert again.done(0, file.size) == expected
    again.close()


# chunks that are here already


@dataclass
class Shelf:
    """A `ChunkFinder` over bytes in memory."""

    chunks: dict[bytes, bytes] = field(default_factory=dict)
    given: list[int] = field(default_factory=list)

    def put(self, content: bytes) -> None:
        self.chunks[hashlib.sha256(content).digest()] = content

    def copy_chunk(self, digest: bytes, length: int, out_fd: int, out_offset: int) -> bool:
        content = self.chunks.get(digest, b"")
        if len(content) != length:
            return False
        os.pwrite(out_fd, content, out_offset)
        self.given.append(out_offset)
        return True


def test_chunks_fill_what_is_not_done_yet(path: Path) -> None:
    """Neighbours make one stretch; what is done in part is left to the network."""
    chunks = [CONTENT[i : i + 100] for i in range(0, 800, 100)]
    blob = BlobChunks((100,) * 8, b"".join(hashlib.sha256(c).digest() for c in chunks))
    # an earlier attempt has all of chunk 1, and the beginning of chunk 4
    left_behind(path, "200 100\n500 30\n", bytes(200) + chunks[1] + bytes(200) + CONTENT[400:430])
    first, second = Shelf(), Shelf()
    for number in (1, 2, 3, 4, 6):
        first.put(chunks[number])
    second.put(chunks[7])
    file = GrowingFile(path, SIZE)
    assert take_chunks(blob, [first, second], file, 100)
    assert file.done(0, SIZE) == [(200, 100), (300, 200), (500, 30), (700, 200)]
    assert (first.given, second.given) == ([300, 400, 700], [800])
    file.close()
    assert done(path) == [(200, 100), (300, 200), (500, 30), (700, 200)]
    content = path.read_bytes()
    assert content[200:530] == CONTENT[100:430]
    assert content[700:900] == CONTENT[600:800]
    file = GrowingFile(path, SIZE)
    assert not take_chunks(blob, [Shelf()], file, 100)
    file.close()


# segments of one file


class Segmented:
    """A file of several blobs in a source, and what was delivered of them."""

    def __init__(self, path: Path, sizes: list[int]) -> None:
        self.content = random_bytes(sum(sizes), 9)
        self.path = path
        self.store = MemoryStore("origin")
        self.source = Recorder(self.store)
        self.delivered: list[str] = []
        self.places: list[tuple[Descriptor, int]] = []
        base = 0
        for size in sizes:
            content = self.content[base : base + size]
            self.store.blobs[sha256(content)] = content
            self.places.append((Descriptor("x/y", sha256(content), size), base))
            base += size

    def open(self) -> GrowingFile:
        return GrowingFile(self.path, len(self.content))

    def land(self, file: GrowingFile, number: int) -> FileLanding:
        what, base = self.places[number]
        deliver: Callable[[], None] = lambda: self.delivered.append(what.digest)  # noqa: E731
        return FileLanding(file, what, self.source, deliver, base)

    def whole(self, file: GrowingFile, number: int) -> None:
        landing = self.land(file, number)
        try:
            for part in landing.parts:
                landing.transfer(*part, lambda _: None)
            landing.commit()
        finally:
            landing.close()


@pytest.fixture
def segmented(path: Path) -> Segmented:
    return Segmented(path, [5, 3 * MIB + 1, MIB, 17 * MIB, 2 * MIB - 9, 1])


def test_segments_land_side_by_side(segmented: Segmented) -> None:
    file = segmented.open()
    order = list(range(len(segmented.places)))
    random.Random(3).shuffle(order)
    Workers([lambda n=n: segmented.whole(file, n) for n in order], 4).run()  # type: ignore[misc]
    file.close()
    assert segmented.path.read_bytes() == segmented.content
    assert sorted(segmented.delivered) == sorted(what.digest for what, _ in segmented.places)


def test_segments_resume_where_each_was(segmented: Segmented) -> None:
    """One finished, one half there, the others unknown; then another process goes on."""
    file = segmented.open()
    segmented.whole(file, 1)
    half = segmented.land(file, 3)
    half.transfer(*half.parts[0], lambda _: None)
    half.close()
    file.close()
    segmented.source.asked.clear()
    again = segmented.open()
    landing = segmented.land(again, 1)
    assert (landing.parts, landing.resumed) == ([], True)
    landing.commit()
    landing = segmented.land(again, 3)
    assert landing.parts == [(16 * MIB, MIB)]
    landing.close()
    for number in (0, 2, 3, 4, 5):
        segmented.whole(again, number)
    again.close()
    assert segmented.path.read_bytes() == segmented.content
    assert segmented.places[1][0].digest not in {digest for digest, *_ in segmented.source.asked}


def test_a_wrong_segment_leaves_its_neighbours(segmented: Segmented) -> None:
    file = segmented.open()
    for number in (1, 3):
        segmented.whole(file, number)
    what, base = segmented.places[2]
    segmented.source.swapped[what.digest] = random_bytes(what.size, 1000)
    with pytest.raises(Exception, match=what.digest):
        segmented.whole(file, 2)
    assert file.done(base, what.size) == []
    segmented.source.swapped.clear()
    for number in (0, 2, 4, 5):
        segmented.whole(file, number)
    file.close()
    assert segmented.path.read_bytes() == segmented.content


def test_a_source_without_ranges_does_not_write_over_neighbours(segmented: Segmented) -> None:
    file = segmented.open()
    for number in (2, 4):
        segmented.whole(file, number)
    segmented.source.whole = True
    for number in (3, 1, 0, 5):
        segmented.whole(file, number)
    file.close()
    assert segmented.path.read_bytes() == segmented.content
