"""Files go out while others are still being hashed, and each side ends when the other fails."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from ocimodel.errors import ConflictError, InputError, RegistryError
from ocimodel.events import BlobFinished, Event, HashAdvanced, ignore
from ocimodel.ops.ahead import Ahead
from ocimodel.ops.push import push
from ocimodel.registry.transport import ClientOptions
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.digest import sha256
from ocimodel.store.directory import FileSlice
from ocimodel.store.layout import Layout
from ocimodel.store.memory import MemoryStore
from ocimodel.store.protocol import Ingest, Source
from ocimodel.store.workers import Workers
from tests.artifacts import random_bytes


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin with the first file, however fast it was hashed."""
    monkeypatch.setattr("ocimodel.ops.ahead.AFTER_S", 0.0)


def file(folder: Path, name: str, seed: int) -> tuple[Descriptor, FileSlice]:
    content = random_bytes(100_000, seed)
    path = folder / name
    path.write_bytes(content)
    return Descriptor("any/type", sha256(content), len(content)), FileSlice(path, 0, len(content))


class Waiting(MemoryStore):
    """Lets the test know of each blob that arrives."""

    def __init__(self) -> None:
        super().__init__()
        self.arrived = threading.Event()

    def observe(self, event: Event) -> None:
        if isinstance(event, BlobFinished):
            self.arrived.set()


class Refusing(MemoryStore):
    """Takes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = threading.Event()

    def begin(self, what: Descriptor, source: Source) -> Ingest:
        self.asked.set()
        raise RegistryError("the registry is down")


def test_a_file_arrives_before_the_next_one_is_known(tmp_path: Path) -> None:
    target = Waiting()
    ahead = Ahead(tmp_path, target, 2, target.observe)
    first, second = file(tmp_path, "a", 1), file(tmp_path, "b", 2)
    ahead.found(*first)
    assert target.arrived.wait(30)
    assert first[0].digest in target.blobs
    ahead.found(*second)
    report = ahead.finish()
    assert report.blobs == {first[0].digest, second[0].digest}
    assert report.bytes_transferred == 200_000
    assert target.blobs[second[0].digest] == second[1].path.read_bytes()


def test_what_is_hashed_soon_does_not_go_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ocimodel.ops.ahead.AFTER_S", 3600.0)
    target = MemoryStore()
    ahead = Ahead(tmp_path, target, 2, ignore)
    ahead.found(*file(tmp_path, "a", 1))
    assert ahead.finish().blobs == set()
    assert target.blobs == {}


def test_equal_files_go_once(tmp_path: Path) -> None:
    target = MemoryStore()
    ahead = Ahead(tmp_path, target, 2, ignore)
    same = file(tmp_path, "a", 1)
    ahead.found(*same)
    ahead.found(*same)
    assert ahead.finish().bytes_transferred == 100_000


def test_an_error_of_the_target_ends_the_packing(tmp_path: Path) -> None:
    target = Refusing()
    ahead = Ahead(tmp_path, target, 2, ignore)
    ahead.found(*file(tmp_path, "a", 1))
    assert target.asked.wait(30)
    with pytest.raises(RegistryError, match="down"):
        ahead.finish()
    # whoever still hashes is told at the next file
    with pytest.raises(RegistryError, match="down"):
        ahead.found(*file(tmp_path, "b", 2))


def test_an_error_of_the_packing_ends_the_sending(tmp_path: Path) -> None:
    ahead = Ahead(tmp_path, MemoryStore(), 2, ignore)
    ahead.found(*file(tmp_path, "a", 1))
    ahead.abort(InputError("a bad file"))
    with pytest.raises(InputError, match="a bad file"):
        ahead.finish()


def test_nothing_goes_ahead_into_a_tag_that_is_taken(tmp_path: Path) -> None:
    """What the directory holds decides whether the tag may be used, so it comes first."""
    options = ClientOptions(environ={"OCIMODEL_STATE_DIR": str(tmp_path / "state")})
    model = tmp_path / "model"
    model.mkdir()
    file(model, "a", 1)
    push(model, f"oci:{tmp_path / 'layout'}:v1", client=options)
    before = sorted((tmp_path / "layout" / "blobs" / "sha256").iterdir())
    file(model, "a", 2)
    with pytest.raises(ConflictError):
        push(model, f"oci:{tmp_path / 'layout'}:v1", client=options)
    assert sorted((tmp_path / "layout" / "blobs" / "sha256").iterdir()) == before
    assert list(Layout(tmp_path / "layout").tags()) == ["v1"]


def test_a_push_sends_its_first_file_before_it_has_hashed_the_last(tmp_path: Path) -> None:
    """Hashing stops before the last file until one has arrived: in turns, that never ends."""
    options = ClientOptions(environ={"OCIMODEL_STATE_DIR": str(tmp_path / "state")})
    model = tmp_path / "model"
    model.mkdir()
    for i in range(12):
        file(model, f"{i:02}.bin", i)
    arrived = threading.Event()
    n_hashed = 0
    lock = threading.Lock()

    def observe(event: Event) -> None:
        nonlocal n_hashed
        if isinstance(event, BlobFinished):
            arrived.set()
        elif isinstance(event, HashAdvanced):
            with lock:
                n_hashed += 1
                is_last = n_hashed == 12
            assert not is_last or arrived.wait(30)

    result = push(model, f"oci:{tmp_path / 'layout'}:v1", client=options, observer=observe)
    assert result.n_files == n_hashed == 12


def test_workers_leave_a_feeder_that_waits_behind() -> None:
    gate = threading.Event()

    def tasks():  # type: ignore[no-untyped-def]
        def fail() -> None:
            raise RegistryError("failed")

        yield fail
        gate.wait(60)
        yield lambda: pytest.fail("this task must not start")

    with pytest.raises(RegistryError, match="failed"):
        Workers(tasks(), 3).run()
    gate.set()
