"""How much memory may be used, and the chunks that are kept in it."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Final

_MIB: Final = 1 << 20
MIN_WINDOW_BYTES: Final = 64 * _MIB
MAX_WINDOW_BYTES: Final = 1024 * _MIB
# of a container's limit: the model itself has to fit too
_SHARE: Final = 8
_LIMITS: Final = ("memory.max", "memory.high", "memory.limit_in_bytes")
Key = tuple[str, int]
Bytes = bytes | bytearray


def memory_limit(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes that this process may use: the machine's, or less where a control group says so.

    Source: the kernel's cgroup-v2.rst and memcg_test of v1.
    """
    limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    # in a container the root itself is the group's, whatever path the kernel gives
    folders = [root, root / "memory"]
    with contextlib.suppress(OSError, ValueError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            base = root / "memory" if "memory" in controllers.split(",") else root
            parts = PurePosixPath(path.strip("/")).parts
            folders += [base.joinpath(*parts[: i + 1]) for i in range(len(parts))]
    for folder in folders:
        for name in _LIMITS:
            with contextlib.suppress(OSError, ValueError):
                limit = min(limit, int((folder / name).read_text()))
    return limit


def window_bytes(limit: int | None = None) -> int:
    """How much may be in memory at a time that nobody has taken yet."""
    share = (memory_limit() if limit is None else limit) // _SHARE
    return max(MIN_WINDOW_BYTES, min(MAX_WINDOW_BYTES, share))


class ChunkMemory:
    """The verified chunks that were used last, up to `limit` bytes; of several readers one fetches.

    Thread-safe.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[Key, Bytes] = OrderedDict()
        self._n_bytes = 0
        # what somebody fetches, and what of that others wait for
        self._busy: set[Key] = set()
        self._wanted: set[Key] = set()
        self._changed = threading.Condition()

    def read(self, key: Key, fetch: Callable[[], Bytes]) -> Bytes:
        """The chunk, from memory or by `fetch`, whose errors go to whoever called it."""
        if (data := self._claimed(key)) is not None:
            return data
        try:
            data = fetch()
            self._keep(key, data)
            return data
        finally:
            self._let_go(key)

    def read_into(self, key: Key, out: memoryview, fetch: Callable[[memoryview], None]) -> bool:
        """The chunk into memory of the caller's, and kept only if others wait; whether it was here.

        `fetch` fills that memory.
        """
        if (data := self._claimed(key)) is not None:
            out[:] = data
            return True
        try:
            fetch(out)
            if key in self._wanted:
                self._keep(key, bytes(out))
            return False
        finally:
            self._let_go(key)

    def _claimed(self, key: Key) -> Bytes | None:
        """A kept chunk; None: the caller is the one who fetches it, and must let go of it."""
        with self._changed:
            while key not in self._kept and key in self._busy:
                self._wanted.add(key)
                self._changed.wait()
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            self._busy.add(key)
            return None

    def _let_go(self, key: Key) -> None:
        with self._changed:
            self._busy.discard(key)
            self._wanted.discard(key)
            self._changed.notify_all()

    def _keep(self, key: Key, data: Bytes) -> None:
        with self._changed:
            if key in self._kept or len(data) > self._limit:
                return
            self._kept[key] = data
            self._n_bytes += len(data)
            while self._n_bytes > self._limit:
                self._n_bytes -= len(self._kept.popitem(last=False)[1])
