"""Many tensors in an order: fetched ahead within a window, given out as they arrive."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from ocimodel.errors import IntegrityError
from ocimodel.lazy.file import STRETCH_BYTES, LazyFile
from ocimodel.lazy.pool import Pool
from ocimodel.lazy.tensors import new_buffer
from ocimodel.spec.tensor import Tensor

# tensors that follow each other in a file are fetched together up to this size
GROUP_BYTES: Final = STRETCH_BYTES
FIRST_STRETCH_BYTES: Final = 4 << 20
# between two tensors, so much is fetched along
MAX_GAP_BYTES: Final = 4096

Wanted = tuple[Tensor, LazyFile]


@dataclass(slots=True, eq=False)
class _Group:
    """Tensors that are fetched together, in one buffer."""

    file: LazyFile
    start: int
    stop: int
    tensors: list[Tensor]
    buffer: memoryview = field(default_factory=lambda: memoryview(b""))
    n_left: int = 0
    error: Exception | None = None


def group(wanted: Sequence[Wanted]) -> list[_Group]:
    """Neighbours joined, in the order that was asked for."""
    groups: list[_Group] = []
    for tensor, file in wanted:
        stop = tensor.offset + tensor.length
        last = groups[-1] if groups else None
        if (
            last is not None
            and last.file is file
            and 0 <= tensor.offset - last.stop <= MAX_GAP_BYTES
            and (stop - last.start <= GROUP_BYTES or _share_chunk(last, tensor))
        ):
            last.stop = stop
            last.tensors.append(tensor)
        else:
            groups.append(_Group(file, tensor.offset, stop, [tensor]))
    return groups


def _share_chunk(last: _Group, tensor: Tensor) -> bool:
    """Whether parting them would have a chunk fetched, or kept in memory, for both."""
    return len(last.file.stretches(max(0, last.stop - 1), tensor.offset + 1, 1)) == 1


class Loading:
    """Iterates (tensor, its bytes in memory of its own), in order.

    At most `window` bytes are fetched ahead of who iterates, or one group if that is bigger. The
    first error is raised where its tensor would have come. To stop early, `close`.
    """

    def __init__(self, wanted: Sequence[Wanted], pool: Pool, window: int) -> None:
        self._waiting = deque(group(wanted))
        self._begun: deque[_Group] = deque()
        self._pool = pool
        self._window = window
        self._n_ahead = 0
        self._changed = threading.Condition()
        self._is_closed = False

    def __iter__(self) -> Iterator[tuple[Tensor, memoryview]]:
        try:
            while self._begin_more():
                ready = self._begun.popleft()
                with self._changed:
                    self._changed.wait_for(lambda ready=ready: not ready.n_left)  # type: ignore[misc]
                self._n_ahead -= ready.stop - ready.start
                if ready.error is None:
                    yield from _split(ready)
                elif isinstance(ready.error, IntegrityError):
                    yield from _one_by_one(ready)
                else:
                    raise ready.error
        finally:
            self.close()

    def begin(self) -> None:
        """Fetch what fits into the window, before anybody asks."""
        self._begin_more()

    def close(self) -> None:
        """Nothing more is begun; what is on its way comes to nothing."""
        self._is_closed = True
        self._waiting.clear()

    def _begin_more(self) -> bool:
        """Fill the window; whether there is anything to wait for."""
        while self._waiting:
            size = self._waiting[0].stop - self._waiting[0].start
            if self._begun and self._n_ahead + size > self._window:
                break
            self._begin(self._waiting.popleft())
        return bool(self._begun)

    def _begin(self, new: _Group) -> None:
        new.buffer = new_buffer(new.stop - new.start)
        # somebody waits for the first one: all streams together, in small parts
        is_first = not self._begun
        stretches = new.file.stretches(
            new.start, new.stop, FIRST_STRETCH_BYTES if is_first else STRETCH_BYTES
        )
        new.n_left = len(stretches)
        self._n_ahead += new.stop - new.start
        self._begun.append(new)
        for start, stop in stretches:
            self._pool.submit(partial(self._load, new, start, stop))

    def _load(self, one: _Group, start: int, stop: int) -> None:
        error: Exception | None = None
        if not (self._is_closed or one.error):
            try:
                out = one.buffer[start - one.start : stop - one.start]
                one.file.load(start, stop, out)
            except Exception as raised:  # noqa: BLE001 - it is raised where somebody waits
                error = raised
        with self._changed:
            one.error = one.error or error
            one.n_left -= 1
            self._changed.notify_all()


def _one_by_one(failed: _Group) -> Iterator[tuple[Tensor, memoryview]]:
    """Some chunk is wrong: those that need it fail, and what lies before them is good."""
    for tensor in failed.tensors:
        data = new_buffer(tensor.length)
        failed.file.fill(tensor.offset, data)
        yield tensor, data


def _split(ready: _Group) -> Iterator[tuple[Tensor, memoryview]]:
    for tensor in ready.tensors:
        begin = tensor.offset - ready.start
        part = ready.buffer[begin : begin + tensor.length]
        if len(ready.tensors) > 1:
            # or one small tensor that is kept would keep its neighbours in memory
            own = new_buffer(tensor.length)
            own[:] = part
            part = own
        yield tensor, part
