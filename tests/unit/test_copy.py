"""The one algorithm, between stores in memory and on disk: order, events, and what it reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from ocimodel.errors import IntegrityError, NotFoundError, RegistryError
from ocimodel.events import BlobAdvanced, BlobFinished, BlobStarted, Event, Outcome
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.digest import sha256
from ocimodel.spec.manifest import Document
from ocimodel.store.copy import MAX_DEPTH, copy, name_of
from ocimodel.store.landing import PART_BYTES
from ocimodel.store.layout import PARTIAL, Layout
from ocimodel.store.memory import MemoryStore
from tests.artifacts import MIB, Recorder, put_index, put_model, random_bytes

BIG = random_bytes(2 * PART_BYTES + MIB, 41)
SMALL = random_bytes(MIB, 42)


@pytest.fixture
def origin() -> MemoryStore:
    return MemoryStore("origin")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout", create=True)


class Diary(MemoryStore):
    """Writes down what is done to it, in order."""

    def __init__(self) -> None:
        super().__init__("diary")
        self.lines: list[str] = []

    def plan(self, document: Document) -> Sequence[Descriptor]:
        self.lines.append(f"plan {document.digest}")
        return super().plan(document)

    def put_manifest(self, document: Document) -> None:
        super().put_manifest(document)
        self.lines.append(f"put {document.digest}")

    def tag(self, name: str, what: Descriptor) -> None:
        super().tag(name, what)
        self.lines.append(f"tag {name}")


def test_children_before_parents_the_tag_last_referrers_after_their_subject(
    origin: MemoryStore,
) -> None:
    children = [put_model(origin, {"a": bytes([i])}) for i in range(2)]
    index = put_index(origin, children)
    signature = put_model(origin, {"s": b"s"}, subject=index)
    diary = Diary()
    copy(origin, diary, index, tag="v1", referrers=True)
    assert [line for line in diary.lines if not line.startswith("plan")] == [
        f"put {children[0].digest}",
        f"put {children[1].digest}",
        f"put {index.digest}",
        f"put {signature.digest}",
        "tag v1",
    ]


def test_referrers_stay_unless_asked_for(origin: MemoryStore) -> None:
    root = put_model(origin, {"a": b"a"})
    put_model(origin, {"s": b"s"}, subject=root)
    target = MemoryStore()
    assert copy(origin, target, root).manifests == [root.digest]
    assert list(target.referrers(root.digest)) == []


def test_a_child_that_is_there_twice_is_copied_once(origin: MemoryStore) -> None:
    child = put_model(origin, {"a": b"a"})
    inner = put_index(origin, [child, child])
    outer = put_index(origin, [inner, child, inner])
    diary = Diary()
    report = copy(origin, diary, outer)
    assert report.manifests == [child.digest, inner.digest, outer.digest]
    assert len(diary.lines) == 6


def test_indexes_that_nest_too_deeply_are_refused(origin: MemoryStore) -> None:
    document: Document = put_model(origin, {"a": b"a"})
    for _ in range(MAX_DEPTH):
        document = put_index(origin, [document])
    copy(origin, MemoryStore(), document)
    document = put_index(origin, [document])
    target = MemoryStore()
    with pytest.raises(IntegrityError, match="deeper"):
        copy(origin, target, document)
    with pytest.raises(NotFoundError):
        target.manifest(document.digest)


def test_referrers_in_a_circle_end(origin: MemoryStore) -> None:
    root = put_model(origin, {"a": b"a"})
    document = root
    for i in range(MAX_DEPTH + 3):
        document = put_model(origin, {"s": bytes([i])}, subject=document)

    class Circle(Recorder):
        """A registry that lies: everything refers to everything."""

        def referrers(self, subject: str) -> Sequence[Descriptor]:
            return [root.descriptor, document.descriptor]

    report = copy(Circle(origin), MemoryStore(), root, referrers=True)
    assert report.manifests == [root.digest, document.digest]


@pytest.mark.parametrize("concurrency", [1, 2, 8])
def test_events_add_up(origin: MemoryStore, layout: Layout, concurrency: int) -> None:
    root = put_model(origin, {"big": BIG, "small": SMALL, "empty": b""})
    copy(origin, layout, put_model(origin, {"small": SMALL}))
    events: list[Event] = []
    report = copy(origin, layout, root, concurrency=concurrency, observer=events.append)
    finished = {e.digest: e for e in events if isinstance(e, BlobFinished)}
    assert {d: e.outcome for d, e in finished.items()} == {
        root.config.digest: Outcome.TRANSFERRED,
        sha256(BIG): Outcome.TRANSFERRED,
        sha256(SMALL): Outcome.EXISTS,
        sha256(b""): Outcome.TRANSFERRED,
    }
    for digest, event in finished.items():
        moved = sum(e.n_bytes for e in events if isinstance(e, BlobAdvanced) and e.digest == digest)
        assert moved == (event.size if event.outcome is Outcome.TRANSFERRED else 0)
    started = [e.digest for e in events if isinstance(e, BlobStarted)]
    assert sorted(started) == sorted(finished.keys() - {sha256(SMALL)})
    assert report.bytes_transferred == len(BIG) + root.config.size
    assert report.bytes_skipped == len(SMALL)
    assert finished[sha256(BIG)].name == "big"


def test_a_retry_from_the_start_takes_its_bytes_back(origin: MemoryStore, layout: Layout) -> None:
    root = put_model(origin, {"big": BIG})
    growing = layout.path / PARTIAL / sha256(BIG).partition(":")[2]
    growing.parent.mkdir()
    growing.write_bytes(bytes(len(BIG)))
    growing.with_suffix(".ranges").write_text(f"0 {PART_BYTES}\n")
    events: list[Event] = []
    report = copy(origin, layout, root, observer=events.append)
    steps = [e.n_bytes for e in events if isinstance(e, BlobAdvanced) and e.digest == sha256(BIG)]
    assert min(steps) == PART_BYTES - len(BIG)
    assert sum(steps) == len(BIG)
    assert report.bytes_transferred == len(BIG) + root.config.size
    assert layout.blob_path(sha256(BIG)).read_bytes() == BIG


def test_a_resumed_blob_counts_as_moved_only_as_far_as_it_moved(
    origin: MemoryStore, layout: Layout
) -> None:
    root = put_model(origin, {"big": BIG})
    dying = Recorder(origin, n_bytes_left={sha256(BIG): PART_BYTES + 5})
    with pytest.raises(RegistryError):
        copy(dying, layout, root, concurrency=1)
    report = copy(origin, layout, root)
    assert report.bytes_transferred == len(BIG) - PART_BYTES
    assert report.n_bytes[Outcome.REUSED] == PART_BYTES


def test_one_failure_ends_all_and_is_the_one_raised(origin: MemoryStore) -> None:
    root = put_model(origin, {str(i): random_bytes(MIB, i) for i in range(20)})
    victim = root.layers[3].digest
    dying = Recorder(origin, n_bytes_left={victim: 10})
    target = MemoryStore()
    with pytest.raises(RegistryError, match="died"):
        copy(dying, target, root, tag="v1", concurrency=2)
    assert victim not in target.blobs
    assert list(target.tags()) == []
    assert len(dying.asked) < len(root.blobs())


def test_a_blob_that_the_source_lacks(origin: MemoryStore, layout: Layout) -> None:
    root = put_model(origin, {"a": SMALL})
    del origin.blobs[sha256(SMALL)]
    with pytest.raises(NotFoundError):
        copy(origin, layout, root, tag="v1")
    assert list(layout.tags()) == []


def test_a_source_with_a_second_choice_is_asked_again(origin: MemoryStore, layout: Layout) -> None:
    root = put_model(origin, {"a": SMALL})

    class Mirrored(Recorder):
        """Its mirror serves wrong bytes, the registry behind it the right ones."""

        def reject(self, what: Descriptor) -> bool:
            return self.swapped.pop(what.digest, None) is not None

    source = Mirrored(origin, swapped={sha256(SMALL): SMALL[::-1]})
    copy(source, layout, root)
    assert layout.blob_path(sha256(SMALL)).read_bytes() == SMALL

    hopeless = Recorder(origin, swapped={sha256(SMALL): SMALL[::-1]})
    other = MemoryStore()
    with pytest.raises(IntegrityError):
        copy(hopeless, other, root)


def test_names_for_people() -> None:
    digest = "sha256:" + "ab" * 32
    assert name_of(Descriptor("t", digest, 1, {"org.cncf.model.filepath": "a/b"})) == "a/b"
    assert name_of(Descriptor("t", digest, 1, {"org.opencontainers.image.title": "t"})) == "t"
    assert name_of(Descriptor("t", digest, 1)) == "abababababab"
