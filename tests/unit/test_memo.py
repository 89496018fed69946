"""Digests by file identity: believed while nothing changed, and never an error."""

from __future__ import annotations

import os
import sqlite3
import threading
from pathlib import Path

import pytest

from ocimodel.spec.digest import sha256
from ocimodel.store.memo import Memo, identity, memo_path
from tests.artifacts import random_bytes

CONTENT = random_bytes(1 << 20, 51)
DIGEST = sha256(CONTENT)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "state" / "digests.db"


def noted(store: Path, file: Path) -> None:
    memo = Memo(store)
    memo.note(file.stat(), DIGEST)
    memo.save()


def test_what_was_noted_is_recalled(store: Path, file: Path) -> None:
    memo = Memo(store)
    assert memo.recall(file.stat()) == ""
    memo.note(file.stat(), DIGEST)
    assert memo.recall(file.stat()) == DIGEST
    assert Memo(store).recall(file.stat()) == "", "it is not saved yet"
    memo.save()
    assert Memo(store).recall(file.stat()) == DIGEST
    assert store.parent.stat().st_mode & 0o077 == 0, "others could plant digests"


def test_what_was_noted_first_survives_the_loading(store: Path, file: Path, tmp_path: Path) -> None:
    noted(store, file)
    other = tmp_path / "other"
    other.write_bytes(b"x")
    memo = Memo(store)
    memo.note(other.stat(), "sha256:x")
    assert memo.recall(file.stat()) == DIGEST
    assert memo.recall(other.stat()) == "sha256:x"


def rewrite(file: Path) -> None:
    with file.open("r+b") as out:
        out.write(b"????")


def rewrite_and_restore_mtime(file: Path) -> None:
    before = file.stat()
    rewrite(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(file: Path) -> None:
    before = file.stat()
    new = file.with_name("new")
    new.write_bytes(CONTENT)
    os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
    new.replace(file)


def truncate(file: Path) -> None:
    os.truncate(file, 10)


@pytest.mark.parametrize("change", [rewrite, rewrite_and_restore_mtime, replace, truncate])
def test_a_changed_file_is_unknown(store: Path, file: Path, change: object) -> None:
    noted(store, file)
    assert callable(change)
    change(file)
    assert Memo(store).recall(file.stat()) == ""


def test_the_newest_note_counts(store: Path, file: Path) -> None:
    noted(store, file)
    rewrite(file)
    memo = Memo(store)
    memo.note(file.stat(), "sha256:other")
    memo.save()
    assert Memo(store).recall(file.stat()) == "sha256:other"
    with sqlite3.connect(store) as db:
        assert db.execute("SELECT count(*) FROM digest").fetchone() == (1,)


def test_a_broken_memo_is_no_memo(store: Path, file: Path) -> None:
    store.parent.mkdir(parents=True)
    store.write_bytes(b"this is no database" * 100)
    memo = Memo(store)
    assert memo.recall(file.stat()) == ""
    memo.note(file.stat(), DIGEST)
    memo.save()
    assert memo.recall(file.stat()) == DIGEST


def test_a_foreign_database_is_no_memo(store: Path, file: Path) -> None:
    store.parent.mkdir(parents=True)
    with sqlite3.connect(store) as db:
        db.execute("CREATE TABLE digest (other TEXT)")
    memo = Memo(store)
    assert memo.recall(file.stat()) == ""
    memo.note(file.stat(), DIGEST)
    memo.save()


def test_a_place_that_cannot_be_written_to_is_no_error(tmp_path: Path, file: Path) -> None:
    memo = Memo(file / "below a file" / "digests.db")
    assert memo.recall(file.stat()) == ""
    memo.note(file.stat(), DIGEST)
    memo.save()
    assert memo.recall(file.stat()) == DIGEST


def test_an_inode_number_beyond_the_database_is_no_error(store: Path, file: Path) -> None:
    status = file.stat()
    times = {"st_mtime_ns": status.st_mtime_ns, "st_ctime_ns": status.st_ctime_ns}
    huge = os.stat_result((status.st_mode, (1 << 64) - 1, *tuple(status)[2:]), times)
    assert huge.st_ino == (1 << 64) - 1
    memo = Memo(store)
    memo.note(huge, DIGEST)
    memo.save()
    assert memo.recall(huge) == DIGEST


def test_without_a_path_it_is_for_this_run(file: Path) -> None:
    memo = Memo(None)
    memo.note(file.stat(), DIGEST)
    memo.save()
    assert memo.recall(file.stat()) == DIGEST


def test_many_threads(store: Path, tmp_path: Path) -> None:
    files = []
    for i in range(40):
        (tmp_path / f"f{i}").write_bytes(bytes([i]))
        files.append((tmp_path / f"f{i}", sha256(bytes([i]))))
    memo = Memo(store)

    def work(part: list[tuple[Path, str]]) -> None:
        for path, digest in part:
            memo.note(path.stat(), digest)
        memo.save()

    threads = [threading.Thread(target=work, args=(files[i::4],)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    again = Memo(store)
    assert [again.recall(path.stat()) for path, _ in files] == [digest for _, digest in files]


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"OCIMODEL_STATE_DIR": "/s", "HOME": "/h"}, "/s/digests.db"),
        ({"XDG_CACHE_HOME": "/c", "HOME": "/h"}, "/c/ocimodel/digests.db"),
        ({"HOME": "/h"}, "/h/.cache/ocimodel/digests.db"),
        ({"HOME": "/h", "XDG_CACHE_HOME": ""}, "/h/.cache/ocimodel/digests.db"),
        ({}, "/nonexistent/.cache/ocimodel/digests.db"),
    ],
)
def test_where_it_is_kept(environ: dict[str, str], expected: str) -> None:
    assert memo_path(environ) == Path(expected)


