"""Sending files while others are still being hashed: the manifest, which needs all digests, waits.

Hashing a big model takes minutes in which the network would be idle.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

from ocimodel.events import Observer
from ocimodel.spec.descriptor import Descriptor
from ocimodel.store.copy import Report, send_ahead
from ocimodel.store.directory import DirectoryFiles, FileSlice
from ocimodel.store.protocol import Target

# hashing that is over sooner is better left alone with the processor
AFTER_S = 1.0


class Ahead:
    """Sends what `found` is told of, in a thread of its own; `finish` waits for it.

    It begins once hashing has taken AFTER_S; `finish` gives an empty report if it never did.

    An error on either side ends both: the sender's comes out of `found` or `finish`, and `abort`
    stops the sender.
    """

    def __init__(self, root: Path, target: Target, concurrency: int, observer: Observer) -> None:
        self._files: dict[str, FileSlice] = {}
        self._queue: SimpleQueue[Descriptor | Exception | None] = SimpleQueue()
        self._error: BaseException | None = None
        self._report = Report()
        self._begin_at = time.monotonic() + AFTER_S
        source = DirectoryFiles(root, self._files)
        self._thread = threading.Thread(
            target=self._send,
            args=(source, target, concurrency, observer),
            name="ocimodel-ahead",
            daemon=True,
        )
        self._lock = threading.Lock()

    def found(self, layer: Descriptor, place: FileSlice) -> None:
        if self._error:
            raise self._error
        with self._lock:
            if layer.digest not in self._files:
                self._files[layer.digest] = place
                self._queue.put(layer)
            if self._thread.ident is None and time.monotonic() >= self._begin_at:
                self._thread.start()

    def finish(self) -> Report:
        self._queue.put(None)
        if self._thread.ident is not None:
            self._thread.join()
        if self._error:
            raise self._error
        return self._report

    def abort(self, error: Exception) -> None:
        self._queue.put(error)

    def _send(
        self, source: DirectoryFiles, target: Target, concurrency: int, observer: Observer
    ) -> None:
        try:
            self._report = send_ahead(
                source, target, self._layers(), concurrency=concurrency, observer=observer
            )
        except BaseException as error:  # noqa: BLE001 - handed to whoever packs
            self._error = error

    def _layers(self) -> Iterator[Descriptor]:
        while (item := self._queue.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item
