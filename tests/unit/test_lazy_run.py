"""A run of chunks over a stream that is wrong, short, slow, or whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from ocimodel.errors import IntegrityError, RegistryError
from ocimodel.lazy.run import (
    DEAD_BYTES_PER_S,
    LOW_BYTES_PER_S,
    LOW_SPEED_S,
    MAX_SLOW,
    Run,
    UnrangedError,
)
from ocimodel.spec.descriptor import Descriptor
from ocimodel.store.protocol import Reader
from ocimodel.store.streams import BytesReader
from tests.cached import CHUNKS, CONTENT, PARTS, WHAT, N

AT = tuple(CHUNKS.at())


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Streams:
    """A source whose n-th stream gives what `contents` says, at its pace."""

    contents: list[bytes] = field(default_factory=list)
    whole: bool = False
    clock: Clock = field(default_factory=Clock)
    bytes_per_s: list[float] = field(default_factory=list)
    piece: int = 1 << 30
    asked: list[tuple[int, int]] = field(default_factory=list)
    rejected: int = 0
    n_closed: int = 0
    name: str = "streams"

    def open(self, what: Descriptor, start: int = 0, length: int | None = None) -> Reader:
        n = len(self.asked)
        self.asked.append((start, length or 0))
        content = self.contents[min(n, len(self.contents) - 1)] if self.contents else CONTENT
        rate = self.bytes_per_s[min(n, len(self.bytes_per_s) - 1)] if self.bytes_per_s else 0.0
        return _Paced(self, content, 0 if self.whole else start, length or 0, rate)

    def reject(self, what: Descriptor) -> bool:
        self.rejected += 1
        return False


class _Paced(BytesReader):
    def __init__(
        self, streams: Streams, content: bytes, start: int, length: int, rate: float
    ) -> None:
        super().__init__(content, start, length)
        self._streams = streams
        self._rate = rate

    def readinto(self, buffer: memoryview, /) -> int:
        n = super().readinto(buffer[: self._streams.piece])
        self._streams.clock.now += n / self._rate if self._rate else 0.0
        return n

    def close(self) -> None:
        self._streams.n_closed += 1


Fetch = Callable[[Streams, list[int]], list[bytes]]


@pytest.fixture
def fetch() -> Iterator[Fetch]:
    """The chunks of these numbers, one after the other, in one run."""

    def fetched(streams: Streams, numbers: list[int]) -> list[bytes]:
        seen: list[int] = []
        run = Run(streams, WHAT, WHAT.size, seen.append, streams.clock)  # type: ignore[arg-type]
        try:
            found = []
            for i in numbers:
                out = bytearray(AT[i].length)
                run.fetch(AT[i], memoryview(out))
                found.append(bytes(out))
            assert sum(seen) >= sum(map(len, found))
            return found
        finally:
            run.close()
            assert run.n_requests == len(streams.asked) == streams.n_closed

    yield fetched


def wrong(i: int, n_bytes: int = 1) -> bytes:
    """The content with changed bytes at the end of chunk `i`."""
    end = AT[i].start + AT[i].length
    return CONTENT[: end - n_bytes] + bytes(n_bytes) + CONTENT[end:]


def test_one_request_for_what_follows_each_other(fetch: Fetch) -> None:
    streams = Streams(piece=1000)
    assert fetch(streams, list(range(N))) == PARTS
    assert streams.asked == [(0, WHAT.size)]


def test_a_chunk_that_is_passed_over_begins_a_request(fetch: Fetch) -> None:
    streams = Streams()
    assert fetch(streams, [1, 3, 0]) == [PARTS[1], PARTS[3], PARTS[0]]
    assert [start for start, _ in streams.asked] == [AT[1].start, AT[3].start, 0]


def test_wrong_bytes_are_fetched_once_more(fetch: Fetch) -> None:
    streams = Streams([wrong(1), CONTENT])
    assert fetch(streams, [0, 1, 2]) == PARTS[:3]
    assert streams.asked == [(0, WHAT.size), (AT[1].start, WHAT.size - AT[1].start)]
    assert streams.rejected == 1


def test_wrong_bytes_twice_are_an_integrity_error(fetch: Fetch) -> None:
    streams = Streams([wrong(1)])
    with pytest.raises(IntegrityError, match=AT[1].digest.hex()):
        fetch(streams, [0, 1])
    assert len(streams.asked) == 2


@pytest.mark.parametrize("i", range(N))
@pytest.mark.parametrize("n_bytes", [1, 64])
def test_no_wrong_chunk_passes(fetch: Fetch, i: int, n_bytes: int) -> None:
    streams = Streams([wrong(i, n_bytes)])
    others = [j for j in range(N) if j != i]
    assert fetch(streams, others) == [PARTS[j] for j in others]
    with pytest.raises(IntegrityError):
        fetch(Streams([wrong(i, n_bytes)]), [i])


def test_a_stream_that_ends_early_is_an_integrity_error(fetch: Fetch) -> None:
    with pytest.raises(IntegrityError, match=f"ended at byte {AT[2].start + 5} of {WHAT.size}"):
        fetch(Streams([CONTENT[: AT[2].start + 5]]), [1, 2])


def test_who_sends_the_whole_is_told_apart(fetch: Fetch) -> None:
    assert fetch(Streams(whole=True), [0, 1]) == PARTS[:2]
    with pytest.raises(UnrangedError):
        fetch(Streams(whole=True), [1])


def test_a_crawling_stream_is_given_up_for_a_new_one(fetch: Fetch) -> None:
    streams = Streams(bytes_per_s=[LOW_BYTES_PER_S / 10, 1e9], piece=20_000)
    assert fetch(streams, list(range(N))) == PARTS
    assert len(streams.asked) == 2
    # after LOW_SPEED_S, from where it was
    assert LOW_SPEED_S * LOW_BYTES_PER_S / 10 <= streams.asked[1][0] <= 2 * 20_000 * LOW_SPEED_S


def test_a_slow_network_is_borne_after_some_tries(fetch: Fetch) -> None:
    streams = Streams(bytes_per_s=[DEAD_BYTES_PER_S * 2], piece=1000)
    assert fetch(streams, list(range(N))) == PARTS
    assert len(streams.asked) == 1 + MAX_SLOW


def test_a_dead_network_is_a_registry_error(fetch: Fetch) -> None:
    streams = Streams(bytes_per_s=[DEAD_BYTES_PER_S / 2], piece=100)
    with pytest.raises(RegistryError, match="crawl") as caught:
        fetch(streams, list(range(N)))
    assert caught.value.hint
    assert len(streams.asked) == 1 + MAX_SLOW
    assert streams.clock.now < (MAX_SLOW + 2) * 2 * LOW_SPEED_S


def test_a_crawl_that_ends_with_its_chunk_costs_nothing(fetch: Fetch) -> None:
    streams = Streams(bytes_per_s=[100.0])
    assert fetch(streams, [0]) == PARTS[:1]
    assert len(streams.asked) == 1
