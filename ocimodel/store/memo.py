"""Remembers the digests of files, so that what has not changed is not hashed again.

A memo is believed while device, inode, size, mtime and ctime of the file are what they were when
its bytes were hashed, as git's index does. It is a cache: without a place to write it, or with a
broken one, files are hashed each time. `save` guards against a write within the clock tick of the
one that was noted.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import struct
import threading
import time
from collections.abc import Mapping
from pathlib import Path

# kernels stamp files with a clock of up to 10 ms a tick
_TICK_NS = 20_000_000
# of a stretch of a file: start, length, sha256
_STRETCH = struct.Struct("<QQ32s")


def memo_path(environ: Mapping[str, str]) -> Path:
    """$OCIMODEL_STATE_DIR, or the user's cache folder."""
    state = environ.get("OCIMODEL_STATE_DIR")
    if state:
        return Path(state) / "digests.db"
    base = environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME", "/nonexistent")) / ".cache"
    return Path(base) / "ocimodel" / "digests.db"


Identity = tuple[int, int, int, int, int]


def identity(status: os.stat_result) -> Identity:
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


class Memo:
    """Digests by file identity. Thread-safe; `save` writes what was learned since.

    Of a file as a whole, and of stretches (start, length) in it.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[Identity, str] = {}
        self._learned: dict[Identity, str] = {}
        self._stretches: dict[Identity, dict[tuple[int, int], bytes]] = {}
        self._lock = threading.Lock()
        self._loaded = path is None

    def recall(self, status: os.stat_result) -> str:
        """The sha256 digest of the file with this status, or an empty string."""
        with self._lock:
            if not self._loaded:
                self._loaded = True
                self._load()
            return self._known.get(identity(status), "")

    def note(self, status: os.stat_result, digest: str) -> None:
        """`status`: taken after the bytes were hashed, and not changed since before."""
        with self._lock:
            self._learned[identity(status)] = digest
            self._known[identity(status)] = digest

    def recall_stretches(self, status: os.stat_result) -> dict[tuple[int, int], bytes]:
        """The raw sha256 digests of what is known of this file's stretches."""
        with self._lock:
            learned = self._stretches.get(identity(status))
        if learned is not None or self._path is None or not self._path.exists():
            return dict(learned or {})
        # TypeError: SQLite keeps whatever it was given
        with contextlib.suppress(sqlite3.Error, OSError, OverflowError, struct.error, TypeError):
            with contextlib.closing(self._open()) as db:
                row = db.execute(
                    "SELECT stretches FROM stretches"
                    " WHERE dev=? AND ino=? AND size=? AND mtime=? AND ctime=?",
                    identity(status),
                ).fetchone()
            if row:
                return {(a, n): digest for a, n, digest in _STRETCH.iter_unpack(row[0])}
        return {}

    def note_stretches(
        self, status: os.stat_result, digests: Mapping[tuple[int, int], bytes]
    ) -> None:
        """`status`: as for `note`. Replaces what was known of the file's stretches."""
        with self._lock:
            self._stretches[identity(status)] = dict(digests)

    def save(self) -> None:
        """Write what was noted; a failure to do so costs time next run and is no error."""
        with self._lock:
            learned, self._learned = self._learned, {}
            stretches, self._stretches = self._stretches, {}
        if not (learned or stretches) or self._path is None:
            return
        newest = max(ctime for *_, ctime in (*learned, *stretches))
        # OverflowError: SQLite has no inode numbers of 2**63 and above
        with contextlib.suppress(sqlite3.Error, OSError, OverflowError):
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with contextlib.closing(self._open()) as db, db:
                # a file written in this very tick could be written again without its times telling
                time.sleep(min(_TICK_NS, max(0, newest + _TICK_NS - time.time_ns())) / 1e9)
                db.executemany(
                    "REPLACE INTO digest VALUES (?,?,?,?,?,?)",
                    [(*key, value) for key, value in learned.items()],
                )
                db.executemany(
                    "REPLACE INTO stretches VALUES (?,?,?,?,?,?)",
                    [
                        (*key, b"".join(_STRETCH.pack(*k, v) for k, v in value.items()))
                        for key, value in stretches.items()
                    ],
                )

    def _load(self) -> None:
        if self._path is None or not self._path.exists():
            return
        with contextlib.suppress(sqlite3.Error, OSError), contextlib.closing(self._open()) as db:
            rows = db.execute("SELECT dev, ino, size, mtime, ctime, digest FROM digest")
            # what was noted before the first recall stays known
            self._known = {(a, b, c, d, e): digest for a, b, c, d, e, digest in rows} | self._known

    def _open(self) -> sqlite3.Connection:
        assert self._path is not None
        db = sqlite3.connect(self._path, timeout=5)
        # one row a file: a changed file replaces what was known of it
        db.execute(
            "CREATE TABLE IF NOT EXISTS digest (dev INT, ino INT, size INT, mtime INT, ctime INT,"
            " digest TEXT, PRIMARY KEY (dev, ino)) WITHOUT ROWID"
        )
        db.execute(
            "CREATE TABLE IF NOT EXISTS stretches (dev INT, ino INT, size INT, mtime INT,"
            " ctime INT, stretches BLOB, PRIMARY KEY (dev, ino))"
        )
        return db
