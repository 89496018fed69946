"""A blob that cannot be read in parts: fetched as a whole, verified, and then read from disk.

That is so for artifacts without a chunk index, and for endpoints that ignore Range.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from ocimodel.errors import IntegrityError, TargetError
from ocimodel.events import Notice, Observer, ignore
from ocimodel.lazy.blob import Traffic
from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.digest import short
from ocimodel.store.chunkcache import ChunkCache
from ocimodel.store.growing import target_error
from ocimodel.store.protocol import Advance, Source
from ocimodel.store.streams import Verified, thread_buffer


class _Open:
    """A descriptor that is closed when the last one who reads from it lets go of this."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


class WholeBlob:
    """Thread-safe. The first reader fetches it, the others wait.

    `cache`: where it is looked for and kept; `observer` hears if it cannot be. Raises
    IntegrityError, RegistryError, TargetError.
    """

    def __init__(
        self,
        source: Source,
        what: Descriptor,
        cache: ChunkCache | None,
        traffic: Traffic,
        observer: Observer = ignore,
    ) -> None:
        self.size = what.size
        self._source = source
        self._what = what
        self._cache = cache
        self._traffic = traffic
        self._observer = observer
        self._file: _Open | None = None
        self._lock = threading.Lock()

    def read_into(self, start: int, out: memoryview) -> None:
        file = self._fetched()
        n_done = 0
        while n_done < len(out):
            n = os.preadv(file.fd, [out[n_done:]], start + n_done)
            if n == 0:
                raise IntegrityError(f"{self._what.digest} got shorter while it was read")
            n_done += n

    def stretches(self, start: int, stop: int, n_bytes: int) -> Iterator[tuple[int, int]]:
        for begin in range(start, stop, n_bytes):
            yield begin, min(begin + n_bytes, stop)

    def load(self, start: int, out: memoryview | None, stop: int, advance: Advance) -> None:
        if out is None:
            self._fetched()
        else:
            self.read_into(start, out)

    def has(self, start: int, stop: int) -> bool:
        return self._file is not None

    def publish(self) -> bool:
        return self._file is not None and self._cache is not None

    def close(self) -> None:
        # not while it is fetched: that may take long, and nobody waits for it any more
        self._file = None

    def _fetched(self) -> _Open:
        with self._lock:
            if (file := self._file) is None:
                kept = self._kept(self._cache) if self._cache else None
                self._file = file = kept or self._spooled(None)
            return file

    def _kept(self, cache: ChunkCache) -> _Open | None:
        """From the cache, into which it goes first if it is not there; None where it cannot."""
        if (fd := cache.open([self._what])) is not None:
            self._traffic.add(cached=self.size)
            return _Open(fd)
        file: _Open | None = None
        try:
            # on the cache's disk, where a link is enough
            with tempfile.TemporaryDirectory(prefix="ocimodel-", dir=cache.folder()) as folder:
                path = Path(folder) / "blob"
                file = self._spooled(path)
                cache.add([self._what], path)
            # once more: its ctime, by which the memo goes, changed as it lost the other name
            cache.add([self._what], path)
        except (OSError, TargetError) as error:
            told = f"{short(self._what.digest)} is not kept in the cache: {error}"
            self._observer(Notice(told))
        return file

    def _spooled(self, path: Path | None) -> _Open:
        """Fetched into a file: at `path`, or one without a name that goes with its descriptor."""
        try:
            if path is None:
                with tempfile.TemporaryFile(prefix="ocimodel-") as unnamed:
                    file = _Open(os.dup(unnamed.fileno()))
            else:
                file = _Open(
                    os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                )
        except OSError as error:
            raise target_error(error, path or Path(tempfile.gettempdir())) from error
        self._fill(file.fd, path or Path(tempfile.gettempdir()))
        self._traffic.add(fetched=self.size, requests=1, waited=1)
        return file

    def _fill(self, fd: int, path: Path) -> None:
        buffer = thread_buffer()
        with Verified(self._source.open(self._what), self._what) as reader:
            while n := reader.readinto(buffer):
                rest = buffer[:n]
                while rest:
                    try:
                        rest = rest[os.write(fd, rest) :]
                    except OSError as error:
                        raise target_error(error, path) from error
