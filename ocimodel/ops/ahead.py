"""Sending files while others are still being hashed: the manifest, which needs all digests, waits.

Hashing a big model takes minutes in which the network would be idle.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue

from ocimodel.events import Observer
from ocimodel.spec.descriptor import Descriptor
from ocimodel.store.copy import Report, send_ahead
from ocimodel.store.directory import DirectoryFiles
from ocimodel.store.protocol import Target


class Ahead:
    """Sends what `found` is told of, in a thread of its own; `finish` waits for it.

    An error on either side ends both: the sender's comes out of `found` or `finish`, and `abort`
    stops the sender.
    """

    def __init__(self, root: Path, target: Target, concurrency: int, observer: Observer) -> None:
        self._files: dict[str, Path] = {}
        self._queue: SimpleQueue[Descriptor | Exception | None] = SimpleQueue()
        self._error: BaseException | None = None
        self._report = Report()
        source = DirectoryFiles(root, self._files)
        self._thread = _started(lambda: self._send(source, target, concurrency, observer))

    def found(self, layer: Descriptor, path: Path) -> None:
        if self._error:
            raise self._error
        if layer.digest not in self._files:
            self._files[layer.digest] = path
            self._queue.put(layer)

    def finish(self) -> Report:
        self._queue.put(None)
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


def _started(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, name="ocimodel-ahead", daemon=True)
    thread.start()
    return thread
