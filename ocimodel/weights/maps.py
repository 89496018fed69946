"""The tensor map of a weights file: which reader it is for, and what is asked of every reader."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import PurePosixPath
from typing import Final

from ocimodel.errors import InputError, OcimodelError
from ocimodel.spec.paths import check_path
from ocimodel.spec.tensor import Tensor, TensorMap
from ocimodel.weights.cursor import ReadAt
from ocimodel.weights.magic import LFS_POINTER
from ocimodel.weights.metadata import bounded
from ocimodel.weights.reader import GROUP, Match, Reader

_HEAD: Final = 4096
_OURS: Final = "safetensors"


def read_tensor_map(read_at: ReadAt, size: int, name: str) -> TensorMap | None:
    """What the file of `size` bytes holds, or None when no reader knows its format.

    `name`: its path, for messages and for what it promises to be. Raises InputError, naming the
    file, when a format that is certain (by magic number or by name) is malformed or truncated, and
    when a reader fails.
    """
    reads = _Reads(read_at, size)
    try:
        for match, plugin, reader in _candidates(reads, name):
            if match is Match.CERTAIN and reads.head.startswith(LFS_POINTER):
                raise InputError(
                    "a Git LFS pointer stands where the weights should be", hint="run: git lfs pull"
                )
            try:
                found = _read(plugin, reader, reads, name)
            except InputError as error:
                if match is Match.CERTAIN or isinstance(error, _FailedError):
                    raise
                continue
            if found is not None:
                return found
    except InputError as error:
        raise InputError(f"{name}: {error}", hint=error.hint) from error
    return None


@cache
def readers() -> tuple[tuple[str, Reader], ...]:
    """The installed readers by name, in the order of their names; loaded when first asked for."""
    # some 50 ms to import, and nobody who reads no weights needs it
    from importlib.metadata import entry_points

    found: dict[str, Reader] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda e: (e.name, e.value)):
        if entry.name in found:
            raise InputError(f"two readers of weights are called {entry.name!r}")
        with _blaming(entry.name):
            found[entry.name] = entry.load()
    if _OURS not in found:
        raise OcimodelError(
            "this installation of ocimodel has no readers of weights",
            hint="its metadata is missing or old: install the package again",
        )
    return tuple(found.items())


class _FailedError(InputError):
    """A reader raised what it must not."""


class _Reads:
    """Ranged reads with the head at hand; remembers what failed in the reading itself."""

    def __init__(self, read_at: ReadAt, size: int) -> None:
        self._read_at = read_at
        self.size = size
        self.head = read_at(0, min(size, _HEAD))
        self.failure: BaseException | None = None

    def __call__(self, offset: int, length: int) -> bytes:
        if offset >= 0 and offset + length <= len(self.head):
            return self.head[offset : offset + length]
        try:
            return self._read_at(offset, length)
        except BaseException as error:
            self.failure = error
            raise


def _candidates(reads: _Reads, name: str) -> list[tuple[Match, str, Reader]]:
    """The readers that may know the format, those that are certain first."""
    found = []
    for plugin, reader in readers():
        with _blaming(plugin):
            match = Match(reader.recognises(reads.head, reads.size, name))
        if match is not Match.NO:
            found.append((match, plugin, reader))
    return sorted(found, key=lambda item: -item[0])


def _read(plugin: str, reader: Reader, reads: _Reads, name: str) -> TensorMap | None:
    with _blaming(plugin, reads):
        found = reader.read(reads, reads.size)
        if found is None:
            return None
        for tensor in found.tensors:
            _check(tensor, reads.size, name)
        ordered = sorted(found.tensors, key=lambda t: (t.file, t.offset, t.length, t.name))
        return TensorMap(str(found.format), bounded(found.metadata), tuple(ordered))


def _check(tensor: Tensor, size: int, name: str) -> None:
    tensor.name.encode(), tensor.dtype.encode()
    if tensor.file:
        check_path(tensor.file)
        if tensor.file == PurePosixPath(name).name:
            raise InputError(f"tensor {tensor.name[:200]!r} names its own file as external data")
    elif not 0 <= tensor.offset <= tensor.offset + tensor.length <= size:
        raise InputError(f"tensor {tensor.name[:200]!r} lies outside of the file's {size} bytes")


@contextmanager
def _blaming(plugin: str, reads: _Reads | None = None) -> Iterator[None]:
    """What a reader raises that it must not is an InputError with its name."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if reads is not None and error is reads.failure:
            raise
        raise _FailedError(
            f"the reader {plugin!r} failed: {type(error).__name__}: {error}",
            hint="it is a plugin of ocimodel: update or uninstall it",
        ) from error
