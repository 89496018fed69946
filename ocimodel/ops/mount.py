"""mount: a model as a read-only directory, before it is here."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ocimodel.errors import TargetError
from ocimodel.events import Observer, ignore
from ocimodel.lazy.completion import Completion
from ocimodel.lazy.fuse import MAX_READ_BYTES, Session
from ocimodel.lazy.model import LazyModel
from ocimodel.lazy.mountpoint import attach, check_directory, detach, read_ahead
from ocimodel.lazy.nodes import build_nodes
from ocimodel.lazy.recorder import Recorder
from ocimodel.ops.open import open as open_model
from ocimodel.registry.transport import ClientOptions
from ocimodel.spec.profile import Range
from ocimodel.spec.reference import parse_reference

# unmounted while files are open: so long they can still be read
GRACE_S: Final = 10.0
_STOP, _TELL, _ENDED = "stop", "tell", "ended"


@dataclass(frozen=True, slots=True)
class MountStats:
    """What a mount has done so far. `mode`: "lazy", or "whole" where blobs had to be fetched so.

    `bytes_cached`: read from the cache through us; the kernel may have read more by itself.
    `n_waited`: reads for which something had to be fetched. `bytes_completed` of `bytes_total`:
    what the cache has of the model.
    """

    reference: str
    digest: str
    directory: Path
    mode: str
    bytes_fetched: int
    bytes_cached: int
    n_requests: int
    n_waited: int
    bytes_completed: int
    bytes_total: int
    seconds: float


Tell = Callable[[MountStats], None]


def mount(
    reference: str,
    directory: Path | str,
    *,
    key: str = "",
    policy: Path | str | None = None,
    cache: Path | str | None = None,
    require_lazy: bool = False,
    complete: bool = True,
    order: Sequence[Range] = (),
    recorder: Recorder | None = None,
    ready_file: Path | str | None = None,
    on_ready: Tell = lambda stats: None,
    on_stats: Tell = lambda stats: None,
    client: ClientOptions | None = None,
    observer: Observer = ignore,
) -> MountStats:
    """Show an artifact at an empty directory until it is unmounted, or SIGTERM or SIGINT comes.

    `key`, `policy`, `require_lazy`: as for `open`. `cache`: a folder where chunks are kept; without
    it a temporary one. `complete`: fetch all of it in the background, so that the registry may go
    away; `order`: what of it first, an access profile. `recorder`: remembers what is read, for
    which every read has to come here, that of finished files too. `ready_file`: written once the
    files can be read, and removed in the end. `on_ready` is told of the same moment, `on_stats` of
    each SIGUSR1.
    Signals are heeded if this is called in the main thread. Raises the tree of ocimodel.errors.
    """
    place = Path(os.path.abspath(directory))  # noqa: PTH100 - what is there may be broken
    began = time.monotonic()
    check_directory(place, observer)
    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(_Signals())
        folder = Path(cache) if cache else stack.enter_context(_temporary_folder())
        model = stack.enter_context(
            open_model(
                reference,
                key=key,
                policy=policy,
                cache=folder,
                require_lazy=require_lazy,
                recorder=recorder,
                client=client,
                observer=observer,
            )
        )
        completion = Completion(model, order, observer=observer)
        stack.callback(completion.close)

        def stats() -> MountStats:
            name = str(parse_reference(reference))
            return _stats(name, place, model, completion, time.monotonic() - began)

        def finished(path: str) -> int | None:
            # before completion has proven it, that might take long
            may_ask = recorder is None and (completion.has_finished(path) or not complete)
            return model.open_finished(path) if may_ask else None

        with _mounted(model, completion, finished, place, observer) as session:
            threading.Thread(target=signals.end_with, args=(session.ended,), daemon=True).start()
            if complete:
                completion.start()
            with _announced(ready_file, stats()):
                on_ready(stats())
                while (said := signals.wait()) == _TELL:
                    on_stats(stats())
            if said == _STOP:
                detach(place)
                signals.wait(GRACE_S)
        return stats()


class _Signals:
    """What the process is told while it mounts, one word after the other. For a `with` statement.

    A pipe, into which the interpreter writes the number of each signal at once. A handler in Python
    would only run when the main thread gets to it, and that may be about to wait in here.
    """

    _WORDS: Final = {
        signal.SIGTERM: _STOP,
        signal.SIGINT: _STOP,
        signal.SIGUSR1: _TELL,
        0: _ENDED,
    }

    def __enter__(self) -> _Signals:
        self._out, self._in = os.pipe()
        os.set_blocking(self._in, False)
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            self._fd_before = signal.set_wakeup_fd(self._in, warn_on_full_buffer=False)
            for number in filter(None, self._WORDS):
                self._before[number] = signal.signal(number, lambda *_: None)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._before:
            signal.set_wakeup_fd(self._fd_before)
        # the pipe stays: a thread may still say that the session has ended

    def wait(self, timeout_s: float | None = None) -> str:
        """The next word; after `timeout_s` an empty one."""
        while select.select([self._out], [], [], timeout_s)[0]:
            # others of this process may have handlers for other signals
            if word := self._WORDS.get(os.read(self._out, 1)[0]):
                return word
        return ""

    def end_with(self, ended: threading.Event) -> None:
        ended.wait()
        os.write(self._in, bytes([0]))


@contextlib.contextmanager
def _mounted(
    model: LazyModel,
    completion: Completion,
    finished: Callable[[str], int | None],
    directory: Path,
    observer: Observer,
) -> Iterator[Session]:
    """The model at the directory, answering."""
    session = Session(
        attach(directory, f"ocimodel@{model.digest}"),
        build_nodes(model),
        touch=completion.touch,
        finished=finished,
        observer=observer,
    )
    session.start()
    try:
        session.ready.wait()
        read_ahead(directory, MAX_READ_BYTES)
        yield session
    finally:
        if not session.ended.is_set():
            detach(directory)


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    folder = tempfile.mkdtemp(prefix="ocimodel-mount-")
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _announced(path: Path | str | None, stats: MountStats) -> Iterator[None]:
    """A file that says, all at once, that the mount is there."""
    if path is None:
        yield
        return
    final = Path(path)
    part = final.with_name(f".{final.name}.{os.getpid()}")
    content = {
        "pid": os.getpid(),
        "reference": stats.reference,
        "digest": stats.digest,
        "directory": str(stats.directory),
        "mode": stats.mode,
    }
    try:
        part.write_text(json.dumps(content) + "\n")
        part.replace(final)
    except OSError as error:
        raise TargetError(f"cannot write {final}: {error.strerror}") from error
    try:
        yield
    finally:
        final.unlink(missing_ok=True)


def _stats(
    name: str, place: Path, model: LazyModel, completion: Completion, seconds: float
) -> MountStats:
    traffic, progress = model.traffic, completion.progress
    return MountStats(
        reference=name,
        digest=model.digest,
        directory=place,
        mode=model.mode,
        bytes_fetched=traffic.n_fetched,
        bytes_cached=traffic.n_cached,
        n_requests=traffic.n_requests,
        n_waited=traffic.n_waited,
        bytes_completed=progress.n_done,
        bytes_total=progress.n_total,
        seconds=seconds,
    )
