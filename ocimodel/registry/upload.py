"""Blobs going up, by the ladder that every registry has a rung of.

1. POST, then PUT of the whole: one round trip more than the minimum, and it can be hashed,
   length-delimited and replayed.
2. Where that is refused for its size or dies: POST, one streaming PATCH, then PUT.
3. Last: PATCHes of a few MiB with Content-Range.

Each rung starts with a new upload: sessions of distribution are gone after a dropped request.
Source: distribution-spec v1.1, "Pushing blobs"; the quirks are in docs/registries.md.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from urllib.parse import quote, urljoin

from ocimodel.errors import AuthenticationError, IntegrityError, NotFoundError, RegistryError
from ocimodel.events import Notice, Observer
from ocimodel.registry.transport import RETRIED, Client, Scope, UploadRefusedError
from ocimodel.registry.wire import Answer, Body, place
from ocimodel.spec.descriptor import Descriptor
from ocimodel.store.protocol import Advance, Reader, Source
from ocimodel.store.streams import Verified, thread_buffer

CHUNK_BYTES = 8 << 20
# a token must outlive the upload; most live five minutes
_FRESH_S = 60.0
_TRY_NEXT = frozenset({0, 400, 404, 405, 408, 411, 413, 416, 501})


class Uploads:
    """Uploads into one repository. Thread-safe."""

    def __init__(
        self, client: Client, repository: str, scope: Scope, observer: Observer, n_attempts: int
    ) -> None:
        self._client = client
        self._repository = repository
        self._scope = scope
        self._observer = observer
        self._n_attempts = n_attempts
        # where this registry was found to take uploads; so each blob need not learn it again
        self._rung = 0
        self._lock = threading.Lock()

    def mount(self, what: Descriptor, origin: str, scope: Scope) -> bool:
        """Have the registry take the blob over from its repository `origin`.

        `scope` allows to pull from there too. Never raises for a refusal: registries have many
        words for no.
        """
        query = f"mount={quote(what.digest)}&from={quote(origin, safe='')}"
        try:
            answer = self._client.request(
                "POST",
                f"/v2/{self._repository}/blobs/uploads/?{query}",
                scope=scope,
                accept=range(200, 500),
            )
        except (RegistryError, AuthenticationError, NotFoundError):
            return False
        if answer.status == 202 and "location" in answer.headers:
            # it began an upload instead, which nobody will finish
            self._cancel(self._location(answer))
        answer.close()
        return answer.status == 201

    def check(self) -> None:
        """Begin an upload and cancel it: raises what a push would."""
        self._cancel(self._start())

    def send(self, what: Descriptor, source: Source, advance: Advance) -> None:
        """Upload a blob. `advance` also gets negative numbers, when an attempt starts over."""
        rungs: list[Callable[[Descriptor, _Content], None]] = [
            self._put_whole,
            self._patch_whole,
            self._patch_in_chunks,
        ]
        failures = 0
        while True:
            content = _Content(what, source, advance)
            rung = self._rung
            try:
                self._client.refresh(self._scope, _FRESH_S)
                rungs[rung](what, content)
            except (UploadRefusedError, RegistryError) as error:
                content.rewind()
                failures += 1
                tried = error.status == 0 or error.status in RETRIED
                if tried and not isinstance(error, UploadRefusedError):
                    # the source failed, or a small request that was sent often enough
                    raise
                self._check_source(what, source, error)
                if failures >= self._n_attempts + len(rungs):
                    raise
                self._next_rung(what, error, failures, rung + 1 if rung + 1 < len(rungs) else 0)
            except BaseException:
                content.rewind()
                raise
            else:
                return

    def _next_rung(
        self, what: Descriptor, error: RegistryError, failures: int, following: int
    ) -> None:
        """Stay for what passes by itself (a new token, a busy registry), else climb, or raise.

        `following`: the rung after the one that failed, 0 after the last.
        """
        passing = error.status == 401 or error.status in RETRIED
        # a connection that dies once is chance; a front that refuses big bodies does it always
        if passing or (error.status == 0 and failures < 2):
            if failures >= self._n_attempts:
                raise error
            self._observer(Notice(f"{error}; uploading {what.digest[:19]} again"))
            if error.status != 401:
                self._client.wait(failures, getattr(error, "retry_after", None), str(error))
            return
        if error.status not in _TRY_NEXT or not following:
            raise error
        with self._lock:
            # blobs fail side by side, and each must not climb for the others
            self._rung = max(self._rung, following)
        self._observer(Notice(f"{error}; trying another way to upload"))

    def _check_source(self, what: Descriptor, source: Source, error: RegistryError) -> None:
        """A refused digest is the source's fault if the source changed meanwhile."""
        if error.status != 400 or "DIGEST" not in str(error).upper():
            return
        with Verified(source.open(what), what) as reader:
            buffer = thread_buffer()
            while reader.readinto(buffer):
                pass

    # the rungs

    def _put_whole(self, what: Descriptor, content: _Content) -> None:
        self._finish(self._start(), what, content.body())

    def _patch_whole(self, what: Descriptor, content: _Content) -> None:
        answer = self._client.request(
            "PATCH",
            self._start(),
            scope=self._scope,
            headers={"Content-Type": "application/octet-stream"},
            body=content.body(),
            accept=(201, 202, 204),
            what=f"upload of {what.digest}",
        )
        self._finish(self._location(answer), what, None)

    def _patch_in_chunks(self, what: Descriptor, content: _Content) -> None:
        location, minimum = self._start_chunked()
        size = max(CHUNK_BYTES, minimum)
        for start in range(0, what.size, size):
            length = min(size, what.size - start)
            answer = self._client.request(
                "PATCH",
                location,
                scope=self._scope,
                headers={
                    "Content-Type": "application/octet-stream",
                    "Content-Range": f"{start}-{start + length - 1}",
                },
                body=content.body(start, length),
                accept=(201, 202, 204),
                what=f"upload of {what.digest}",
            )
            location = self._location(answer)
        self._finish(location, what, None)

    def _start(self) -> str:
        return self._start_chunked()[0]

    def _start_chunked(self) -> tuple[str, int]:
        answer = self._client.request(
            "POST",
            f"/v2/{self._repository}/blobs/uploads/",
            scope=self._scope,
            accept=(200, 201, 202),
            what=f"upload to {self._repository}",
        )
        minimum = answer.headers.get("oci-chunk-min-length", "")
        return self._location(answer), int(minimum) if minimum.isdigit() else 0

    def _finish(self, location: str, what: Descriptor, body: Body | None) -> None:
        join = "&" if "?" in location else "?"
        answer = self._client.request(
            "PUT",
            f"{location}{join}digest={quote(what.digest)}",
            scope=self._scope,
            headers={"Content-Type": "application/octet-stream"},
            body=body,
            accept=(201, 202, 204),
            what=f"upload of {what.digest}",
        )
        answer.close()
        stored = answer.headers.get("docker-content-digest", what.digest)
        if stored != what.digest:
            raise IntegrityError(f"{what.digest} was stored as {stored[:100]}")

    def _location(self, answer: Answer) -> str:
        answer.close()
        location = answer.headers.get("location", "")
        if not location:
            raise RegistryError(f"{place(answer.url)} began an upload and did not say where")
        target = urljoin(answer.url, location)
        if answer.url.startswith("https:") and not target.startswith("https:"):
            raise RegistryError(
                f"{place(answer.url)} wants the upload over plain HTTP, at {place(target)}",
                hint="the registry stands behind a proxy that does not tell it about TLS",
            )
        return target

    def _cancel(self, location: str) -> None:
        try:
            self._client.request(
                "DELETE", location, scope=self._scope, accept=range(200, 500)
            ).close()
        except (RegistryError, AuthenticationError, NotFoundError):
            # it will time out by itself; a token for pushing often cannot delete
            return


class _Content:
    """A blob's bytes for one attempt, with its progress taken back if the attempt fails."""

    def __init__(self, what: Descriptor, source: Source, advance: Advance) -> None:
        self._what = what
        self._source = source
        self._advance = advance
        self._n_sent = 0

    def body(self, start: int = 0, length: int | None = None) -> Body:
        n_bytes = self._what.size if length is None else length
        return Body(lambda: self._open(start, n_bytes), n_bytes, self._sent)

    def _open(self, start: int, n_bytes: int) -> Reader:
        reader = self._source.open(self._what, start, n_bytes)
        if self._source.trusted or (start, n_bytes) != (0, self._what.size):
            return reader
        # a registry checks the digest too; ours comes before the last bytes leave
        return Verified(reader, self._what)

    def _sent(self, n_bytes: int) -> None:
        self._n_sent += n_bytes
        self._advance(n_bytes)

    def rewind(self) -> None:
        if self._n_sent:
            self._advance(-self._n_sent)
        self._n_sent = 0