# stretches of a file

STRETCHES = {(0, 100): b"\1" * 32, (100, 5): b"\2" * 32, (0, 1 << 40): b"\3" * 32}


def test_stretches_are_recalled(store: Path, file: Path) -> None:
    memo = Memo(store)
    assert memo.recall_stretches(file.stat()) == {}
    memo.note_stretches(file.stat(), STRETCHES)
    assert memo.recall_stretches(file.stat()) == STRETCHES
    assert Memo(store).recall_stretches(file.stat()) == {}, "they are not saved yet"
    memo.save()
    assert memo.recall_stretches(file.stat()) == STRETCHES
    assert Memo(store).recall_stretches(file.stat()) == STRETCHES
    assert Memo(store).recall(file.stat()) == "", "of the whole file nothing was said"


def test_stretches_of_a_file_are_replaced_as_one(store: Path, file: Path) -> None:
    """What is known of it is what it was cut into the last time."""
    memo = Memo(store)
    memo.note_stretches(file.stat(), STRETCHES)
    memo.note(file.stat(), DIGEST)
    memo.save()
    memo.note_stretches(file.stat(), {(5, 5): b"\4" * 32})
    memo.save()
    again = Memo(store)
    assert again.recall_stretches(file.stat()) == {(5, 5): b"\4" * 32}
    assert again.recall(file.stat()) == DIGEST
    with sqlite3.connect(store) as db:
        assert db.execute("SELECT count(*) FROM stretches").fetchone() == (1,)


@pytest.mark.parametrize("change", [rewrite, rewrite_and_restore_mtime, replace, truncate])
def test_stretches_of_a_changed_file_are_unknown(store: Path, file: Path, change: object) -> None:
    memo = Memo(store)
    memo.note_stretches(file.stat(), STRETCHES)
    memo.save()
    assert callable(change)
    change(file)
    assert memo.recall_stretches(file.stat()) == {}
    assert Memo(store).recall_stretches(file.stat()) == {}


@pytest.mark.parametrize("value", [b"odd", b"x" * 49, "text", 7, None])
def test_odd_stretches_are_none(store: Path, file: Path, value: object) -> None:
    memo = Memo(store)
    memo.note_stretches(file.stat(), STRETCHES)
    memo.save()
    with sqlite3.connect(store) as db:
        db.execute("UPDATE stretches SET stretches = ?", (value,))
    assert Memo(store).recall_stretches(file.stat()) == {}


def test_a_memo_of_before_there_were_stretches(store: Path, file: Path) -> None:
    """The table is made when it is needed, and what is known of whole files stays."""
    store.parent.mkdir(parents=True)
    with sqlite3.connect(store) as db:
        db.execute(
            "CREATE TABLE digest (dev INT, ino INT, size INT, mtime INT, ctime INT,"
            " digest TEXT, PRIMARY KEY (dev, ino)) WITHOUT ROWID"
        )
        row = (*identity(file.stat()), DIGEST)
        db.execute("INSERT INTO digest VALUES (?,?,?,?,?,?)", row)
    memo = Memo(store)
    assert memo.recall_stretches(file.stat()) == {}
    memo.note_stretches(file.stat(), STRETCHES)
    memo.save()
    again = Memo(store)
    assert (again.recall(file.stat()), again.recall_stretches(file.stat())) == (DIGEST, STRETCHES)


def test_stretches_without_a_place_are_for_this_run(tmp_path: Path, file: Path) -> None:
    for memo in (Memo(None), Memo(file / "below a file" / "digests.db")):
        memo.note_stretches(file.stat(), STRETCHES)
        assert memo.recall_stretches(file.stat()) == STRETCHES
        memo.save()
