"""A blob that is read in parts, until its endpoint turns out to send whole blobs only."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from ocimodel.lazy.blob import Blob, ChunkedBlob
from ocimodel.lazy.run import UnrangedError
from ocimodel.store.protocol import Advance


class SwitchingBlob:
    """`whole`: makes the other way to read it, told why; it may refuse. Thread-safe."""

    def __init__(self, chunked: ChunkedBlob, whole: Callable[[str], Blob]) -> None:
        self.size = chunked.size
        self._chunked = chunked
        self._new_whole = whole
        self._whole: Blob | None = None
        self._lock = threading.Lock()

    def read_into(self, start: int, out: memoryview) -> None:
        try:
            self._now().read_into(start, out)
        except UnrangedError:
            self._switched().read_into(start, out)

    def stretches(self, start: int, stop: int, n_bytes: int) -> Iterator[tuple[int, int]]:
        return self._chunked.stretches(start, stop, n_bytes)

    def load(self, start: int, out: memoryview | None, stop: int, advance: Advance) -> None:
        try:
            self._now().load(start, out, stop, advance)
        except UnrangedError:
            self._switched().load(start, out, stop, advance)

    def has(self, start: int, stop: int) -> bool:
        # what came in parts stays, while the whole is still on its way
        return self._chunked.has(start, stop) or self._now().has(start, stop)

    def publish(self) -> bool:
        """Whether the whole blob has its place among the finished ones of the cache."""
        return self._now().publish()

    def close(self) -> None:
        self._chunked.close()
        if self._whole:
            self._whole.close()

    def _now(self) -> Blob:
        return self._whole or self._chunked

    def _switched(self) -> Blob:
        with self._lock:
            if self._whole is None:
                self._whole = self._new_whole("the endpoint ignores ranges")
            return self._whole
