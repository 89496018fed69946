"""Remembers which parts of which files were read, in the order of their first reads."""

from __future__ import annotations

import threading

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
        ranges: list[Range] = []
        for path, start, stop in found:
            for low, high in _outside(start, stop, seen.setdefault(path, [])):
                ranges.append((path, low, high - low))
            seen[path].append((start, stop))
        return tuple(ranges)


def _outside(start: int, stop: int, taken: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The parts of [start, stop) that no stretch of `taken` has."""
    left = [(start, stop)]
    for low, high in taken:
        left = [
            part
            for begin, end in left
            for part in ((begin, min(end, low)), (max(begin, high), end))
            if part[0] < part[1]
        ]
    return left
