"""A run of chunks, front to back, over one ranged request; nothing leaves it unverified."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Final

from ocimodel.errors import IntegrityError, RegistryError
from ocimodel.spec.chunkindex import Chunk
from ocimodel.spec.descriptor import Descriptor
from ocimodel.store.cachedblob import wrong_chunk
from ocimodel.store.protocol import Advance, Reader, Source

# a stream that brings less than this for so long is given up for a new one …
LOW_BYTES_PER_S: Final = 64 << 10
LOW_SPEED_S: Final = 5.0
MAX_SLOW: Final = 3
# a read fills all that it is given: more, and it would be noticed late how slow it is
_PIECE_BYTES: Final = 256 << 10
# … and when new ones did not help: a network may be that slow, but below this something is broken
DEAD_BYTES_PER_S: Final = 1 << 10


class UnrangedError(Exception):
    """The endpoint sends whole blobs, whatever was asked; the one who reads goes another way."""


class Run:
    """Fetches chunks of `what` up to byte `stop`, best in their order. To be closed.

    Belongs to one thread. `n_requests`: made so far. `advance` is told of the bytes that came in.
    """

    def __init__(
        self,
        source: Source,
        what: Descriptor,
        stop: int,
        advance: Advance,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._what = what
        self._stop = stop
        self._advance = advance
        self._clock = clock
        self.n_requests = 0
        self._reader: Reader | None = None
        self._position = 0
        self._looked_at = 0.0
        self._n_since = 0
        self._n_slow = 0

    def close(self) -> None:
        reader, self._reader = self._reader, None
        if reader:
            reader.close()

    def fetch(self, chunk: Chunk, out: memoryview) -> None:
        """Fill `out` with the verified bytes of `chunk`.

        Wrong ones are fetched once more, for a mirror or a connection may be at fault; then
        IntegrityError, and `out` holds whatever came. Raises UnrangedError, RegistryError.
        """
        self._receive(chunk, out)
        if hashlib.sha256(out).digest() == chunk.digest:
            return
        self.close()
        self._source.reject(self._what)
        self._receive(chunk, out)
        if hashlib.sha256(out).digest() != chunk.digest:
            self.close()
            raise wrong_chunk(self._what, chunk)

    def _receive(self, chunk: Chunk, out: memoryview) -> None:
        if self._reader is None or self._position != chunk.start:
            self._open(chunk)
        n_done = 0
        while n_done < chunk.length:
            assert self._reader is not None
            n = self._reader.readinto(out[n_done : n_done + _PIECE_BYTES])
            if n == 0:
                raise IntegrityError(
                    f"{self._what.digest} ended at byte {self._position} of {self._what.size}"
                )
            n_done += n
            self._position += n
            self._advance(n)
            if self._is_slow(n) and n_done < chunk.length:
                self._open(Chunk(chunk.start + n_done, chunk.length - n_done, b""))

    def _open(self, chunk: Chunk) -> None:
        self.close()
        stop = max(self._stop, chunk.start + chunk.length)
        self.n_requests += 1
        reader = self._source.open(self._what, chunk.start, stop - chunk.start)
        if reader.start != chunk.start:
            reader.close()
            raise UnrangedError
        self._reader, self._position = reader, chunk.start
        self._looked_at, self._n_since = self._clock(), 0

    def _is_slow(self, n_bytes: int) -> bool:
        """Whether the stream has crawled for so long that a new one is worth a try."""
        self._n_since += n_bytes
        elapsed = self._clock() - self._looked_at
        if elapsed < LOW_SPEED_S:
            return False
        rate = self._n_since / elapsed
        self._looked_at, self._n_since = self._clock(), 0
        if self._n_slow < MAX_SLOW:
            self._n_slow += rate < LOW_BYTES_PER_S
            return rate < LOW_BYTES_PER_S
        if rate < DEAD_BYTES_PER_S:
            raise RegistryError(
                f"{self._source.name} sends {self._what.digest} at a crawl, again and again",
                hint="the network or the registry is overloaded: try again later",
            )
        return False
