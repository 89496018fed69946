"""A blob in the cache after a kill, after damage, and after anything in any order."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ocimodel.errors import IntegrityError
from ocimodel.spec.descriptor import Descriptor
from ocimodel.store.cachedblob import CachedBlob
from ocimodel.store.chunkcache import ChunkCache
from ocimodel.store.memo import Memo
from ocimodel.store.sparse import ABSENT, CLAIMED, VERIFIED, SparseFile, map_path
from tests.artifacts import random_bytes
from tests.cached import (
    CHUNKS,
    CONTENT,
    LENGTH,
    PARTS,
    WHAT,
    N,
    Origin,
    final_path,
    flip,
    killed,
    opened,
    read_and_stay_open,
    sparse_path,
)
from tests.trees import Notices


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def origin() -> Origin:
    return Origin()


def damage_nothing(_: Path) -> None: ...


def damage_gone(path: Path) -> None:
    path.unlink()


def damage_empty(path: Path) -> None:
    os.truncate(path, 0)


def damage_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def damage_long(path: Path) -> None:
    os.truncate(path, path.stat().st_size + 1)


def damage_magic(path: Path) -> None:
    flip(path, 0)


def damage_binding(path: Path) -> None:
    flip(path, 10)


def damage_seal(path: Path) -> None:
    flip(path, 50)


def damage_states(path: Path) -> None:
    raw = path.read_bytes()
    # a lie: all are here and verified
    path.write_bytes(raw[:-N] + b"\1" * N)


def damage_noise(path: Path) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[:-N] + random_bytes(N, 3))


def damage_foreign(path: Path) -> None:
    path.write_bytes(b"{}" * 500)


DAMAGES = [value for name, value in sorted(globals().items()) if name.startswith("damage_")]


# after a kill, and after damage


def test_after_a_kill_what_was_written_is_kept(root: Path, origin: Origin) -> None:
    killed(lambda: read_and_stay_open(root, 0, 2))
    with opened(root) as it:
        assert [it.has(i) for i in range(N)] == [True, False, True, False, False]
        assert [it.read(i, origin) for i in range(N)] == PARTS
    assert origin.asked == [1, 3, 4]


@pytest.mark.parametrize("stop", ["kill", "close"])
@pytest.mark.parametrize("use", ["read", "has", "publish"])
def test_a_flipped_byte_is_found(root: Path, origin: Origin, stop: str, use: str) -> None:
    if stop == "kill":
        killed(lambda: read_and_stay_open(root, *range(N)))
    else:
        with opened(root) as it:
            for i in range(N):
                it.read(i, Origin())
    flip(sparse_path(root), 2 * LENGTH + 5)
    with opened(root) as it:
        if use == "has":
            assert [it.has(i) for i in range(N)] == [True, True, False, True, True]
        elif use == "publish":
            assert not it.publish()
        assert not final_path(root).exists()
        assert [it.read(i, origin) for i in range(N)] == PARTS
        assert origin.asked == [2]
        assert it.publish()
    assert final_path(root).read_bytes() == CONTENT


def test_what_was_closed_cleanly_is_not_hashed_again(root: Path, origin: Origin) -> None:
    def states() -> list[int]:
        file = SparseFile(root / "partial", WHAT, CHUNKS)
        found = [file.state(i) for i in range(3)]
        file.close()
        return found

    with opened(root) as it, opened(root) as other:
        it.read(0, origin)
        it.close()
        # the last one to go seals it
        other.read(1, origin)
    assert states() == [VERIFIED, VERIFIED, ABSENT]
    killed(lambda: read_and_stay_open(root, 1, 2))
    assert states() == [CLAIMED, CLAIMED, CLAIMED]


def test_damage_that_only_publishing_finds(root: Path, origin: Origin) -> None:
    with opened(root) as it:
        for i in range(N):
            it.read(i, Origin())
        flip(sparse_path(root), 2 * LENGTH + 5)
        assert not it.publish()
        assert [it.read(i, origin) for i in range(N)] == PARTS
        assert origin.asked == [2]
        assert it.publish()
    assert final_path(root).read_bytes() == CONTENT


def test_what_was_published_is_not_written_to(root: Path, origin: Origin) -> None:
    with opened(root) as first, opened(root) as second:
        for i in range(N):
            first.read(i, Origin())
        assert first.publish()
        # as its owner may, through a hard link in a model directory
        os.truncate(final_path(root), 10)
        assert second.read(1, origin) == PARTS[1]
    assert origin.asked == [1]
    assert final_path(root).stat().st_size == 10


@pytest.mark.parametrize("length", [0, LENGTH + 10, len(CONTENT) - 1, len(CONTENT) + 7])
@pytest.mark.parametrize("moment", ["closed", "open"])
def test_a_file_of_another_length(root: Path, origin: Origin, length: int, moment: str) -> None:
    with opened(root) as it:
        for i in range(N):
            it.read(i, Origin())
        if moment == "open":
            os.truncate(sparse_path(root), length)
            assert not it.publish()
            assert [it.read(i, origin) for i in range(N)] == PARTS
    if moment == "closed":
        os.truncate(sparse_path(root), length)
    with opened(root) as it:
        assert [it.read(i, origin) for i in range(N)] == PARTS
        assert it.publish()
    assert final_path(root).read_bytes() == CONTENT


def test_a_finished_blob_that_someone_wrote_to(root: Path, origin: Origin) -> None:
    final_path(root).parent.mkdir(parents=True)
    final_path(root).write_bytes(CONTENT)
    flip(final_path(root), LENGTH)
    with opened(root) as it:
        assert [it.read(i, origin) for i in range(N)] == PARTS
        assert not it.publish()
    assert origin.asked == [1]
    assert not final_path(root).exists()


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("stop", ["kill", "close"])
def test_a_corrupted_map_is_not_believed(
    root: Path, origin: Origin, damage: Callable[[Path], None], stop: str
) -> None:
    if stop == "kill":
        killed(lambda: read_and_stay_open(root, 0, 3))
    else:
        with opened(root) as it:
            it.read(0, origin), it.read(3, origin)
    damage(map_path(sparse_path(root)))
    with opened(root) as it:
        assert [it.read(i, Origin()) for i in range(N)] == PARTS
        assert it.publish()
    assert final_path(root).read_bytes() == CONTENT


def test_another_cut_of_the_same_blob(root: Path, origin: Origin) -> None:
    with opened(root) as it:
        it.read(0, origin)
        # while somebody has it open, the other one goes without
        notices = Notices()
        with opened(root, cut=1000, observer=notices) as other:
            assert other.read(1, Origin()) == CONTENT[1000:2000]
            assert not other.has(1) and not other.publish()
        assert "other chunks" in "".join(notices.texts)
        assert it.has(0)
    with opened(root, cut=1000) as other:
        assert not any(other.has(i) for i in range(250))
        assert sparse_path(root).stat().st_blocks == 0
    with opened(root) as it:
        assert not it.has(0)


def test_a_foreign_blob_under_this_name(root: Path, origin: Origin) -> None:
    with opened(root) as it:
        it.read(0, origin)
    for path in (sparse_path(root), map_path(sparse_path(root))):
        path.rename(path.with_name(path.name.replace(WHAT.digest[7:], "ab" * 32)))
    foreign = Descriptor("t", "sha256:" + "ab" * 32, WHAT.size)
    with opened(root, foreign) as it:
        assert not it.has(0)


def test_an_index_that_lies(root: Path, origin: Origin) -> None:
    lying = Descriptor("t", "sha256:" + "ab" * 32, WHAT.size)
    with ChunkCache(root, Memo(None)) as cache:
        with cache.open_blob(lying, CHUNKS) as it:
            for i in range(N):
                it.read(i, origin)
            with pytest.raises(IntegrityError, match="arrived with the bytes of"):
                it.publish()
        assert cache.entries() == []


def test_removed_while_open(root: Path, origin: Origin) -> None:
    with opened(root) as it:
        it.read(0, origin)
        sparse_path(root).unlink()
        notices = Notices()
        with opened(root, observer=notices) as other:
            assert other.read(0, origin) == PARTS[0]
        assert len(notices.texts) == 1
        assert [it.read(i, origin) for i in range(N)] == PARTS
        assert not it.publish()


class Filling(RuleBasedStateMachine):
    """Readers come, go and are killed; files are damaged while nobody has them open.

    What is read is always right, and is fetched only if it is not there or was damaged.
    """

    root: Path
    number = 0

    def __init__(self) -> None:
        super().__init__()
        Filling.number += 1
        self.here = self.root / str(Filling.number)
        self.open: list[tuple[ChunkCache, CachedBlob]] = []
        # chunks that must be there
        self.sure: set[int] = set()
        self.published = False

    @rule()
    def open_one(self) -> None:
        if len(self.open) < 3:
            cache = ChunkCache(self.here, Memo(None))
            self.open.append((cache, cache.open_blob(WHAT, CHUNKS)))

    @precondition(lambda self: self.open)
    @rule(who=st.integers(0, 2), i=st.integers(0, N - 1))
    def read(self, who: int, i: int) -> None:
        origin = Origin()
        assert self.open[who % len(self.open)][1].read(i, origin) == PARTS[i]
        assert not (origin.asked and i in self.sure)
        self.sure.add(i)

    @precondition(lambda self: self.open)
    @rule(who=st.integers(0, 2))
    def close(self, who: int) -> None:
        cache, it = self.open.pop(who % len(self.open))
        it.close()
        cache.close()

    @precondition(lambda self: self.open)
    @rule(who=st.integers(0, 2))
    def publish(self, who: int) -> None:
        done = self.open[who % len(self.open)][1].publish()
        # damage may have missed what matters: more may be there than is sure
        assert done or len(self.sure) < N
        self.published |= done

    @rule(numbers=st.lists(st.integers(0, N - 1), max_size=N))
    def read_and_be_killed(self, numbers: list[int]) -> None:
        killed(lambda: read_and_stay_open(self.here, *numbers))
        self.sure |= set(numbers)

    @precondition(lambda self: not self.open and not self.published and self.sure)
    @rule(position=st.integers(0, len(CONTENT) - 1))
    def damage_a_chunk(self, position: int) -> None:
        flip(sparse_path(self.here), position)
        self.sure.discard(position // LENGTH)

    @precondition(lambda self: not self.open and not self.published and self.sure)
    @rule(damage=st.sampled_from(DAMAGES))
    def damage_the_map(self, damage: Callable[[Path], None]) -> None:
        damage(map_path(sparse_path(self.here)))
        self.sure = set()

    @precondition(lambda self: not self.open)
    @rule()
    def evict(self) -> None:
        with ChunkCache(self.here, Memo(None)) as cache:
            cache.gc(0)
        self.sure, self.published = set(), False

    @invariant()
    def what_is_finished_is_right(self) -> None:
        if final_path(self.here).exists():
            assert final_path(self.here).read_bytes() == CONTENT

    def teardown(self) -> None:
        for cache, it in self.open:
            it.close()
            cache.close()


def test_any_order_of_events(tmp_path: Path) -> None:
    Filling.root = tmp_path
    run_state_machine_as_test(
        Filling, settings=settings(max_examples=40, stateful_step_count=25, deadline=None)
    )
