"""Remembers which parts of which files were read, in the order of their first reads."""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right

from ocimodel.spec.profile import MAX_RANGES, Range


class Recorder:
    """Thread-safe. What goes on where an earlier read of the file ended lengthens its range."""

    def __init__(self) -> None:
        self._starts: dict[tuple[str, int], int] = {}
        self._order: list[tuple[str, int]] = []
        # by path and end: the range that ends there
        self._ends: dict[tuple[str, int], tuple[str, int]] = {}
        self._lock = threading.Lock()

    def note(self, path: str, start: int, stop: int) -> None:
        with self._lock:
            grown = self._ends.pop((path, start), None)
            key = grown or (path, start)
            if key not in self._starts:
                if len(self._order) == MAX_RANGES:
                    return
                self._order.append(key)
            self._starts[key] = max(stop, self._starts.get(key, stop))
            self._ends[(path, self._starts[key])] = key

    def ranges(self) -> tuple[Range, ...]:
        """What was read, each byte once, where it was first read."""
        with self._lock:
            found = [(path, start, self._starts[path, start]) for path, start in self._order]
        seen: dict[str, list[tuple[int, int]]] = {}
        return tuple(
            (path, low, high - low)
            for path, start, stop in found
            for low, high in _claim(start, stop, seen.setdefault(path, []))
        )


def _claim(start: int, stop: int, taken: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The parts of [start, stop) that `taken`, sorted and disjoint, has not; it has them then."""
    first = bisect_left(taken, start, key=lambda part: part[1])
    last = bisect_right(taken, stop, key=lambda part: part[0])
    inside = taken[first:last]
    edges = [start, *(edge for part in inside for edge in part), stop]
    if inside:
        start, stop = min(start, inside[0][0]), max(stop, inside[-1][1])
    taken[first:last] = [(start, stop)]
    return [(low, high) for low, high in zip(edges[::2], edges[1::2], strict=True) if low < high]
