"""One blob, read by its chunks; whoever reads, from wherever it comes, gets verified bytes."""

from __future__ import annotations

import contextlib
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Protocol

from ocimodel.errors import InputError
from ocimodel.lazy.memory import ChunkMemory
from ocimodel.lazy.run import Run
from ocimodel.spec.chunkindex import BlobChunks, Chunk
from ocimodel.spec.descriptor import Descriptor
from ocimodel.store.cachedblob import Bytes, CachedBlob
from ocimodel.store.protocol import Advance, Source


@dataclass(slots=True)
class Traffic:
    """Bytes by where they came from, and what it took. `n_waited`: reads that had to fetch."""

    n_fetched: int = 0
    n_cached: int = 0
    n_requests: int = 0
    n_waited: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, *, fetched: int = 0, cached: int = 0, requests: int = 0, waited: int = 0) -> None:
        with self.lock:
            self.n_fetched += fetched
            self.n_cached += cached
            self.n_requests += requests
            self.n_waited += waited


class Blob(Protocol):
    """Something to read from, at any place."""

    size: int

    def read_into(self, start: int, out: memoryview) -> None:
        """Fill `out` with the bytes from `start` on, verified. All of them lie in the blob."""
        ...

    def stretches(self, start: int, stop: int, n_bytes: int) -> Iterator[tuple[int, int]]:
        """[`start`, `stop`) in pieces of about `n_bytes` that are best fetched in one go."""
        ...

    def load(self, start: int, out: memoryview | None, stop: int, advance: Advance) -> None:
        """Fetch one stretch: into `out`, or only to where later reads find it."""
        ...

    def has(self, start: int, stop: int) -> bool:
        """Whether all of it is on disk already."""
        ...

    def publish(self) -> bool:
        """Whether the whole blob has its place among the finished ones of the cache. Reads it."""
        ...

    def close(self) -> None: ...


class ChunkedBlob:
    """A blob whose chunks are known. With `cached` they are kept on disk, else in `memory`.

    Thread-safe. `read_into` and `load` raise IntegrityError, RegistryError and UnrangedError.
    """

    def __init__(
        self,
        source: Source,
        what: Descriptor,
        chunks: BlobChunks,
        *,
        cached: CachedBlob | None,
        memory: ChunkMemory,
        traffic: Traffic,
    ) -> None:
        if chunks.size != what.size:
            raise InputError(f"{what.digest} has {what.size} bytes, its chunks {chunks.size}")
        self.size = what.size
        self._source = source
        self._what = what
        self._chunks = tuple(chunks.at())
        self._starts = [0, *accumulate(chunks.lengths)]
        self._cached = cached
        self._memory = memory
        self._traffic = traffic

    def close(self) -> None:
        if self._cached:
            self._cached.close()

    def read_into(self, start: int, out: memoryview) -> None:
        n_done = 0
        while n_done < len(out):
            i = self._at(start + n_done)
            chunk = self._chunks[i]
            offset = start + n_done - chunk.start
            length = min(chunk.length - offset, len(out) - n_done)
            out[n_done : n_done + length] = self._part(i, offset, length)
            n_done += length

    def stretches(self, start: int, stop: int, n_bytes: int) -> Iterator[tuple[int, int]]:
        begin = start
        while begin < stop:
            last = max(self._at(min(begin + n_bytes, stop) - 1), self._at(begin))
            end = min(self._starts[last + 1], stop)
            yield begin, end
            begin = end

    def load(self, start: int, out: memoryview | None, stop: int, advance: Advance) -> None:
        first, last = self._at(start), self._at(stop - 1)
        with self._run(self._starts[last + 1], advance) as run:
            for i in range(first, last + 1):
                chunk = self._chunks[i]
                begin, end = max(start, chunk.start), min(stop, chunk.start + chunk.length)
                part = None if out is None else out[begin - start : end - start]
                self._load(i, begin - chunk.start, part, run)

    def has(self, start: int, stop: int) -> bool:
        """Whether all of it is on disk already."""
        if self._cached is None:
            return False
        return all(self._cached.has(i) for i in range(self._at(start), self._at(stop - 1) + 1))

    def publish(self) -> bool:
        """Whether the whole blob has its place among the finished ones of the cache."""
        return self._cached is not None and self._cached.publish()

    def _load(self, i: int, offset: int, part: memoryview | None, run: Run) -> None:
        if self._cached is None and part is not None and len(part) == self._chunks[i].length:
            # straight to where it is wanted: no copy, and nothing to keep
            if self._memory.read_into(self._key(i), part, partial(self._fetch_into, run, i)):
                self._traffic.add(cached=len(part))
            return
        data = self._whole(i, partial(self._fetched, run, i))
        if part is not None:
            part[:] = memoryview(data)[offset : offset + len(part)]

    def _part(self, i: int, offset: int, length: int) -> memoryview | bytes:
        if self._cached is not None:
            found = self._cached.read_part(i, offset, length)
            if found is not None:
                self._traffic.add(cached=length)
                return found
        data = self._whole(i, partial(self._fetch_now, i))
        return memoryview(data)[offset : offset + length]

    def _whole(self, i: int, fetch: Callable[[], Bytes]) -> Bytes:
        """Chunk `i` from memory, from disk, or fetched, by one of those who want it."""
        fetched = False

        def fetch_it(_: Chunk | None = None) -> Bytes:
            nonlocal fetched
            fetched = True
            return fetch()

        def from_cache() -> Bytes:
            assert self._cached is not None
            return self._cached.read(i, fetch_it, is_verified=True)

        if self._cached is not None and self._cached.is_keeping:
            data = from_cache()
        else:
            get = from_cache if self._cached else fetch_it
            data = self._memory.read(self._key(i), get)
        if not fetched:
            self._traffic.add(cached=len(data))
        return data

    def _fetch_now(self, i: int) -> Bytes:
        """Somebody waits for it: by a request of its own, ahead of all that is queued."""
        self._traffic.add(waited=1)
        with self._run(self._starts[i + 1], lambda n_bytes: None) as run:
            return self._fetched(run, i)

    def _fetched(self, run: Run, i: int) -> Bytes:
        data = bytearray(self._chunks[i].length)
        self._fetch_into(run, i, memoryview(data))
        return data

    def _fetch_into(self, run: Run, i: int, out: memoryview) -> None:
        run.fetch(self._chunks[i], out)
        self._traffic.add(fetched=len(out))

    @contextlib.contextmanager
    def _run(self, stop: int, advance: Advance) -> Iterator[Run]:
        run = Run(self._source, self._what, stop, advance)
        try:
            yield run
        finally:
            run.close()
            self._traffic.add(requests=run.n_requests)

    def _key(self, i: int) -> tuple[str, int]:
        return self._what.digest, i

    def _at(self, position: int) -> int:
        """The chunk in which a byte lies."""
        return bisect_right(self._starts, position) - 1
