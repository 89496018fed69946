"""Sequential, bounded reading over ranged reads: what every parser of this folder stands on."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from ocimodel.errors import InputError

# (offset, length) → those bytes, fewer only where the file ends. Offsets and lengths in bytes.
ReadAt = Callable[[int, int], bytes]

# One ranged read: large enough to make few requests, small enough to waste little.
WINDOW: Final = 64 * 1024


def read_exactly(read_at: ReadAt, offset: int, length: int, what: str) -> bytes:
    """`length` bytes at `offset`; InputError naming `what` when the file ends before.

    The caller bounds `length`: this reads, and so allocates, that much.
    """
    data = read_at(offset, length) if length else b""
    if len(data) != length:
        raise InputError(
            f"{what}: expected {length} bytes at offset {offset}, got {len(data)}",
            hint="the file is truncated or damaged; fetch it again",
        )
    return data


def windowed(read_at: ReadAt, size: int, n_windows: int = 8) -> ReadAt:
    """The same bytes through a cache of `n_windows` windows, for readers that jump about.

    A walk over nested messages asks for many small neighbours; behind a network each would be a
    request. Holds at most `n_windows` x 64 KiB.
    """
    cached: OrderedDict[int, bytes] = OrderedDict()

    def window(index: int) -> bytes:
        if index in cached:
            cached.move_to_end(index)
            return cached[index]
        start = index * WINDOW
        data = read_at(start, min(WINDOW, size - start)) if start < size else b""
        cached[index] = data
        if len(cached) > n_windows:
            cached.popitem(last=False)
        return data

    def read(offset: int, length: int) -> bytes:
        first, last = offset // WINDOW, (offset + max(length, 1) - 1) // WINDOW
        if last - first > 1:
            return read_at(offset, length)
        start = offset - first * WINDOW
        data = window(first)
        if last > first:
            data += window(last)
        return data[start : start + length]

    return read


class Cursor:
    """Reads forward inside [position, end), one buffered window at a time; skipping costs nothing.

    Every read is checked against `end` before any byte is asked for, so a length that lies in the
    file can never drive an allocation. Errors are InputError beginning with `what`.
    """

    __slots__ = ("_read_at", "_window", "_window_start", "end", "position", "what")

    def __init__(self, read_at: ReadAt, position: int, end: int, what: str) -> None:
        self._read_at = read_at
        self._window = b""
        self._window_start = 0
        self.position = position
        self.end = end
        self.what = what

    @property
    def left(self) -> int:
        """Bytes between the position and the end."""
        return self.end - self.position

    def fail(self, message: str) -> InputError:
        """The error for something wrong at the current position; the caller raises it."""
        return InputError(f"{self.what}: {message} (at byte {self.position})")

    def need(self, length: int, field: str) -> None:
        """InputError unless `length` more bytes lie before the end."""
        if length > self.left:
            raise InputError(
                f"{self.what}: {field} needs {length} bytes at byte {self.position}, "
                f"{self.left} are left",
                hint="the file is truncated or damaged; fetch it again",
            )

    def skip(self, length: int, field: str) -> None:
        self.need(length, field)
        self.position += length

    def take(self, length: int, field: str) -> bytes:
        """The next `length` bytes. The caller caps `length` at what it is ready to hold."""
        self.need(length, field)
        start = self.position - self._window_start
        if start < 0 or start + length > len(self._window):
            wanted = max(length, min(WINDOW, self.left))
            self._window = read_exactly(self._read_at, self.position, wanted, self.what)
            self._window_start, start = self.position, 0
        self.position += length
        return self._window[start : start + length]

    def byte(self, field: str) -> int:
        """The next byte as a number."""
        start = self.position - self._window_start
        if 0 <= start < len(self._window) and self.position < self.end:
            self.position += 1
            return self._window[start]
        return self.take(1, field)[0]
