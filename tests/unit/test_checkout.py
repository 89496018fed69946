"""A model directory as a target: whole files, nothing outside, nothing twice."""

from __future__ import annotations

import gzip
import io
import multiprocessing
import os
import subprocess
import tarfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from ocimodel.errors import (
    ConflictError,
    InputError,
    IntegrityError,
    OcimodelError,
    RegistryError,
    TargetError,
)
from ocimodel.events import Notice, Outcome
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.digest import sha256
from ocimodel.spec.manifest import Document, Manifest
from ocimodel.spec.modelpack import (
    FILE_METADATA,
    FILEPATH,
    REGULAR,
    directories_layer,
    file_layer,
    layer_type,
)
from ocimodel.spec.paths import PARTIAL
from ocimodel.store.archive import empty_directories
from ocimodel.store.checkout import Checkout
from ocimodel.store.chunkcache import ChunkCache
from ocimodel.store.copy import Report, copy
from ocimodel.store.memo import Memo
from ocimodel.store.memory import MemoryStore
from ocimodel.store.protocol import Source
from tests.artifacts import (
    MIB,
    Recorder,
    put_blob,
    put_index,
    put_layers,
    put_model,
    random_bytes,
)

WEIGHTS = random_bytes(3 * MIB + 7, 21)
BIG = random_bytes(33 * MIB, 22)
FILES = {
    "model.safetensors": WEIGHTS,
    "1_Pooling/config ü.json": b'{"word_embedding_dimension":384}',
    "deep/er/and/deeper/x.bin": random_bytes(MIB, 23),
    "run.sh": b"#!/bin/sh\n",
    "empty": b"",
}


@pytest.fixture
def origin() -> MemoryStore:
    return MemoryStore("origin")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "model"


def pull(source: Source, root: Document, target: Path, **options: Any) -> Report:
    with Checkout(target, **options) as checkout:
        return copy(source, checkout, root)


def tree(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }


def put_tar(
    origin: MemoryStore, raw: bytes, codec: str = "tar", path: str = ".", **annotations: str
) -> Descriptor:
    digest = put_blob(origin, raw)
    return Descriptor(
        layer_type("weight", codec), digest, len(raw), {FILEPATH: path, **annotations}
    )


# the whole way


def test_the_files_of_an_artifact(origin: MemoryStore, target: Path) -> None:
    root = put_model(origin, FILES, executables={"run.sh"})
    recorder = Recorder(origin)
    report = pull(recorder, root, target)
    assert tree(target) == FILES
    assert report.bytes_transferred == sum(map(len, FILES.values()))
    assert recorder.n_bytes_read == report.bytes_transferred
    assert (target / "run.sh").stat().st_mode & 0o777 == 0o755
    assert (target / "model.safetensors").stat().st_mode & 0o777 == 0o644
    assert not (target / PARTIAL).exists()


def test_new_files_obey_the_mask(origin: MemoryStore, target: Path) -> None:
    pull(origin, put_model(origin, FILES, executables={"run.sh"}), target, mode_mask=0o077)
    assert (target / "run.sh").stat().st_mode & 0o777 == 0o700
    assert (target / "empty").stat().st_mode & 0o777 == 0o600


