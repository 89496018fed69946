"""Where in a cache there are chunks, and when its contents were last used: `chunks.db`.

A hint and no more: whoever reads a chunk checks it. Without the database, or with a broken one,
chunks are not found and the order of use is that of the files' times.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeGuard

from ocimodel.spec.chunkindex import Chunk

# what `content_key` gives; it becomes a path, so nothing else is believed
KEY = re.compile(r"(?:sha256|segments):[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_TIMEOUT_S = 5
# the year 10,000
_END_OF_TIME_S = 253_402_300_800
# of a database that is fine, but not now or not for us; with any other error it is broken
_PASSING = {
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
}


class ChunkDb:
    """Thread-safe. The file is made by the first write; nothing here raises for what is in it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None
        # one refusal, which may have taken _TIMEOUT_S, is enough
        self._is_readable = True

    def places(self, digest: bytes, length: int) -> list[tuple[str, int]]:
        """(content key, start) of each chunk with this sha256 and length."""
        rows = self._read(
            "SELECT key, start FROM chunk JOIN blob ON blob.id = chunk.blob"
            " WHERE digest = ? AND length = ? ORDER BY used DESC",
            (digest, length),
        )
        return [
            (key, start)
            for key, start in rows
            if _is_key(key) and isinstance(start, int) and start >= 0
        ]

    def used(self) -> dict[str, float]:
        """Content key → when it was last used, seconds since the epoch."""
        rows = self._read("SELECT key, used FROM blob")
        return {
            key: at
            for key, at in rows
            if _is_key(key) and isinstance(at, float) and 0 <= at < _END_OF_TIME_S
        }

    def note(self, key: str, at: float, chunks: Iterable[Chunk] = ()) -> None:
        """A content was used; `chunks`: what is in it. All in one transaction."""
        listed = list(chunks)

        def write(db: sqlite3.Connection) -> None:
            (row,) = db.execute(
                "INSERT INTO blob (key, used) VALUES (?, ?)"
                " ON CONFLICT (key) DO UPDATE SET used = max(used, excluded.used) RETURNING id",
                (key, at),
            ).fetchall()
            known = "SELECT 1 FROM chunk WHERE digest = ? AND blob = ?"
            # they come together, so that one tells of all
            if listed and not db.execute(known, (listed[-1].digest, *row)).fetchone():
                db.executemany(
                    "INSERT OR IGNORE INTO chunk VALUES (?, ?, ?, ?)",
                    ((c.digest, *row, c.start, c.length) for c in listed),
                )

        self._write(write)

    def forget(self, keys: Iterable[str]) -> None:
        """These contents are not in the cache."""
        gone = [(key,) for key in keys]

        def write(db: sqlite3.Connection) -> None:
            ids = "(SELECT id FROM blob WHERE key = ?)"
            db.executemany(f"DELETE FROM chunk WHERE blob = {ids}", gone)  # noqa: S608
            db.executemany("DELETE FROM blob WHERE key = ?", gone)

        if gone and self._path.exists():
            self._write(write)

    def close(self) -> None:
        with self._lock:
            self._close()

    def _read(self, query: str, values: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
        with self._lock:
            if not self._is_readable or not (self._db or self._path.exists()):
                return []
            try:
                return self._open().execute(query, values).fetchall()
            except (sqlite3.Error, OverflowError):
                self._is_readable = False
                return []

    def _write(self, action: Callable[[sqlite3.Connection], None]) -> None:
        with self._lock:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                db = self._open()
                with db:
                    _make_tables(db)
                    action(db)
                self._is_readable = True
            except OSError:
                return
            except sqlite3.Error as error:
                code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
                # the lower byte: the others say more precisely what happened
                if code & 0xFF not in _PASSING:
                    self._start_over()

    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            # the lock is ours; no WAL, which needs memory shared between machines on a network disk
            self._db = sqlite3.connect(self._path, timeout=_TIMEOUT_S, check_same_thread=False)
            # what a power cut takes away costs time only
            self._db.execute("PRAGMA synchronous = OFF")
        return self._db

    def _start_over(self) -> None:
        self._close()
        # an old journal must not be played into a new database
        for path in (self._path.with_name(f"{self._path.name}-journal"), self._path):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None


def _is_key(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and KEY.fullmatch(value) is not None


def _make_tables(db: sqlite3.Connection) -> None:
    db.execute(
        "CREATE TABLE IF NOT EXISTS blob (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE,"
        " used REAL NOT NULL)"
    )
    db.execute(
        "CREATE TABLE IF NOT EXISTS chunk (digest BLOB, blob INT, start INT, length INT,"
        " PRIMARY KEY (digest, blob)) WITHOUT ROWID"
    )
