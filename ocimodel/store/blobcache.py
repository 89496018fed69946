"""Finished blobs on this machine, shared by pulls: `DIR/blobs/sha256/<hex>`.

A cached blob may be a hard link to a file in a model directory, which someone can write to. So a
blob is believed only as far as the memo goes, and else hashed again before use.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from ocimodel.spec.descriptor import Descriptor
from ocimodel.spec.modelpack import REGULAR, content_key
from ocimodel.store.files import place
from ocimodel.store.growing import target_error
from ocimodel.store.memo import Memo
from ocimodel.store.presence import file_joins


class BlobCache:
    """`root` is made when the first blob comes in."""

    def __init__(self, root: Path, memo: Memo) -> None:
        self._root = root
        self._memo = memo

    def path(self, layers: Sequence[Descriptor]) -> Path:
        algorithm, _, value = content_key(layers).partition(":")
        return self._root / "blobs" / algorithm / value

    def take(self, layers: Sequence[Descriptor], final: Path, mode: int) -> bool:
        """Place what `layers` join to at `final` by reflink, hard link or copy; False if absent."""
        cached = self.path(layers)
        if not cached.exists():
            return False
        if not file_joins(cached, layers, self._memo):
            # someone wrote to it through a hard link; a read-only cache keeps it
            with contextlib.suppress(OSError):
                cached.unlink()
            return False
        try:
            place(cached, final, mode, link=True)
        except OSError as error:
            raise target_error(error, final) from error
        self._note(cached, layers)
        return True

    def add(self, layers: Sequence[Descriptor], origin: Path) -> None:
        """Keep a finished, verified file too."""
        cached = self.path(layers)
        if cached.exists():
            return
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            place(origin, cached, REGULAR, link=True)
        except OSError as error:
            raise target_error(error, cached) from error
        self._note(cached, layers)
        self._note(origin, layers)

    def _note(self, path: Path, layers: Sequence[Descriptor]) -> None:
        # a new hard link changes the ctime, and with it what the memo goes by
        self._memo.note(path.stat(), content_key(layers))