def unread(path: Path) -> tuple[int, ...]:
    """What writing to a file changes, and reading it does not."""
    status = path.stat()
    return (status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def test_a_second_pull_moves_and_writes_nothing(origin: MemoryStore, target: Path) -> None:
    root = put_model(origin, FILES, executables={"run.sh"})
    pull(origin, root, target)
    before = {p: unread(p) for p in target.rglob("*")}
    recorder = Recorder(origin)
    report = pull(recorder, root, target)
    assert (report.bytes_transferred, recorder.asked) == (0, [])
    assert report.n_blobs[Outcome.EXISTS] == len(FILES)
    assert {p: unread(p) for p in target.rglob("*")} == before


def test_only_what_changed_moves(origin: MemoryStore, target: Path) -> None:
    pull(origin, put_model(origin, FILES), target)
    changed = FILES | {"1_Pooling/config ü.json": b"{}"}
    report = pull(origin, put_model(origin, changed), target)
    assert report.bytes_transferred == 2
    assert tree(target) == changed


def test_one_blob_at_several_paths_moves_once(origin: MemoryStore, target: Path) -> None:
    root = put_model(origin, {"a": WEIGHTS, "b/c": WEIGHTS, "d": WEIGHTS}, executables={"d"})
    recorder = Recorder(origin)
    pull(recorder, root, target)
    assert tree(target) == {"a": WEIGHTS, "b/c": WEIGHTS, "d": WEIGHTS}
    assert recorder.n_bytes_read == len(WEIGHTS)
    assert os.access(target / "d", os.X_OK)
    assert not (target / "a").stat().st_mode & 0o111
    # they are files of their own: writing to one leaves the others
    (target / "a").write_bytes(b"x")
    assert (target / "d").read_bytes() == WEIGHTS

    (target / "d").unlink()
    recorder = Recorder(origin)
    report = pull(recorder, root, target)
    assert recorder.asked == []
    assert report.n_blobs[Outcome.REUSED] == 1
    assert tree(target) == {"a": WEIGHTS, "b/c": WEIGHTS, "d": WEIGHTS}


def test_a_lost_or_gained_executable_bit_is_put_right(origin: MemoryStore, target: Path) -> None:
    root = put_model(origin, FILES, executables={"run.sh"})
    pull(origin, root, target)
    (target / "run.sh").chmod(0o644)
    (target / "empty").chmod(0o755)
    recorder = Recorder(origin)
    pull(recorder, root, target)
    assert recorder.asked == []
    assert (target / "run.sh").stat().st_mode & 0o777 == 0o755
    assert (target / "empty").stat().st_mode & 0o777 == 0o644


def test_only_what_is_wanted_is_asked_for(origin: MemoryStore, target: Path) -> None:
    root = put_model(origin, FILES)
    recorder = Recorder(origin)
    pull(recorder, root, target, wanted=lambda path: path.endswith(".json"))
    assert list(tree(target)) == ["1_Pooling/config ü.json"]
    assert {digest for digest, _, _ in recorder.asked} == {sha256(FILES["1_Pooling/config ü.json"])}


def test_extra_files_are_named_and_left_alone(origin: MemoryStore, target: Path) -> None:
    root = put_model(origin, FILES)
    pull(origin, root, target)
    (target / "notes.txt").write_text("mine")
    (target / "deep/own.txt").write_text("mine")
    checkout = Checkout(target, wanted=lambda path: path == "empty")
    copy(origin, checkout, root)
    # the other files of the artifact are no strangers, though not wanted this time
    assert checkout.extra_files() == ["deep/own.txt", "notes.txt"]
    assert (target / "notes.txt").read_text() == "mine"
    assert (target / "model.safetensors").read_bytes() == WEIGHTS


def test_empty_directories_come_without_their_tar(origin: MemoryStore, target: Path) -> None:
    names = ["logs", "deep/empty ü"]
    raw = empty_directories(names)
    layers = [
        file_layer("a", "weight", put_blob(origin, b"a"), 1, REGULAR),
        directories_layer(names, put_blob(origin, raw), len(raw)),
    ]
    recorder = Recorder(origin)
    pull(recorder, put_layers(origin, layers), target)
    assert all((target / name).is_dir() for name in names)
    assert sha256(raw) not in {digest for digest, _, _ in recorder.asked}


def test_our_own_documents_stay_out(origin: MemoryStore, target: Path) -> None:
    root = put_model(origin, {"a": b"a", ".ocimodel/index.json": b"{}"})
    recorder = Recorder(origin)
    pull(recorder, root, target)
    assert tree(target) == {"a": b"a"}
    assert len(recorder.asked) == 1


def test_raw_directories_of_other_tools(origin: MemoryStore, target: Path) -> None:
    empty = put_blob(origin, b"")
    metadata = {FILE_METADATA: '{"typeflag":5}'}
    layers = [
        Descriptor(layer_type("doc"), empty, 0, {FILEPATH: "d", **metadata}),
        Descriptor(layer_type("doc"), empty, 0, {FILEPATH: "e/f", **metadata}),
        # the same blob as a file
        file_layer("d/file", "doc", empty, 0, REGULAR),
    ]
    root = put_layers(origin, layers)
    pull(origin, root, target)
    assert (target / "e/f").is_dir()
    assert (target / "d/file").read_bytes() == b""
    recorder = Recorder(origin)
    pull(recorder, root, target)
    assert recorder.asked == []


def test_a_directory_has_no_tags(origin: MemoryStore, target: Path) -> None:
    with pytest.raises(ConflictError):
        copy(origin, Checkout(target), put_model(origin, FILES), tag="v1")


def test_an_index_is_refused(origin: MemoryStore, target: Path) -> None:
    children = [put_model(origin, FILES)]
    recorder = Recorder(origin)
    with pytest.raises(InputError) as caught:
        Checkout(target).plan(put_index(origin, children))
    assert caught.value.hint
    assert (recorder.asked, target.exists()) == ([], False)


# interruption


def test_an_interrupted_pull_shows_whole_files_only_and_resumes(
    origin: MemoryStore, target: Path
) -> None:
    files = {"small": WEIGHTS, "big": BIG}
    root = put_model(origin, files)
    dying = Recorder(origin, n_bytes_left={sha256(BIG): 20 * MIB})
    with pytest.raises(RegistryError):
        pull(dying, root, target, **{})
    there = {k: v for k, v in tree(target).items() if not k.startswith(PARTIAL)}
    assert there.items() <= files.items()
    assert "big" not in there
    recorder = Recorder(origin)
    report = pull(recorder, root, target)
    assert tree(target) == files
    assert recorder.n_bytes_read < len(BIG)
    assert report.bytes_skipped > 0


def test_a_failed_pull_does_not_lock_out_the_next_one_in_this_process(
    origin: MemoryStore, target: Path
) -> None:
    root = put_model(origin, {"a": WEIGHTS})
    dying = Recorder(origin, n_bytes_left={sha256(WEIGHTS): 5})
    try:
        pull(dying, root, target)
    except RegistryError:
        # while the error, and with it the failed checkout, is still alive
        pull(origin, root, target)
    assert tree(target) == {"a": WEIGHTS}


def test_a_damaged_layer_leaves_nothing(origin: MemoryStore, target: Path) -> None:
    (target / "a").parent.mkdir()
    (target / "a").write_bytes(b"the old one")
    root = put_model(origin, {"a": WEIGHTS})
    damaged = Recorder(origin, swapped={sha256(WEIGHTS): WEIGHTS[:-1] + b"?"})
    with pytest.raises(IntegrityError):
        pull(damaged, root, target)
    assert tree(target) == {"a": b"the old one"}
    pull(origin, root, target)
    assert tree(target) == {"a": WEIGHTS}


FORK = multiprocessing.get_context("fork")


def _pull_in_child(target: Path, gate: Connection) -> None:
    origin = MemoryStore()
    root = put_model(origin, {"a": WEIGHTS, "b": BIG})
    gate.send("ready")
    gate.recv()
    report = pull(origin, root, target)
    gate.send(report.bytes_transferred)


def test_two_processes_pull_into_one_directory(target: Path) -> None:
    pipes = [FORK.Pipe() for _ in range(2)]
    children = [FORK.Process(target=_pull_in_child, args=(target, p[1])) for p in pipes]
    for child in children:
        child.start()
    for here, _ in pipes:
        assert here.recv() == "ready"
    for here, _ in pipes:
        here.send("go")
    moved = [here.recv() for here, _ in pipes]
    for child in children:
        child.join(30)
    assert [child.exitcode for child in children] == [0, 0]
    # the one that had to wait found all that the other one had brought
    assert sorted(moved) == [0, len(WEIGHTS) + len(BIG)]
    assert tree(target) == {"a": WEIGHTS, "b": BIG}


def test_who_waits_is_told(origin: MemoryStore, target: Path) -> None:
    root = put_model(origin, {"a": WEIGHTS, "b": b"b"})
    first = Checkout(target)
    first.plan(root)
    landing = first.begin(root.layers[0], origin)
    assert not isinstance(landing, Outcome)
    seen: list[object] = []

    def observer(event: object) -> None:
        seen.append(event)
        if isinstance(event, Notice):
            landing.close()
            first.close()

    pull(origin, root, target, observer=observer)
    assert [str(target) in e.message for e in seen if isinstance(e, Notice)] == [True]
    assert tree(target) == {"a": WEIGHTS, "b": b"b"}


# what is in the way


def test_a_link_in_place_of_a_folder_is_refused(
    origin: MemoryStore, target: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    target.mkdir()
    (target / "deep").symlink_to(outside)
    with pytest.raises(TargetError, match="link"):
        pull(origin, put_model(origin, FILES), target)
    assert list(outside.iterdir()) == []


def test_a_link_in_place_of_a_file_is_replaced_not_followed(
    origin: MemoryStore, target: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(WEIGHTS)
    target.mkdir()
    (target / "a").symlink_to(outside)
    (target / "b").symlink_to(tmp_path / "nowhere")
    pull(origin, put_model(origin, {"a": WEIGHTS, "b": b"b"}), target)
    assert not (target / "a").is_symlink()
    assert tree(target) == {"a": WEIGHTS, "b": b"b"}
    assert outside.read_bytes() == WEIGHTS
    assert not (tmp_path / "nowhere").exists()


def test_a_link_in_place_of_the_unfinished_is_refused(
    origin: MemoryStore, target: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    target.mkdir()
    (target / PARTIAL).symlink_to(outside)
    with pytest.raises(TargetError):
        pull(origin, put_model(origin, FILES), target)
    assert list(outside.iterdir()) == []


def in_the_way_root(target: Path) -> None:
    target.write_text("a file")


def in_the_way_folder(target: Path) -> None:
    target.mkdir()
    (target / "deep").write_text("a file")


def in_the_way_directory(target: Path) -> None:
    (target / "model.safetensors/x").mkdir(parents=True)


@pytest.mark.parametrize("prepare", [in_the_way_root, in_the_way_folder, in_the_way_directory])
def test_what_is_in_the_way_is_named_and_stays(
    origin: MemoryStore, target: Path, prepare: Callable[[Path], None]
) -> None:
    prepare(target)
    root = put_model(origin, FILES)
    with pytest.raises(TargetError) as caught:
        pull(origin, root, target)
    assert str(target) in str(caught.value)
    if target.is_dir():
        obstacle = next(p for p in (target / "deep", target / "model.safetensors") if p.exists())
        assert obstacle.is_file() or (obstacle / "x").is_dir() or obstacle.name == "deep"


def test_empty_directories_in_the_way_of_a_file_layer(origin: MemoryStore, target: Path) -> None:
    (target).mkdir()
    (target / "logs").write_text("a file")
    raw = empty_directories(["logs"])
    root = put_layers(origin, [directories_layer(["logs"], put_blob(origin, raw), len(raw))])
    with pytest.raises(TargetError):
        pull(origin, root, target)
    assert (target / "logs").read_text() == "a file"


HOSTILE = [
    "../evil",
    "/tmp/evil",
    "a/../../evil",
    "a\nb",
    "model.safetensors/x",
    "MODEL.safetensors",
    "",
    ".ocimodel.partial/" + "0" * 64,
    ".OCIMODEL.partial/x",
]


@pytest.mark.parametrize("path", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_names_are_refused_before_anything_moves(
    origin: MemoryStore, target: Path, path: str
) -> None:
    layers = [
        file_layer("model.safetensors", "weight", put_blob(origin, b"w"), 1, REGULAR),
        Descriptor(layer_type("doc"), put_blob(origin, b"e"), 1, {FILEPATH: path}),
    ]
    recorder = Recorder(origin)
    with pytest.raises(InputError):
        pull(recorder, put_layers(origin, layers), target)
    assert (recorder.asked, target.exists()) == ([], False)


# space, and places that cannot be written to


def test_space_is_checked_first(small_disk: Path, origin: MemoryStore) -> None:
    root = put_model(origin, {"a": WEIGHTS, "b": WEIGHTS, "c": b"c"})
    recorder = Recorder(origin)
    with pytest.raises(TargetError, match="free") as caught:
        pull(recorder, root, small_disk / "new" / "model")
    assert "--include" in caught.value.hint
    assert recorder.asked == []
    # in part it fits, and what is there needs no room again
    pull(origin, root, small_disk / "m", wanted=lambda path: path != "b")
    pull(origin, root, small_disk / "m", wanted=lambda path: path != "b")
    assert tree(small_disk / "m") == {"a": WEIGHTS, "c": b"c"}


def test_a_read_only_target_with_everything_in_it(small_disk: Path, origin: MemoryStore) -> None:
    raw = empty_directories(["logs"])
    layers = [
        file_layer("a", "weight", put_blob(origin, WEIGHTS), len(WEIGHTS), REGULAR),
        directories_layer(["logs"], put_blob(origin, raw), len(raw)),
    ]
    root = put_layers(origin, layers)
    target = small_disk / "model"
    pull(origin, root, target)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    recorder = Recorder(origin)
    report = pull(recorder, root, target)
    assert (report.bytes_transferred, recorder.asked) == (0, [])
    with pytest.raises(TargetError, match="Read-only"):
        pull(origin, put_model(origin, {"a": b"other"}), target)
    assert (target / "a").read_bytes() == WEIGHTS


# memo


@pytest.fixture
def memo_file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "digests.db"


def test_a_memo_saves_the_hashing(origin: MemoryStore, target: Path, memo_file: Path) -> None:
    root = put_model(origin, {"a": WEIGHTS})
    pull(origin, root, target, memo=Memo(memo_file))
    status = (target / "a").stat()
    assert Memo(memo_file).recall(status) == sha256(WEIGHTS)


def test_a_file_changed_in_place_is_noticed(
    origin: MemoryStore, target: Path, memo_file: Path
) -> None:
    root = put_model(origin, {"a": WEIGHTS})
    pull(origin, root, target, memo=Memo(memo_file))
    before = (target / "a").stat()
    with (target / "a").open("r+b") as file:
        file.write(b"????")
    os.utime(target / "a", ns=(before.st_atime_ns, before.st_mtime_ns))
    after = (target / "a").stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    report = pull(origin, root, target, memo=Memo(memo_file))
    assert report.bytes_transferred == len(WEIGHTS)
    assert (target / "a").read_bytes() == WEIGHTS


def test_rehash_believes_no_memo(origin: MemoryStore, target: Path) -> None:
    root = put_model(origin, {"a": WEIGHTS})
    target.mkdir()
    (target / "a").write_bytes(b"?" * len(WEIGHTS))
    memo = Memo(None)
    memo.note((target / "a").stat(), sha256(WEIGHTS))
    assert pull(origin, root, target, memo=memo).bytes_transferred == 0
    assert pull(origin, root, target, memo=memo, rehash=True).bytes_transferred == len(WEIGHTS)
    assert (target / "a").read_bytes() == WEIGHTS


# cache


@pytest.fixture
def cache(tmp_path: Path) -> ChunkCache:
    return ChunkCache(tmp_path / "cache", Memo(None))


def test_a_cache_gives_what_it_was_given(
    origin: MemoryStore, target: Path, cache: ChunkCache
) -> None:
    root = put_model(origin, FILES, executables={"run.sh"})
    pull(origin, root, target, cache=cache)
    assert all(cache.path((blob,)).exists() for blob in root.layers)
    recorder = Recorder(origin)
    other = target.with_name("other")
    report = pull(recorder, root, other, cache=cache)
    assert recorder.asked == []
    assert report.n_blobs[Outcome.REUSED] == len(root.layers)
    assert tree(other) == FILES
    assert (other / "run.sh").stat().st_mode & 0o777 == 0o755


def test_a_cached_blob_that_was_written_to_is_dropped(
    origin: MemoryStore, target: Path, cache: ChunkCache
) -> None:
    root = put_model(origin, {"a": WEIGHTS})
    pull(origin, root, target, cache=cache)
    with cache.path(root.layers[:1]).open("r+b") as file:
        file.write(b"????")
    other = target.with_name("other")
    report = pull(origin, root, other, cache=cache)
    assert report.bytes_transferred == len(WEIGHTS)
    assert tree(other) == {"a": WEIGHTS}
    assert cache.path(root.layers[:1]).read_bytes() == WEIGHTS


def test_a_cache_on_another_file_system(
    origin: MemoryStore, target: Path, small_disk: Path
) -> None:
    root = put_model(origin, {"a": WEIGHTS[:MIB], "run.sh": b"#!"}, executables={"run.sh"})
    cache = ChunkCache(small_disk / "cache", Memo(None))
    pull(origin, root, target, cache=cache)
    recorder = Recorder(origin)
    other = target.with_name("other")
    pull(recorder, root, other, cache=cache)
    assert recorder.asked == []
    assert tree(other) == {"a": WEIGHTS[:MIB], "run.sh": b"#!"}


# tar layers, as other tools write them


def tar_of(*entries: tuple[tarfile.TarInfo, bytes], gz: bool = False) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz" if gz else "w") as tar:
        for info, content in entries:
            info.size = len(content) if info.isreg() else info.size
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def entry(name: str, kind: bytes = tarfile.REGTYPE, **fields: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in fields.items():
        setattr(info, key, value)
    return info


@pytest.mark.parametrize("gz", [False, True])
def test_tar_layers(origin: MemoryStore, target: Path, gz: bool) -> None:
    raw = tar_of(
        (entry("./", tarfile.DIRTYPE), b""),
        (entry("./d/", tarfile.DIRTYPE), b""),
        (entry("./d/weights.bin", mode=0o600), WEIGHTS),
        (entry("d/" + "long" * 40 + "/ünïcode", mode=0o4755), b"x"),
        (entry("empty", tarfile.DIRTYPE), b""),
        gz=gz,
    )
    layers = [
        put_tar(origin, raw, "tar+gzip" if gz else "tar", "d"),
        file_layer("config.json", "doc", put_blob(origin, b"{}"), 2, REGULAR),
    ]
    pull(origin, put_layers(origin, layers), target)
    long = "d/" + "long" * 40 + "/ünïcode"
    assert tree(target) == {"d/weights.bin": WEIGHTS, long: b"x", "config.json": b"{}"}
    assert (target / "empty").is_dir()
    assert (target / "d/weights.bin").stat().st_mode & 0o7777 == 0o644
    assert (target / long).stat().st_mode & 0o7777 == 0o755


@pytest.mark.parametrize(
    "bad",
    [
        entry("../evil"),
        entry("/evil"),
        entry("a/../../evil"),
        entry("a/./b"),
        entry("x\x01y"),
        entry("l", tarfile.SYMTYPE, linkname="/etc/passwd"),
        entry("l", tarfile.LNKTYPE, linkname="good"),
        entry("c", tarfile.CHRTYPE),
        entry("b", tarfile.BLKTYPE),
        entry("f", tarfile.FIFOTYPE),
        entry(".ocimodel.partial/" + sha256(WEIGHTS).partition(":")[2]),
    ],
    ids=range(11),
)
def test_hostile_tar_entries(
    origin: MemoryStore, target: Path, tmp_path: Path, bad: tarfile.TarInfo
) -> None:
    root = put_layers(origin, [put_tar(origin, tar_of((entry("good"), b"g"), (bad, b"evil")))])
    with pytest.raises(InputError):
        pull(origin, root, target)
    assert not list(tmp_path.rglob("*evil*"))
    shown = {k for k in tree(target) if not k.startswith(PARTIAL)}
    assert shown <= {"good"}
    assert not any(p.is_symlink() for p in target.rglob("*"))


def header(name: str, kind: bytes, size: int) -> bytes:
    info = entry(name, kind)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    "raw",
    [
        header("bomb", tarfile.REGTYPE, 1 << 42),
        header("././@LongLink", tarfile.GNUTYPE_LONGNAME, 1 << 32) + b"a" * 1024,
        header("pax", tarfile.XHDTYPE, 1 << 32) + b"a" * 1024,
        header("holes", tarfile.GNUTYPE_SPARSE, 512) + b"\0" * 512,
        b"no tar at all" * 100,
        tar_of((entry("cut"), WEIGHTS))[:MIB],
    ],
    ids=["bomb", "long name", "long header", "sparse", "no tar", "cut"],
)
@pytest.mark.parametrize("gz", [False, True])
def test_broken_and_bloated_tars(origin: MemoryStore, target: Path, raw: bytes, gz: bool) -> None:
    packed = gzip.compress(raw) if gz else raw
    root = put_layers(origin, [put_tar(origin, packed, "tar+gzip" if gz else "tar")])
    with pytest.raises(InputError):
        pull(origin, root, target)
    assert {k for k in tree(target) if not k.startswith(PARTIAL)} == set()


@pytest.mark.parametrize("damage", ["body", "end", "head"])
def test_broken_gzip(origin: MemoryStore, target: Path, damage: str) -> None:
    raw = bytearray(tar_of((entry("a"), WEIGHTS), gz=True))
    if damage == "body":
        raw[1000:1100] = b"\xff" * 100
    elif damage == "head":
        raw[:2] = b"no"
    else:
        del raw[-4000:]
    root = put_layers(origin, [put_tar(origin, bytes(raw), "tar+gzip")])
    with pytest.raises(InputError):
        pull(origin, root, target)
    assert not (target / "a").exists()


def test_zstd_is_declined_with_a_hint(origin: MemoryStore, target: Path) -> None:
    root = put_layers(origin, [put_tar(origin, b"\x28\xb5\x2f\xfd", "tar+zstd")])
    with pytest.raises(InputError) as caught:
        pull(origin, root, target)
    assert "zstd" in caught.value.hint


def test_a_tar_cannot_pass_its_bytes_off_as_another_blob(
    origin: MemoryStore, target: Path, cache: ChunkCache
) -> None:
    """A tar entry in the folder of unfinished blobs could poison cache and memo."""
    digest = put_blob(origin, BIG)
    poison = entry(f"{PARTIAL}/{digest.partition(':')[2]}")
    layers = [
        file_layer("base", "weight", digest, len(BIG), REGULAR),
        put_tar(origin, tar_of((poison, b"?" * 10))),
    ]
    root = put_layers(origin, layers)
    with pytest.raises(InputError):
        pull(origin, root, target, cache=cache)
    for path in (target / "base", cache.path(root.layers[:1])):
        assert not path.exists() or sha256(path.read_bytes()) == digest


def test_the_same_bytes_as_a_file_and_as_a_tar(origin: MemoryStore, target: Path) -> None:
    raw = tar_of((entry("inside"), b"i"))
    layers = [
        put_tar(origin, raw),
        file_layer("archive.tar", "doc", sha256(raw), len(raw), REGULAR),
    ]
    pull(origin, put_layers(origin, layers), target)
    assert tree(target) == {"inside": b"i", "archive.tar": raw}


def test_long_names_leave_room_for_what_is_beside_them(
    origin: MemoryStore, target: Path, cache: ChunkCache
) -> None:
    files = {"模" * 85: WEIGHTS, "b" * 255: WEIGHTS}
    root = put_model(origin, files)
    pull(origin, root, target, cache=cache)
    pull(origin, root, target.with_name("other"), cache=cache)
    assert tree(target) == tree(target.with_name("other")) == files


def test_every_refusal_is_a_declared_error(origin: MemoryStore, target: Path) -> None:
    for layers in (
        [put_tar(origin, b"x", path="../x")],
        [put_tar(origin, b"x", path="a/../x")],
        [put_tar(origin, b"x"), put_tar(origin, b"x")],
    ):
        root = put_layers(origin, layers)
        assert isinstance(root, Manifest)
        with pytest.raises(OcimodelError):
            pull(origin, root, target)
