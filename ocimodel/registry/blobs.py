"""Blobs coming down: ranges, redirects to storage that are remembered, and broken connections."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable

from ocimodel.errors import (
    AuthenticationError,
    IntegrityError,
    NotFoundError,
    OcimodelError,
    RegistryError,
)
from ocimodel.registry.transport import Client, Scope
from ocimodel.registry.wire import Answer, NetworkErrors, place
from ocimodel.spec.descriptor import Descriptor
from ocimodel.store.streams import Stream

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
# a presigned storage URL is good for minutes; long before it ends we ask again
_LOCATION_S = 120.0
# a connection that brings no byte for so long is likely dead; its successor gets the full timeout
STALL_S = 2.0


class Downloads:
    """The blobs of one repository at one endpoint. Thread-safe.

    `path`: the URL path of a blob by its digest. `scope`: what a token must allow.
    """

    def __init__(
        self,
        client: Client,
        path: Callable[[str], str],
        scope: Scope,
        *,
        n_attempts: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._path = path
        self._scope = scope
        self._clock = clock
        self.n_attempts = n_attempts
        # digest → where storage was found to be, and until when to believe it
        self._located: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()

    def open(
        self, what: Descriptor, start: int, length: int, rescue: Downloads | None = None
    ) -> BlobStream:
        """`rescue`: where the rest comes from when this endpoint breaks off for good."""
        answer, at, n_bytes = self.ask(what, start, length)
        return BlobStream(self, what, answer, at, n_bytes, rescue)

    def ask(self, what: Descriptor, start: int, length: int) -> tuple[Answer, int, int]:
        """An answer with the wanted bytes in it, the offset of its first byte, and their number.

        The whole blob is asked for without Range, since not every cache knows it; and no range is
        ever empty, for which some registries send a broken 416.
        """
        ranged = (start, length) != (0, what.size) and length > 0
        headers = {"Range": f"bytes={start}-{start + length - 1}"} if ranged else {}
        answer = self._get(what, headers)
        if answer.status == 206 and ranged:
            self._check_range(answer, what, start, length)
            return answer, start, length
        if answer.length not in (-1, what.size):
            size = answer.length
            answer.close()
            raise self._other_size(what, str(size))
        return answer, 0, what.size

    def _get(self, what: Descriptor, headers: dict[str, str]) -> Answer:
        url = self._path(what.digest)
        with self._lock:
            location, until = self._located.get(what.digest, ("", 0.0))
        name = f"blob {what.digest} in {self._client.host}"
        if location and self._clock() < until:
            try:
                return self._client.request(
                    "GET", location, headers=headers, accept=(200, 206), what=name
                )
            except (AuthenticationError, NotFoundError, RegistryError):
                # the signature in it has run out, or the storage moved: ask the registry again
                with self._lock:
                    self._located.pop(what.digest, None)
        answer = self._client.request(
            "GET", url, scope=self._scope, headers=headers, accept=(200, 206), what=name
        )
        if not self._client.is_own(answer.url):
            with self._lock:
                self._located[what.digest] = (answer.url, self._clock() + _LOCATION_S)
        return answer

    def _check_range(self, answer: Answer, what: Descriptor, start: int, length: int) -> None:
        given = _CONTENT_RANGE.fullmatch(answer.headers.get("content-range", ""))
        wanted = (str(start), str(start + length - 1))
        if given and given[3] not in (str(what.size), "*"):
            answer.close()
            raise self._other_size(what, given[3])
        if not given or given.groups()[:2] != wanted or answer.length not in (-1, length):
            said = answer.headers.get("content-range", "nothing")[:100]
            answer.close()
            raise RegistryError(
                f"{place(answer.url)} was asked for bytes {'-'.join(wanted)} and sent {said!r}",
                hint="a cache between here and the registry may be at fault: try without it",
            )

    def _other_size(self, what: Descriptor, size: str) -> IntegrityError:
        return IntegrityError(
            f"blob {what.digest} has {size} bytes at {self._client.host}, not {what.size}",
            hint="the manifest or the registry is damaged: pull from another one, or push again",
        )


class BlobStream(Stream):
    """A range of a blob; goes on by itself, with a new request, where a connection broke."""

    def __init__(
        self,
        downloads: Downloads,
        what: Descriptor,
        answer: Answer,
        start: int,
        length: int,
        rescue: Downloads | None = None,
    ) -> None:
        self.start = start
        self.length = length
        self._downloads = downloads
        self._what = what
        self._answer = answer
        self._rescue = rescue
        self._position = start
        self._failures = 0
        answer.wait_at_most(STALL_S)

    def readinto(self, buffer: memoryview, /) -> int:
        left = self.start + self.length - self._position
        if not left:
            return 0
        while True:
            try:
                n = self._answer.readinto(buffer[:left])
                problem = "the connection was closed"
            except NetworkErrors as error:
                n, problem = 0, "no data in time" if isinstance(error, TimeoutError) else str(error)
            if n:
                self._position += n
                if self._failures:
                    self._failures = 0
                    self._answer.wait_at_most(STALL_S)
                return n
            self._resume(problem)

    def _resume(self, problem: str) -> None:
        self._answer.close()
        self._failures += 1
        left = self.start + self.length - self._position
        self._answer, at, n_bytes = self._ask_on(left, problem)
        if (at, n_bytes) != (self._position, left):
            self._pass_over(self._position - at)

    def _ask_on(self, left: int, problem: str) -> tuple[Answer, int, int]:
        while True:
            try:
                if self._failures < self._downloads.n_attempts:
                    return self._downloads.ask(self._what, self._position, left)
                raise RegistryError(
                    f"{place(self._answer.url)} broke off at byte {self._position}: {problem}",
                    hint="run the same command again: it resumes",
                )
            except OcimodelError:
                if self._rescue is None:
                    raise
                self._downloads, self._rescue, self._failures = self._rescue, None, 0

    def _pass_over(self, n_bytes: int) -> None:
        """The endpoint knows no ranges: what we have comes again."""
        scratch = memoryview(bytearray(64 << 10))
        while n_bytes:
            try:
                n = self._answer.readinto(scratch[:n_bytes])
            except NetworkErrors as error:
                raise RegistryError(f"{place(self._answer.url)} broke off: {error}") from error
            if n == 0:
                raise RegistryError(
                    f"{place(self._answer.url)} broke off again before byte {self._position}",
                    hint="it serves no ranges, so that a broken download starts over",
                )
            n_bytes -= n

    def close(self) -> None:
        self._answer.close()
