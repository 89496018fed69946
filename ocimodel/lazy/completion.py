"""Fetches all of a model into the cache in the background, so that the registry may then go away.

Configuration and tokenizer come first, then the weights as they lie in their files, or what an
access profile says. Where somebody has to wait for bytes, it goes on from there: who reads a file
from front to back then finds the next ones on their way.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from heapq import heappop, heappush
from itertools import chain, pairwise
from typing import Final

from ocimodel.errors import IntegrityError
from ocimodel.events import Notice, Observer, ignore
from ocimodel.lazy.file import LazyFile
from ocimodel.lazy.model import LazyModel
from ocimodel.lazy.pool import MAX_STREAMS
from ocimodel.spec.profile import MAX_RANGES, Range

# seconds after an error: doubled each time up to the last one
MIN_WAIT_S: Final = 1.0
MAX_WAIT_S: Final = 30.0
# a finished blob that turned out to be damaged is completed again, so often
_MAX_ROUNDS: Final = 3
Cancel = Callable[[], None]
Later = Callable[[float, Callable[[], None]], Cancel]


class _State(Enum):
    WAITING = auto()
    RUNNING = auto()
    DONE = auto()
    # wrong wherever it can be had from, or there is no place to keep it
    LOST = auto()


@dataclass(slots=True, eq=False)
class _Piece:
    """What one request fetches."""

    file: LazyFile
    start: int
    stop: int
    state: _State = _State.WAITING


@dataclass(frozen=True, slots=True)
class Progress:
    """`n_done` of `n_total` bytes were fetched, or were here already."""

    n_done: int
    n_total: int


def later(delay_s: float, action: Callable[[], None]) -> Cancel:
    """Do it in a while, in a thread of its own; gives the way to have it not done."""
    timer = threading.Timer(delay_s, action)
    timer.daemon = True
    timer.start()
    return timer.cancel


class Completion:
    """Thread-safe. `done`: set once nothing is left to do, whether or not all of it went well.

    An error of the registry is no end: it tries again, less and less often, until `close`. Bytes
    that are wrong are said once for each file, and left to whoever reads them.
    """

    def __init__(
        self,
        model: LazyModel,
        ranges: Sequence[Range] = (),
        *,
        observer: Observer = ignore,
        later: Later = later,
    ) -> None:
        """`ranges`: what to fetch first, in this order; an access profile."""
        self.done = threading.Event()
        self._model = model
        self._observer = observer
        self._later = later
        self._order, self._places = _plan(model, ranges)
        self._next = 0
        self._n_left = Counter(piece.file.path for piece in self._order)
        self._n_rounds: Counter[str] = Counter()
        self._n_finishing = 0
        self._n_done = 0
        self._n_running = 0
        self._wait_s = 0.0
        self._cancel: Cancel | None = None
        self._is_closed = False
        self._finished: set[str] = set()
        self._told: set[str] = set()
        self._lock = threading.Lock()

    def start(self) -> None:
        """Begin, or go on after an error."""
        with self._lock:
            self._cancel = None
            if not self._order:
                self.done.set()
            n_wanted = 0 if self._is_closed else min(MAX_STREAMS, len(self._order))
            n_more = max(0, n_wanted - self._n_running)
            self._n_running += n_more
        for _ in range(n_more):
            self._model.pool.submit(self._run)

    def touch(self, path: str, position: int) -> None:
        """Somebody reads there: what is missing from there on is what they want next."""
        if self.done.is_set() or path not in self._places:
            return
        starts, numbers = self._places[path]
        number = numbers[max(0, bisect_right(starts, position) - 1)]
        with self._lock:
            if self._order[number].state is _State.WAITING:
                self._next = number

    def has_finished(self, path: str) -> bool:
        """Whether the cache has all of this file, in its final place."""
        return path in self._finished

    @property
    def progress(self) -> Progress:
        with self._lock:
            return Progress(self._n_done, sum(p.stop - p.start for p in self._order))

    def close(self) -> None:
        """Begin nothing more; what is on its way may still come in."""
        with self._lock:
            self._is_closed = True
            cancel, self._cancel = self._cancel, None
        if cancel:
            cancel()

    def _run(self) -> None:
        """Fetch one piece in a thread of the pool, then stand in line again."""
        piece = self._take()
        if piece is None:
            return
        try:
            state = self._load(piece)
        except Exception as error:  # noqa: BLE001 - whatever it is, it may be over in a while
            self._give_back(piece, error)
            return
        self._finish(piece, state)
        self._model.pool.submit(self._run)

    def _take(self) -> _Piece | None:
        """The next piece; None, and a run less, if there is none or not now."""
        with self._lock:
            if not (self._is_closed or self._cancel):
                n = len(self._order)
                for number in chain(range(self._next, n), range(self._next)):
                    piece = self._order[number]
                    if piece.state is _State.WAITING:
                        piece.state = _State.RUNNING
                        self._next = number + 1
                        return piece
            self._n_running -= 1
            return None

    def _load(self, piece: _Piece) -> _State:
        file, start, stop = piece.file, piece.start, piece.stop
        if not file.has(start, stop):
            try:
                file.load(start, stop)
            except IntegrityError as error:
                self._tell_once(file.path, error)
                # the rest of the piece may be right
                for low, high in file.stretches(start, stop, 1):
                    with suppress(IntegrityError):
                        file.load(low, high)
        return _State.DONE if file.has(start, stop) else _State.LOST

    def _give_back(self, piece: _Piece, error: Exception) -> None:
        with self._lock:
            piece.state = _State.WAITING
            self._n_running -= 1
            if self._is_closed or self._cancel:
                return
            self._wait_s = min(MAX_WAIT_S, 2 * self._wait_s) or MIN_WAIT_S
            is_first = self._wait_s == MIN_WAIT_S
            self._cancel = self._later(self._wait_s, self.start)
        if is_first:
            self._observer(Notice(f"completion in the background is held up, and goes on: {error}"))

    def _finish(self, piece: _Piece, state: _State) -> None:
        path = piece.file.path
        with self._lock:
            self._wait_s = 0.0
            piece.state = state
            if state is _State.DONE:
                self._n_done += piece.stop - piece.start
            self._n_left[path] -= 1
            is_last = self._n_left[path] == 0
            self._n_finishing += is_last
        if is_last:
            again = self._publish(piece.file)
            with self._lock:
                self._n_finishing -= 1
                for other in again:
                    other.state = _State.WAITING
                    self._n_done -= other.stop - other.start
                self._n_left[path] += len(again)
                if not (self._n_finishing or any(self._n_left.values())):
                    self.done.set()

    def _publish(self, file: LazyFile) -> list[_Piece]:
        """Give a whole file its place; what of it is missing after all."""
        path = file.path
        self._n_rounds[path] += 1
        try:
            if file.publish():
                # it may have been there for long: from here on it is known to be right
                if (fd := self._model.open_finished(path)) is not None:
                    os.close(fd)
                    self._finished.add(path)
            elif self._n_rounds[path] < _MAX_ROUNDS:
                own = [p for p in self._order if p.file is file and p.state is _State.DONE]
                return [p for p in own if not file.has(p.start, p.stop)]
        except Exception as error:  # noqa: BLE001 - readers go on with what is there
            self._tell_once(path, error)
        return []

    def _tell_once(self, path: str, error: Exception) -> None:
        with self._lock:
            is_first = path not in self._told and not self._is_closed
            self._told.add(path)
        if is_first:
            self._observer(Notice(f"{path[:200]!r} cannot be completed: {error}"))


# by path: where its pieces start, and their numbers
Places = dict[str, tuple[list[int], list[int]]]


def _plan(model: LazyModel, ranges: Sequence[Range]) -> tuple[list[_Piece], Places]:
    """All bytes of the model in pieces, in the order in which they are fetched."""
    wanted: dict[str, list[tuple[int, int, int]]] = {}
    for rank, (path, start, length) in enumerate(ranges):
        if length:
            wanted.setdefault(path, []).append((start, start + length, rank))
    ranked: list[tuple[int, _Piece]] = []
    for described in sorted(model.model_files, key=lambda f: f.kind == "weight"):
        file = model.files[described.path]
        for start, stop, rank in _parts(file.size, wanted.get(file.path, [])):
            ranked += [(rank, _Piece(file, low, high)) for low, high in file.stretches(start, stop)]
    ranked.sort(key=lambda one: one[0])
    order = [piece for _, piece in ranked]
    places: Places = {}
    for number, piece in sorted(enumerate(order), key=lambda one: one[1].start):
        starts, numbers = places.setdefault(piece.file.path, ([], []))
        starts.append(piece.start)
        numbers.append(number)
    return order, places


def _parts(size: int, wanted: list[tuple[int, int, int]]) -> Iterator[tuple[int, int, int]]:
    """A file cut where what is wanted (start, stop, rank) begins or ends: the same of each part.

    What nobody wants comes after all that somebody does.
    """
    edges = {0, size, *(edge for start, stop, _ in wanted for edge in (start, stop) if edge < size)}
    coming = sorted(wanted, reverse=True)
    open_: list[tuple[int, int]] = []
    for start, stop in pairwise(sorted(edges)):
        while coming and coming[-1][0] <= start:
            _, end, rank = coming.pop()
            heappush(open_, (rank, end))
        while open_ and open_[0][1] <= start:
            heappop(open_)
        yield start, stop, open_[0][0] if open_ else MAX_RANGES
