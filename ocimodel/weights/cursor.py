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
# The unit of caching for readers that jump about.
PAGE: Final = 4 * 1024
_MAX_PAGES: Final = 64
# What a window grows to while everything is read, as the tables of a GGUF header are.
_MAX_WINDOW: Final = 1024 * 1024


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


def windowed(read_at: ReadAt, size: int) -> ReadAt:
    """The same bytes through a cache of pages, for readers that jump about.

    A walk over nested messages asks for many small neighbours; behind a network each would be a
    request. One page after a jump, twice as many with each read that goes on from the last one.
    Holds at most 256 KiB.
    """
    pages: OrderedDict[int, bytes] = OrderedDict()
    n_ahead, following = 1, -1

    def page(index: int) -> bytes:
        nonlocal n_ahead, following
        if index in pages:
            pages.move_to_end(index)
            return pages[index]
        n_ahead = min(2 * n_ahead, WINDOW // PAGE) if index == following else 1
        start = index * PAGE
        data = read_at(start, min(n_ahead * PAGE, size - start)) if start < size else b""
        for i in range(n_ahead):
            pages[index + i] = data[i * PAGE : (i + 1) * PAGE]
            pages.move_to_end(index + i)
        following = index + n_ahead
        while len(pages) > _MAX_PAGES:
            pages.popitem(last=False)
        return pages[index]

    def read(offset: int, length: int) -> bytes:
        if length > WINDOW:
            return read_at(offset, length)
        first, last = offset // PAGE, (offset + max(length, 1) - 1) // PAGE
        data = page(first) if first == last else b"".join(map(page, range(first, last + 1)))
        start = offset - first * PAGE
        return data[start : start + length]

    return read


class Cursor:
    """Reads forward inside [position, end), one buffered window at a time; skipping costs nothing.

    `window`: bytes of the first read and of each after a jump; it doubles while all is read.

    Every read is checked against `end` before any byte is asked for, so a length that lies in the
    file can never drive an allocation. Errors are InputError beginning with `what`.
    """

    __slots__ = (
        "_ahead", "_first", "_read_at", "_window", "_window_start", "end", "position", "what"
    )  # fmt: skip

    def __init__(
        self, read_at: ReadAt, position: int, end: int, what: str, window: int = WINDOW
    ) -> None:
        self._read_at = read_at
        self._first = window
        self._window = b""
        self._window_start = 0
        self._ahead = window
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
            is_next = 0 < start <= len(self._window)
            self._ahead = min(2 * self._ahead, _MAX_WINDOW) if is_next else self._first
            wanted = max(length, min(self._ahead, self.left))
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
